"""`template`, `system` and `params` of a repository: what its Modelfiles say, if they agree, and are proven to say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import InputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import SCHEMA, write_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Json, Manifest
from ggufkit.modelfile.grammar import Modelfile
from ggufkit.modelfile.proven import ModelfileOptions, ProvenModelfile
from ggufkit.publish import chat
from ggufkit.publish.chat import Chat, chat_files
from tests.fake_results import Fake, write_results
from tests.templates.catalog import meta

CHATML = str(meta("chatml").chat_template)
TYPES = ("Q8_0", "Q4_0")


@pytest.fixture
def root(tmp_path: Path, private_cache: Path) -> Path:
    return write_results(tmp_path / "out", [Fake("plain", kind, 0.01) for kind in TYPES], template=CHATML)


def of(root: Path, modelfiles: Mapping[str, str]) -> Chat:
    """What a repository says whose files have these Modelfiles."""
    for kind, text in modelfiles.items():
        (root / f"Modelfile.{kind}").write_text(f"FROM ./tiny-{kind}.gguf\n{text}")
    ggufs = {root / f"Modelfile.{kind}": root / f"tiny-{kind}.gguf" for kind in modelfiles}
    return chat_files(ggufs, SilentReporter())


def as_made(root: Path, kind: str, text: str) -> None:
    """A Modelfile as a build leaves it, with its proof."""
    file, gguf = root / f"Modelfile.{kind}", root / f"tiny-{kind}.gguf"
    file.write_text(f"FROM ./{gguf.name}\n{text}")
    notes: dict[str, Json] = {
        "kind": "go",
        "why": "Go template: 545 prompts identical.",
        "prompt": "<|im_start|>user\n{prompt}",
    }
    output: dict[str, Json] = {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
    when = "2026-01-01T00:00:00+00:00"
    inputs = {"gguf": sha256_file(gguf)}
    write_manifest(file, Manifest(SCHEMA, "modelfile", 1, inputs, {}, "c", [], output, when, 1.0, notes))


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[ModelfileOptions]:
    """What was asked to be proven, which takes a process; templates with "wrong" in them are not."""
    asked: list[ModelfileOptions] = []

    def make(_gguf: Path, base: str, options: ModelfileOptions, _tools: None) -> ProvenModelfile:
        asked.append(options)
        if "wrong" in (options.template or ""):
            raise InputError("The prompts differ for this conversation (0 tools):", details=["…"])
        text = options.template or "{{ .Learned }}"
        modelfile = Modelfile(base, text, parameters=(("stop", "<|im_end|>"), ("num_ctx", 9)))
        return ProvenModelfile(modelfile, "go", "Go template: proven now.", "{prompt}")

    monkeypatch.setattr(chat, "make_modelfile", make)
    return asked


TEXT = (
    'TEMPLATE """{{ .Messages }} …\n"""\nSYSTEM "Be brief."\nPARAMETER num_ctx 2048\nPARAMETER temperature 0.7\n'
    + ('PARAMETER stop "<|im_end|>"\nPARAMETER stop 5\nPARAMETER seed 42\n')
)


def test_a_proven_modelfile_is_carried_over(root: Path) -> None:
    for kind in TYPES:
        as_made(root, kind, TEXT)
    ggufs = {root / f"Modelfile.{kind}": root / f"tiny-{kind}.gguf" for kind in TYPES}
    made = chat_files(ggufs, SilentReporter())
    assert made.left_out == ()
    assert made.files["template"] == "{{ .Messages }} …\n".encode()
    assert made.files["system"] == b"Be brief."
    params: dict[str, Any] = json.loads(made.files["params"])
    assert params == {"num_ctx": 2048, "temperature": 0.7, "stop": ["<|im_end|>", "5"], "seed": 42}
    assert isinstance(params["num_ctx"], int)
    assert (made.why, made.prompt) == ("Go template: 545 prompts identical.", "<|im_start|>user\n{prompt}")


def test_what_nothing_is_said_in_is_not_there(root: Path, proofs: list[ModelfileOptions]) -> None:
    assert of(root, {}) == Chat()
    assert of(root, {"Q4_0": "TEMPLATE {{ .Prompt }}\n"}).files.keys() == {"template"}
    assert of(root, {"Q4_0": 'SYSTEM ""\nPARAMETER top_k 5\n'}).files.keys() == {"template", "params"}


def test_a_modelfile_that_was_changed_is_proven_again(root: Path, proofs: list[ModelfileOptions]) -> None:
    as_made(root, "Q4_0", "TEMPLATE x\n")
    assert of(root, {"Q4_0": "TEMPLATE mine\n"}).files["template"] == b"mine"
    assert [(p.kind, p.template) for p in proofs] == [("go", "mine")]


def test_a_modelfile_for_another_file_is_proven_again(root: Path, proofs: list[ModelfileOptions]) -> None:
    as_made(root, "Q4_0", "TEMPLATE x\n")
    with (root / "tiny-Q4_0.gguf").open("ab") as file:
        file.write(bytes(32))
    ggufs = {root / "Modelfile.Q4_0": root / "tiny-Q4_0.gguf"}
    assert chat_files(ggufs, SilentReporter()).why == "Go template: proven now."
    assert len(proofs) == 1


def test_a_template_that_is_not_proven_stays_here(root: Path, proofs: list[ModelfileOptions]) -> None:
    made = of(root, {"Q4_0": "TEMPLATE wrong\nPARAMETER top_k 5\n"})
    assert made.files.keys() == {"params"}
    assert made.left_out == (
        ("template", "that of Modelfile.Q4_0 is not proven: The prompts differ for this conversation (0 tools)"),
    )
    assert (made.why, made.prompt) == ("", "")


def test_a_go_template_takes_the_place_of_the_ggufs_own(root: Path, proofs: list[ModelfileOptions]) -> None:
    """A Modelfile for new versions of Ollama has none; what ends an answer comes with it, what the memory bounds not."""
    made = of(root, {"Q4_0": "REQUIRES 0.30.0\nPARAMETER stop x\n"})
    assert made.files["template"] == b"{{ .Learned }}"
    assert json.loads(made.files["params"]) == {"stop": ["x", "<|im_end|>"]}


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("TEMPLATE a\n", "TEMPLATE b\n", "TEMPLATE"),
        ("SYSTEM a\n", "", "SYSTEM"),
        ("PARAMETER num_ctx 5\n", "PARAMETER num_ctx 6\n", "PARAMETER num_ctx (5 and 6)"),
        ("PARAMETER stop a\nPARAMETER stop b\n", "PARAMETER stop a\n", 'PARAMETER stop (["a", "b"] and ["a"])'),
        ("", "PARAMETER seed 5\n", "PARAMETER seed (null and 5)"),
    ],
)
def test_modelfiles_must_agree(one: str, other: str, said: str, root: Path) -> None:
    made = of(root, {"Q4_0": one, "Q8_0": other})
    assert made.files == {}
    [(name, reason)] = made.left_out
    assert name == "template, system, params"
    assert f"Modelfile.Q4_0 and Modelfile.Q8_0 differ in {said}" in reason


def test_a_template_beside_none_is_no_difference(root: Path, proofs: list[ModelfileOptions]) -> None:
    as_made(root, "Q8_0", "TEMPLATE x\n")
    assert of(root, {"Q4_0": "REQUIRES 0.30.0\n", "Q8_0": "TEMPLATE x\n"}).files["template"] == b"x"


def test_files_of_other_chats_have_no_template_in_common(root: Path) -> None:
    write_results(root.parent / "other", [Fake("plain", "Q4_0", 0.01)], template=CHATML + "\n")
    (root.parent / "other" / "tiny-Q4_0.gguf").replace(root / "tiny-Q4_0.gguf")
    made = of(root, {"Q4_0": "", "Q8_0": ""})
    assert "different chat templates" in made.left_out[0][1]


def test_what_a_repository_has_no_file_for_is_said(root: Path, proofs: list[ModelfileOptions]) -> None:
    made = of(root, {"Q4_0": "MESSAGE user hello\nMESSAGE assistant hi\nLICENSE mit\n"})
    assert made.left_out == (("MESSAGE", "Modelfile.Q4_0 has it, and a repository has no file for it"),)


def test_a_model_without_chat_template_has_nothing_to_prove(tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "out", [Fake("plain", "Q4_0", 0.01)])
    assert of(root, {"Q4_0": "TEMPLATE {{ .Prompt }}\n"}).files == {"template": b"{{ .Prompt }}"}
    assert of(root, {"Q4_0": ""}) == Chat()
    made = of(root, {"Q4_0": "TEMPLATE {{ .System }}{{ .Prompt }}\n"})
    assert made.files == {}
    assert "has no chat template" in made.left_out[0][1]
