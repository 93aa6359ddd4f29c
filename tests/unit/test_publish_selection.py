"""Which files go up: by name, with what belongs to them, in parts; and a look writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit import publish
from ggufkit.cli import publish as cli_publish
from ggufkit.cli.publish import publish_command
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.manifest import read_manifest, write_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.hub import huggingface
from ggufkit.hub.listing import Listing, RemoteFile, Repo, RepoAbsent, git_sha1
from ggufkit.publish import Selection, Wanted
from ggufkit.report import front_matter
from tests.fake_results import FAKES, split, write_results


@pytest.fixture
def root(tmp_path: Path, private_cache: Path) -> Path:
    """Four files with a card of the user's, which takes no time; Q4_0 has a Modelfile and a recipe."""
    root = write_results(tmp_path / "out", FAKES[:4])
    (root / "README.md").write_text("mine")
    (root / "Modelfile.Q4_0").write_text("FROM ./tiny-Q4_0.gguf\n")
    (root / "tiny-Q4_0.gguf.recipe.yaml").write_text("version: 1\nfile_type: Q4_0\ntensors: {}\n")
    return root


@pytest.fixture(autouse=True)
def remote(monkeypatch: pytest.MonkeyPatch) -> dict[str, RemoteFile]:
    """What the repository holds."""
    files: dict[str, RemoteFile] = {}

    def list_files(_: Repo) -> Listing:
        if not files:
            raise RepoAbsent("there is none")
        return Listing("c" * 40, tuple(files.values()))

    monkeypatch.setattr(huggingface, "list_files", list_files)
    return files


def names(root: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> set[str]:
    wanted = Wanted(Selection(tuple(include), tuple(exclude)))
    parcel = publish.pack(root, "me/x", wanted, look_only=True)
    return {upload.path.name for upload in parcel.uploads}


OF_Q4_0 = {"tiny-Q4_0.gguf", "Modelfile.Q4_0", "tiny-Q4_0.gguf.recipe.yaml"}
OTHERS = {"tiny-F16.gguf", "tiny-Q8_0.gguf", "tiny-Q5_0.gguf"}


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], {*OF_Q4_0, *OTHERS, "README.md"}),
        (["*Q4_0*"], [], {*OF_Q4_0, "README.md"}),
        (["*q4_0*", "*-Q8_0.gguf"], [], {*OF_Q4_0, "tiny-Q8_0.gguf", "README.md"}),
        ([], ["*F16*"], {*OF_Q4_0, *OTHERS, "README.md"} - {"tiny-F16.gguf"}),
        ([], ["tiny-Q4_0.gguf"], {*OTHERS, "README.md"}),
        (["*Q4_0*"], ["*.yaml", "README.md"], {"tiny-Q4_0.gguf", "Modelfile.Q4_0"}),
        (["*Q?_0*"], ["*Q8*", "*Q5*"], {*OF_Q4_0, "README.md"}),
        (["README.md"], [], {"README.md"}),
    ],
)
def test_files_are_chosen_by_name(include: list[str], exclude: list[str], expected: set[str], root: Path) -> None:
    assert names(root, include=include, exclude=exclude) == expected


@pytest.mark.parametrize("patterns", [{"include": ["*Q9*"]}, {"exclude": ["*Q4_0*", "report.htm"]}])
def test_a_pattern_that_fits_nothing_is_refused(patterns: dict[str, list[str]], root: Path) -> None:
    with pytest.raises(UsageError, match="fits no file") as refused:
        names(root, **patterns)
    assert "tiny-Q4_0.gguf" in str(refused.value.hint)


def test_parts_go_up_in_place_of_their_file(root: Path) -> None:
    parts = {file.name for file in split(root / "tiny-Q8_0.gguf", 2)}
    assert names(root) == {*OF_Q4_0, *OTHERS, "README.md", *parts} - {"tiny-Q8_0.gguf"}
    assert names(root, include=["tiny-Q8_0.gguf"]) == {*parts, "README.md"}
    assert names(root, exclude=["tiny-Q8_0-00001*"]) == {*OF_Q4_0, *OTHERS, "README.md"} - {"tiny-Q8_0.gguf"}


def test_a_modelfile_does_not_go_with_parts(root: Path) -> None:
    split(root / "tiny-Q4_0.gguf", 2)
    parcel = publish.pack(root, "me/x", look_only=True)
    assert "Modelfile.Q4_0" not in {u.path.name for u in parcel.uploads}
    assert "Ollama reads none" in dict(parcel.left_out)["Modelfile.Q4_0"]


def test_parts_that_are_not_all_there_are_left_out(root: Path) -> None:
    first, second = split(root / "tiny-Q8_0.gguf", 2)
    second.unlink()
    (root / "other-00001-of-00001.gguf").write_bytes(b"GGUF")
    parcel = publish.pack(root, "me/x", look_only=True)
    uploads = {upload.path.name for upload in parcel.uploads}
    assert "tiny-Q8_0.gguf" in uploads
    assert first.name not in uploads
    assert "part 2 of 2 is not there" in dict(parcel.left_out)[first.name]
    assert "other.gguf, which is not here" in dict(parcel.left_out)["other-00001-of-00001.gguf"]


def test_the_importance_matrix_goes_with_its_file(root: Path) -> None:
    matrix, quantized = root / ".ggufkit" / "tiny-F16.imatrix", root / "tiny-Q5_0.gguf"
    matrix.write_bytes(b"sums")
    digest = hashlib.sha256(b"sums").hexdigest()
    made = read_manifest(quantized)
    assert made is not None
    write_manifest(matrix, replace(made, step="imatrix", inputs={}, notes={}, output={"sha256": digest}))
    write_manifest(quantized, replace(made, inputs={**made.inputs, "imatrix": digest}))
    assert names(root, include=["*Q5_0*"]) == {"tiny-Q5_0.gguf", "tiny-F16.imatrix", "README.md"}
    assert "tiny-F16.imatrix" not in names(root, include=["*Q4_0*"])
    matrix.write_bytes(b"other sums")
    assert names(root, include=["*Q5_0*"]) == {"tiny-Q5_0.gguf", "README.md"}


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a directory with its content and the time of its last change."""
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(f.relative_to(root)): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def test_a_look_writes_nothing_and_lists_what_would_go_up(root: Path) -> None:
    (root / "README.md").unlink()
    (root / "results.csv").write_text("name,variant,type,file,size_bytes,n_params,bpw\n")  # of before
    before = state(root)
    looked = publish.pack(root, "me/x", Wanted(base_model="acme/tiny"), look_only=True)
    assert state(root) == before
    sent = publish.pack(root, "me/x", Wanted(base_model="acme/tiny"))
    assert {"README.md", "quality.png", "report.html"} <= {u.path.name for u in sent.uploads}
    assert [(u.path.name, u.size_bytes) for u in looked.uploads] == [
        (u.path.name, u.size_bytes) for u in sent.uploads
    ]
    content = {u.path.name: u.content for u in looked.uploads}
    assert content["README.md"] == (root / "README.md").read_bytes()
    assert content["quality.png"] == (root / "quality.png").read_bytes()


def test_what_a_look_shows_as_there_is_there(root: Path, remote: dict[str, RemoteFile]) -> None:
    (root / "README.md").unlink()
    publish.pack(root, "me/x")
    for name in ("README.md", "quality.png"):
        remote[name] = RemoteFile(name, (root / name).stat().st_size, None, git_sha1(root / name))
        (root / name).unlink()
    parcel = publish.pack(root, "me/x", look_only=True)
    assert {u.path.name for u in parcel.uploads if u.there} == {"README.md", "quality.png"}


def test_dry_run_and_yes_are_opposites(root: Path) -> None:
    run = CliRunner().invoke(publish_command, [str(root), "me/x", "--dry-run", "--yes"])
    assert isinstance(run.exception, UsageError)
    shown = CliRunner().invoke(publish_command, [str(root), "me/x", "--dry-run", "--include", "*Q4_0*"]).output
    assert "tiny-Q4_0.gguf" in shown
    assert "tiny-Q8_0.gguf" not in shown
    assert "nothing written" in shown


def base_model(root: Path) -> object:
    return (front_matter.read((root / "README.md").read_text()) or {}).get("base_model")


def test_a_base_model_that_was_told_is_remembered(root: Path) -> None:
    (root / "README.md").unlink()
    reporter = SilentReporter()
    publish.pack(root, "me/x", reporter=reporter)
    assert base_model(root) is None
    assert "--base-model" in reporter.warnings[-1]
    assert not publish.tells_base_model(root)
    publish.pack(root, "me/x", Wanted(base_model="ms:LLM-Research/Llama-3.2-1B-Instruct"))
    assert publish.tells_base_model(root)
    publish.pack(root, "me/x", reporter=(quiet := SilentReporter()))
    assert base_model(root) == "meta-llama/Llama-3.2-1B-Instruct"
    assert not any("--base-model" in warning for warning in quiet.warnings)


@pytest.mark.parametrize("given", ["tiny", "/home/me/tiny", "acme/tiny/1", "https://huggingface.co/acme/tiny"])
def test_a_base_model_is_a_name(given: str, root: Path) -> None:
    with pytest.raises(InputError, match="--base-model"):
        publish.pack(root, "me/x", Wanted(base_model=given), look_only=True)


def test_somebody_at_a_terminal_is_asked_for_the_base_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "README.md").unlink()
    monkeypatch.setattr(cli_publish, "_is_somebody_there", lambda: True)
    monkeypatch.setattr(publish, "send", lambda *_args, **_options: "there")
    command = [str(root), "me/x", "--yes"]
    CliRunner().invoke(publish_command, command, input="\n", catch_exceptions=False)
    assert base_model(root) is None
    asked = CliRunner().invoke(publish_command, command, input="tiny\nacme/tiny\n", catch_exceptions=False).output
    assert "'tiny' is not a model's name" in asked
    assert base_model(root) == "acme/tiny"
    again = CliRunner().invoke(publish_command, command, catch_exceptions=False).output
    assert "Which model" not in again
    assert "Uploaded: there" in again


def test_nobody_is_asked_for_what_is_known_or_not_sent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_publish, "_is_somebody_there", lambda: True)
    looked = CliRunner().invoke(publish_command, [str(root), "me/x"], catch_exceptions=False).output
    assert "Which model" not in looked


def test_a_card_that_was_edited_gets_no_base_model(root: Path) -> None:
    reporter = SilentReporter()
    publish.pack(root, "me/x", Wanted(base_model="acme/tiny"), look_only=True, reporter=reporter)
    assert any("write base_model into it yourself" in warning for warning in reporter.warnings)


def test_what_ollama_reads_and_what_stays_here_may_be_excluded() -> None:
    selection = Selection(exclude=("params", "*Q2_K*"))
    selection.require_used(["m-Q8_0.gguf", "params"], left_out=["m-Q2_K.gguf"])
    with pytest.raises(UsageError, match="fits no file"):
        Selection(include=("*Q2_K*",)).require_used(["m-Q8_0.gguf"], left_out=["m-Q2_K.gguf"])
