"""What is uploaded: complete files only, and only those that the repository lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit import publish, report
from ggufkit.cli.publish import publish_command
from ggufkit.core.errors import InputError, SourceError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import manifest_path, read_manifest, write_manifest
from ggufkit.core.records import Manifest
from ggufkit.hub import huggingface, modelscope
from ggufkit.hub.listing import HubUnreachable, Listing, RemoteFile, Repo, RepoAbsent, git_sha1
from ggufkit.report import results
from ggufkit.report.choose import MemoryBudget
from ggufkit.steps import guest
from tests.fake_results import FAKES, write_results


@pytest.fixture
def root(tmp_path: Path, private_cache: Path) -> Path:
    """Results whose manifests hold the right hashes, which the fake ones do not."""
    root = write_results(tmp_path / "out", FAKES[:4])
    for file in root.glob("*.gguf"):
        made = read_manifest(file)
        assert made is not None
        write_manifest(file, Manifest(**{**vars(made), "output": {"sha256": sha256_file(file), "size_bytes": 1}}))
    (root / "quality.png").write_bytes(b"a plot")
    return root


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> dict[str, RemoteFile]:
    """What the repository holds."""
    files: dict[str, RemoteFile] = {}

    def list_files(repo: Repo) -> Listing:
        if not files:
            raise RepoAbsent("there is none")
        return Listing("c" * 40, tuple(files.values()))

    monkeypatch.setattr(huggingface, "list_files", list_files)
    monkeypatch.setattr(modelscope, "list_files", list_files)
    return files


def names(parcel: publish.Parcel) -> list[str]:
    return [upload.path.name for upload in parcel.missing]


def test_what_somebody_else_made_stays_here(root: Path, remote: dict[str, RemoteFile]) -> None:
    gguf = root / "tiny-Q4_0.gguf"
    made = read_manifest(gguf)
    assert made is not None
    write_manifest(gguf, Manifest(**{**vars(made), "step": guest.STEP}))
    parcel = publish.pack(root, "me/x")
    assert gguf.name not in names(parcel)
    assert (gguf.name, "somebody else made it") in parcel.left_out


def test_all_that_is_complete_is_packed(root: Path, remote: dict[str, RemoteFile]) -> None:
    (root / "Modelfile.Q4_0").write_text("FROM ./tiny-Q4_0.gguf\n")
    (root / "logs").mkdir()
    (root / "logs" / "x.log").write_text("private")
    for name in ("tiny-Q4_0.gguf", "tiny-Q9.gguf"):
        (root / f"{name}.recipe.yaml").write_text("version: 1\nfile_type: Q4_0\ntensors: {}\n")
    parcel = publish.pack(root, "me/x")
    assert not parcel.exists
    assert set(names(parcel)) == {
        "tiny-Q4_0.gguf.recipe.yaml",
        "tiny-F16.gguf", "tiny-Q8_0.gguf", "tiny-Q5_0.gguf", "tiny-Q4_0.gguf", "Modelfile.Q4_0", "README.md", "quality.png",
    }  # fmt: skip
    assert [u.size_bytes for u in parcel.missing] == sorted(u.size_bytes for u in parcel.missing)
    assert parcel.left_out == ()


def test_what_is_not_complete_is_left_out_with_the_reason(root: Path, remote: dict[str, RemoteFile]) -> None:
    with (root / "tiny-Q8_0.gguf").open("ab") as file:
        file.write(b"x")
    manifest_path(root / "tiny-Q5_0.gguf").unlink()
    (root / "tiny-Q2_K.gguf.ggufkit.partial").write_bytes(b"half")
    parcel = publish.pack(root, "me/x")
    reasons = dict(parcel.left_out)
    assert "changed" in reasons["tiny-Q8_0.gguf"]
    assert "manifest" in reasons["tiny-Q5_0.gguf"]
    assert "not finished" in reasons["tiny-Q2_K.gguf.ggufkit.partial"]
    assert not set(names(parcel)) & reasons.keys()


def test_what_is_there_is_not_sent_again(root: Path, remote: dict[str, RemoteFile]) -> None:
    publish.pack(root, "me/x")
    for file in root.glob("*.gguf"):
        remote[file.name] = RemoteFile(file.name, file.stat().st_size, sha256_file(file))
    remote["README.md"] = RemoteFile(
        "README.md", (root / "README.md").stat().st_size, None, git_sha1(root / "README.md")
    )
    parcel = publish.pack(root, "me/x")
    assert parcel.exists
    assert names(parcel) == ["quality.png"]
    remote["tiny-Q4_0.gguf"] = RemoteFile("tiny-Q4_0.gguf", (root / "tiny-Q4_0.gguf").stat().st_size, "0" * 64)
    assert names(publish.pack(root, "me/x")) == ["quality.png", "tiny-Q4_0.gguf"]


def test_an_edited_card_is_not_overwritten(root: Path, remote: dict[str, RemoteFile]) -> None:
    (root / "README.md").write_text("mine")
    publish.pack(root, "ms:me/x")
    assert (root / "README.md").read_text() == "mine"


def test_ggufkits_own_card_follows_the_results(root: Path, remote: dict[str, RemoteFile]) -> None:
    publish.pack(root, "me/x")
    (root / "tiny-Q4_0.gguf").unlink()
    manifest_path(root / "tiny-Q4_0.gguf").unlink()
    assert "Q4_0" in (root / "README.md").read_text()
    publish.pack(root, "me/y")
    assert "Q4_0" not in (root / "README.md").read_text()
    assert "me/y" in (root / "README.md").read_text()


def remove(root: Path, name: str) -> None:
    (root / name).unlink()
    manifest_path(root / name).unlink()


def test_tables_and_reports_follow_the_files(root: Path, remote: dict[str, RemoteFile]) -> None:
    budget = MemoryBudget(5 << 30, 1234)
    report.write(results.collect(root), root, budget)
    remove(root, "tiny-Q4_0.gguf")
    assert set(names(publish.pack(root, "me/x"))) >= set(report.FILES)
    for name in report.FILES:
        assert "tiny-Q4_0.gguf" not in (root / name).read_text()
    assert "1,234" in (root / "report.md").read_text()
    assert report.is_current(results.collect(root), root, budget)


def test_modelfiles_go_with_their_files(root: Path, remote: dict[str, RemoteFile]) -> None:
    for kind in ("Q4_0", "Q5_0"):
        (root / f"Modelfile.{kind}").write_text(f"FROM ./tiny-{kind}.gguf\n")
        (root / f"Modelfile.{kind}.manifest.json").write_text('{"inputs": "/home/me/private"}')
    (root / "Modelfile").write_text("FROM /home/me/tiny-Q5_0.gguf\n")
    (root / "Modelfile.mine").write_text("not one\n")
    remove(root, "tiny-Q4_0.gguf")
    parcel = publish.pack(root, "me/x")
    assert [name for name in names(parcel) if name.startswith("Modelfile")] == ["Modelfile.Q5_0"]
    reasons = dict(parcel.left_out)
    assert reasons["Modelfile.Q4_0"] == "it is for tiny-Q4_0.gguf, which is not uploaded"
    assert {"Modelfile", "Modelfile.mine"} <= reasons.keys()


@pytest.mark.parametrize("repo", ["x", "", "a/b/c", "../x", "hf:me/x", "me/ x", "ms:x"])
def test_no_repository(repo: str, root: Path) -> None:
    with pytest.raises(InputError, match="not a repository"):
        publish.pack(root, repo)


def test_no_results(tmp_path: Path, private_cache: Path) -> None:
    with pytest.raises(InputError):
        publish.pack(tmp_path, "me/x")


def as_remote(file: Path) -> RemoteFile:
    return RemoteFile(file.name, file.stat().st_size, None, git_sha1(file))


def test_a_card_that_was_edited_on_the_hub_is_left_alone(
    root: Path, remote: dict[str, RemoteFile], tmp_path: Path
) -> None:
    publish.pack(root, "me/x")
    card = root / "README.md"
    remote[card.name] = as_remote(card)
    assert card.name not in names(publish.pack(root, "me/x"))  # it is there, as it was sent
    card.write_text("mine, and newer")
    assert card.name in names(publish.pack(root, "me/x"))
    (tmp_path / card.name).write_text("edited in the browser")
    remote[card.name] = as_remote(tmp_path / card.name)
    parcel = publish.pack(root, "me/x")
    assert card.name not in names(parcel)
    assert "--replace-card" in dict(parcel.left_out)[card.name]
    assert card.name in names(publish.pack(root, "me/x", replace_card=True))


def test_a_changed_front_matter_stays_as_it_is(root: Path, remote: dict[str, RemoteFile]) -> None:
    publish.pack(root, "me/x")
    card = root / "README.md"
    mine = card.read_text().replace("pipeline_tag: text-generation", "pipeline_tag: other # a comment")
    card.write_text(mine)
    publish.pack(root, "me/x")
    assert card.read_text() == mine


@pytest.mark.parametrize("offline", [False, True])
def test_a_look_needs_no_hub(offline: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: Repo) -> Listing:
        raise HubUnreachable("it cannot be reached.", hint="Use --from modelscope.")

    monkeypatch.setattr(huggingface, "list_files", unreachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    parcel = publish.pack(root, "me/x", look_only=True)
    assert (parcel.exists, parcel.unreached) == (
        None,
        "HF_HUB_OFFLINE is set." if offline else "it cannot be reached.",
    )
    assert {"tiny-F16.gguf", "README.md"} <= set(names(parcel))
    with pytest.raises(SourceError) as refused:
        publish.pack(root, "me/x")
    assert "--from" not in str(refused.value.hint)
    assert ("Unset" if offline else "ms:OWNER/NAME") in str(refused.value.hint)


def test_a_look_is_shown_without_a_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown = CliRunner().invoke(publish_command, [str(root), "me/x"], catch_exceptions=False).output
    assert "What me/x holds already is not known: HF_HUB_OFFLINE is set." in shown
    assert "which will be made" not in shown
    assert "Nothing was uploaded" in shown
