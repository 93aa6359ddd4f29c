"""The commands of a report give its files and measurements again: every option that decided them, no other."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest

from ggufkit.cli.build import build_command
from ggufkit.core.manifest import SCHEMA, read_manifest, write_manifest
from ggufkit.core.records import Json, Manifest
from ggufkit.report import reproduce, results
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.data import load_entries
from ggufkit.report.markdown import render_markdown
from ggufkit.report.reproduce import DEFAULTS
from ggufkit.report.summary import Summary, summarize
from tests.fake_results import Fake, write_results

CALIBRATED: dict[str, Json] = {
    "calibration_source": "mine.txt", "calibration_text_sha256": "c" * 64, "calibration_samples": 64,
    "calibration_sample_tokens": 512, "calibration_seed": 7,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("private_cache")


def edit(path: Path, **changes: dict[str, Json]) -> None:
    made = read_manifest(path)
    assert made is not None
    write_manifest(path, Manifest(**{**vars(made), **{k: {**getattr(made, k), **v} for k, v in changes.items()}}))


def note(path: Path, step: str, digest: str, **more: object) -> None:
    made = Manifest(SCHEMA, step, 1, {}, {}, "0c1e570", [], {"sha256": digest}, "2026-01-01T00:00:00+00:00", 1.0)
    write_manifest(path, replace(made, **more))  # type: ignore[arg-type]


def summary(root: Path) -> Summary:
    return summarize(load_entries(results.collect(root), root), MemoryBudget())


def commands(root: Path) -> list[str]:
    return [line for line in summary(root).command.splitlines() if not line.startswith("#")]


def measured(root: Path, *stems: str, **params: Json) -> None:
    for stem in stems:
        edit(root / ".ggufkit" / "measurements" / f"{stem}.json", params=params)


BASE = Fake("plain", "F16", None)


def test_options_are_those_of_the_build() -> None:
    options = {name: p for p in build_command.params for name in [*p.opts, *p.secondary_opts]}
    words = ("all", "auto")
    for name, default in DEFAULTS.items():
        option = options[name]
        assert isinstance(option, click.Option)
        given = option.get_default(click.Context(build_command))
        given = given[0] if isinstance(given, tuple) and given else given
        if option.is_flag:
            given = given is not None and bool(given) != (name in option.secondary_opts)
        known = given if isinstance(given, (int, str)) and given not in words else None
        assert known == default, name


def test_defaults_are_left_out(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", [BASE, Fake("plain", "Q4_0", 0.03)])
    edit(root / "tiny-F16.gguf", notes={"source": "acme/tiny", "revision": "c" * 40})
    for stem in ("tiny-F16.perplexity", "tiny-Q4_0.divergence"):
        edit(root / ".ggufkit" / "measurements" / f"{stem}.json", params={"n_chunks": None, "n_ctx": 512},
             notes={"corpus": "wikitext2"})  # fmt: skip
    assert commands(root) == [f"ggufkit build acme/tiny@{'c' * 40} --types q4_0"]


def test_what_differs_from_the_defaults_is_printed(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", [BASE, Fake("plain", "Q4_0", 0.03)])
    edit(root / "tiny-F16.gguf", notes={"source": "/home/me/my tiny + my-lora"}, params={"pre": "qwen2"})
    measured(root, "tiny-Q4_0.divergence", n_ctx=256, precision=0.02, n_chunks=None, ngl=3)
    measured(root, "tiny-Q4_0.bench", repetitions=9, ngl=3)
    assert commands(root) == [
        "ggufkit build 'my tiny' --types q4_0 --lora my-lora --pre qwen2 --corpus tales.txt --ctx 256 --precision 2% "
        "--bench-reps 9 --ngl 3"
    ]
    assert f"# tales.txt: sha256 {'ab' * 32}" in summary(root).command
    assert "/home" not in render_markdown(summary(root))


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"allow_losses": True}, "--allow-losses"),
        ({"allow_token_mismatch": True, "token_mismatches": 3}, "--allow-token-mismatch"),
        ({"check_function": False}, "--no-check-function"),
        ({"check_function": True}, "--check-function"),
        ({"mmproj": "q8_0"}, "--mmproj q8_0"),
        ({"logit_difference": 0.001}, ""),
    ],
)
def test_what_a_conversion_was_allowed_is_printed(tmp_path: Path, notes: dict[str, Json], words: str) -> None:
    root = write_results(tmp_path / "out", [BASE, Fake("plain", "Q4_0", 0.03)])
    edit(root / "tiny-F16.gguf", notes=notes)
    told = commands(root)[0].replace(" --corpus tales.txt --chunks 60", "")
    assert told.removeprefix("ggufkit build tiny --types q4_0").strip() == words


def test_types_of_single_tensors_are_printed(tmp_path: Path) -> None:
    root = write_results(
        tmp_path / "out",
        [BASE, Fake("plain", "Q4_0", 0.03), Fake("plain", "Q5_0", 0.02), Fake("plain", "BF16", 0.0)],
    )
    told: dict[str, Json] = {
        "tensor_types": [["attn_v", "Q8_0"], [r"blk\.\d", "IQ4_XS"]], "output": "F16", "pure": True, "kv": ["a.b=str:c d"],
        "prune_layers": [1, 3],
    }  # fmt: skip
    for kind in ("Q4_0", "Q5_0", "BF16"):
        edit(root / f"tiny-{kind}.gguf", params={"type": kind, **({} if kind == "BF16" else {"overrides": told})})
    (command,) = (re.sub(r" --corpus tales.txt --chunks 60", "", line) for line in commands(root))
    assert command.split(" --types ")[1] == (
        "bf16,q5_0,q4_0 --tensor-type attn_v=q8_0 --tensor-type 'blk\\.\\d=iq4_xs' --output-tensor-type f16 --pure "
        "--override-kv 'a.b=str:c d' --prune-layers 1,3"
    )
    edit(root / "tiny-Q5_0.gguf", params={"overrides": {**told, "pure": False}})
    assert len(commands(root)) == 2


def test_what_was_not_measured(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", [BASE, Fake("plain", "Q4_0", None, tg=None)])
    assert "--no-kld --no-bench" in commands(root)[0]
    for file in (root / ".ggufkit" / "measurements").iterdir():
        file.unlink()
    assert commands(root) == ["ggufkit build tiny --types q4_0 --no-eval --no-bench"]


def test_a_type_is_named_as_it_is_typed(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", [BASE, Fake("plain", "Q4_0", 0.03)])
    edit(root / "tiny-Q4_0.gguf", notes={"type": "recipe-a_b-12345678", "target": "recipe:a b.yaml"})
    assert "--types 'recipe:a b.yaml' " in commands(root)[0]


def test_how_types_were_measured(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", [BASE, Fake("plain", "Q4_0", 0.03)])
    edit(root / "tiny-Q4_0.gguf", notes={"type": "like-Q4_0", "target": "like:q4_0"})
    note(root / "tiny-Q4_0.gguf.recipe.yaml", "recipe", "d" * 64, inputs={"calibration": "c" * 64},
         params={"effort": "quick", "types_allowed": ["Q4_K", "Q6_K"]},
         notes={"calibration_source": "mine.txt"})  # fmt: skip
    assert commands(root) == [
        "ggufkit build tiny --types like:q4_0 --effort quick --types-allowed q4_k,q6_k --calibration mine.txt "
        "--corpus tales.txt --chunks 60"
    ]
    assert f"# mine.txt: sha256 {'c' * 64}" in summary(root).command
    assert ("Types of tensors from", f"mine.txt, sha256 {'c' * 16}…") in summary(root).facts


def test_a_base_alone_is_asked_for(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", [BASE])
    assert commands(root) == ["ggufkit build tiny --types f16 --corpus tales.txt --chunks 60"]


def test_a_command_for_each_group_of_variants_with_the_same_types(tmp_path: Path) -> None:
    """Together they would be asked for files that are not there, among them plain IQ2_XS, which is refused."""
    fakes = [BASE, Fake("plain", "Q4_0", 0.03), Fake("imatrix", "Q4_0", 0.02), Fake("imatrix", "IQ2_XS", 0.5),
             Fake("gptq", "Q4_0", 0.01), Fake("awq", "F16", 0.001), Fake("awq", "Q4_0", 0.02)]  # fmt: skip
    root = write_results(tmp_path / "out", fakes)
    asked = [re.sub(r" --corpus.*", "", line) for line in commands(root)]
    # F16 is the base for plain, and no type of gptq: asked for once more, it changes neither.
    assert asked == [
        "ggufkit build tiny --types q4_0,f16 --variants plain,awq,gptq",
        "ggufkit build tiny --types q4_0,iq2_xs --variants imatrix",
    ]


def test_files_of_other_options_are_made_by_another_command(tmp_path: Path) -> None:
    fakes = [BASE, Fake("plain", "Q4_0", 0.03), Fake("plain", "Q5_0", 0.02, tg=None)]
    root = write_results(tmp_path / "out", fakes)
    first, second = (re.sub(r" --corpus tales.txt --chunks 60", "", line) for line in commands(root))
    assert first.endswith("--types q5_0 --no-bench")
    assert second.endswith("--types q4_0")


def imatrix_results(root: Path) -> Path:
    """A file from a computed importance matrix, and one from the user's own."""
    write_results(root, [BASE, Fake("plain", "Q4_0", 0.03), Fake("imatrix", "Q5_0", 0.02)])
    file = root / "tiny-imatrix-Q5_0.gguf"
    made = read_manifest(file)
    assert made is not None
    argv = [["/x/llama-quantize", "--imatrix", "/home/me/own.imatrix", "in", "out", "Q5_0"]]
    write_manifest(file, replace(made, inputs={**made.inputs, "imatrix": "d" * 64}, argv=argv))
    return root


def test_an_own_importance_matrix_is_named(tmp_path: Path) -> None:
    root = imatrix_results(tmp_path / "out")
    assert "--types q5_0 --variants imatrix --imatrix own.imatrix" in commands(root)[1]
    assert f"# own.imatrix: sha256 {'d' * 64}" in summary(root).command
    assert dict(summary(root).facts)["Importance matrix"].startswith("own.imatrix, sha256 dddd")
    assert "/home" not in render_markdown(summary(root))


def test_a_file_by_a_recipe_is_told_by_it(tmp_path: Path) -> None:
    """llama-quantize's own command names the type of each tensor."""
    root = write_results(tmp_path / "out", [BASE, Fake("imatrix", "Q4_0", 0.03)])
    file, types = root / "tiny-imatrix-Q4_0.gguf", ["--tensor-type", "^a$=q4_0", "--tensor-type", "^b$=q8_0"]
    options = ["--imatrix", "/home/me/own.imatrix", *types, "--override-kv", "a=int:1"]
    argv = ["/x/llama-quantize", *options, "/y/tiny-F16.gguf", f"{file}.ggufkit.partial", "Q4_0", "2"]
    made = read_manifest(file)
    assert made is not None
    write_manifest(file, replace(made, params={**made.params, "recipe": "ab" * 32}, argv=[argv]))
    assert "--tensor-type '^b$=q8_0'" in render_markdown(summary(root))
    (root / f"{file.name}.recipe.yaml").write_text("version: 1\ntensors: {a: Q4_0, b: Q8_0}\n")
    said = f"ggufkit quantize tiny-F16.gguf --recipe {file.name}.recipe.yaml --imatrix own.imatrix --override-kv a=int:1"
    assert said in render_markdown(summary(root))
    assert "--tensor-type" not in render_markdown(summary(root))


def test_a_computed_importance_matrix_is_told_with_its_text(tmp_path: Path) -> None:
    root = imatrix_results(tmp_path / "out")
    argv = [
        [
            "/x/llama-imatrix",
            "-m",
            "/y/tiny-F16.gguf",
            "-o",
            "/y/tiny-F16.imatrix.ggufkit.partial",
            "-f",
            "mine.txt",
        ]
    ]
    note(root / ".ggufkit" / "tiny-F16.imatrix", "imatrix", "d" * 64, argv=argv,
         inputs={"calibration": "c" * 64}, params={"n_chunks": 64, "n_ctx": 512, "text": "mine.txt"})  # fmt: skip
    assert "--variants imatrix --calibration mine.txt --calibration-samples 64 --corpus" in commands(root)[1]
    text = render_markdown(summary(root))
    assert "llama-imatrix -m tiny-F16.gguf -o tiny-F16.imatrix -f mine.txt" in text
    assert (
        "- Importance matrix from: mine.txt, sha256 cccccccccccccccc…, its first 64 chunks of 512 tokens" in text
    )
    assert f"# mine.txt: sha256 {'c' * 64}" in text
    note(root / ".ggufkit" / "tiny-F16.imatrix", "imatrix", "d" * 64, argv=argv, inputs={"calibration": "c" * 64},
         params={"n_chunks": 64, "n_ctx": 512, "text": "mine.txt", "process_output": True})  # fmt: skip
    assert "--calibration-samples 64 --process-output --corpus" in commands(root)[1]


def test_awq_and_gptq_are_told_with_all_that_ran(tmp_path: Path) -> None:
    fakes = [BASE, Fake("awq", "Q4_0", 0.02), Fake("gptq", "Q4_0", 0.01)]
    root = write_results(tmp_path / "out", fakes)
    private_dir = root / ".ggufkit"
    search: dict[str, Json] = {"engine": "native", "objective": "autoawq", "dtype": "float32"}
    note(private_dir / "awq", "awq", "e" * 64, params=search, notes={"label": "awq", **CALIBRATED})
    argv = [
        [
            "/x/python3",
            "-m",
            "ggufkit.llama.launcher",
            "/s",
            "/y/.ggufkit/awq",
            "--outfile",
            "/y/tiny-awq-F16.gguf",
        ]
    ]
    note(private_dir / "tiny-awq-F16.gguf", "convert", "f" * 64, argv=argv, notes={"variant": "awq", "source": "acme/tiny"},
         params={"out_type": "f16", "name": "tiny"})  # fmt: skip
    edit(root / "tiny-awq-Q4_0.gguf", inputs={"base": "f" * 64})
    made = read_manifest(root / "tiny-gptq-Q4_0.gguf")
    assert made is not None
    notes = {**made.notes, **CALIBRATED, "calibration_samples": 32}
    how: dict[str, Json] = {"sequential": True, "tune_norms": True}
    write_manifest(root / "tiny-gptq-Q4_0.gguf", replace(made, step="refine", argv=[], notes=notes, params=how))
    awq, gptq = commands(root)
    assert (
        "--calibration mine.txt --calibration-samples 64 --seed 7 --awq-objective autoawq --awq-dtype float32"
        in awq
    )
    assert "--variants gptq --calibration mine.txt --calibration-samples 32 --seed 7 --corpus" in gptq
    text = render_markdown(summary(root))
    assert "- AWQ scales from: mine.txt, sha256 cccccccccccccccc…, 64 samples of 512 tokens, seed 7" in text
    assert "- GPTQ from: mine.txt, sha256 cccccccccccccccc…, 32 samples of 512 tokens, seed 7" in text
    ran = text.partition("Every command that ran")[2]
    awq_ran = ran.index("# AWQ scales: awq, native engine, mine.txt, 64 samples of 512 tokens, seed 7")
    converted = ran.index("python convert_hf_to_gguf.py awq --outfile tiny-awq-F16.gguf")
    assert awq_ran < converted < ran.index("tiny-awq-Q4_0.gguf Q4_0 2")
    assert "# GPTQ: tiny-gptq-Q4_0.gguf, tune_norms True, mine.txt, 32 samples of 512 tokens, seed 7" in ran
    assert "- Text: tales.txt, sha256 abab" in text


def test_names_are_words_of_one_line(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", [BASE, Fake("plain", "Q4_0", 0.03)])
    for stem in ("tiny-Q4_0.divergence", "tiny-F16.perplexity"):
        edit(root / ".ggufkit" / "measurements" / f"{stem}.json", notes={"corpus": "a\nrm -rf $HOME```.txt"})
    text = summary(root).command
    assert "a\nrm -rf $HOME```.txt" in shlex.split(text, comments=True)
    assert "rm" not in [line.split()[0] for line in text.splitlines() if line.startswith("#")]
    shown = render_markdown(summary(root))
    assert f"\n````sh\n{text}\n````\n" in shown
    assert shown.replace(text, "").count("```") == 6


def test_files_of_somebody_elses_are_measured_with_the_same_caches() -> None:
    told = SimpleNamespace(options={"--corpus": ["wikitext2", "code"], "--ctx": "512,4096", "--kv-types": "q8_0"})
    base, file = (
        SimpleNamespace(guest=name, is_base=name == "b.gguf", settings=told) for name in ("b.gguf", "f.gguf")
    )
    said = reproduce._comparison(cast(Any, [file, base]), None)
    assert said.startswith("ggufkit compare b.gguf f.gguf ")
    assert said.endswith("--corpus wikitext2 --corpus code --ctx 512,4096 --kv-types q8_0")
