"""What the operating system refuses ends with its reason, its exit code and a way out."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from ggufkit import cli as command_line
from ggufkit.cli.parameter_types import PATH
from ggufkit.core import oserrors, process
from ggufkit.core.errors import GgufkitError, InputError, ResourceError
from ggufkit.core.manifest import PARTIAL, write_atomically
from ggufkit.core.paths import user_path
from ggufkit.pipeline.resources import Plan
from ggufkit.request import BuildRequest
from ggufkit.steps.step import Made, Recipe, Workspace, ensure
from tests.fake_results import FAKES, write_results

RECIPE = Recipe("quantize", 1)


@pytest.fixture(autouse=True)
def _cache(private_cache: Path) -> None:
    """Hashes are remembered in the test's own cache."""


def os_error(code: int, name: object = None) -> OSError:
    return OSError(code, os.strerror(code), *([] if name is None else [str(name)]))


@pytest.mark.parametrize(
    ("error", "code", "message", "hint"),
    [
        (os_error(errno.ENOSPC), 6, "The output cannot be written: the disk is full", "Free some space"),
        (os_error(errno.ENOSPC, "/out/results.csv"), 6, "/out/results.csv cannot be written: the disk", "Free"),
        (os_error(errno.EDQUOT, "/out/x"), 6, "your share of the disk is used up", "quota"),
        (os_error(errno.EFBIG, "/out/x"), 6, "may not be so large", "ulimit -f"),
        (os_error(errno.EIO), 6, "the disk or the terminal failed", "dmesg"),
        (os_error(errno.ENAMETOOLONG, "x" * 300), 3, "The name xxx", "a shorter name"),
        (os_error(errno.EISDIR, "/out/m.gguf"), 3, "/out/m.gguf is a directory where a file", "another name"),
        (os_error(errno.EACCES, "/cache"), 6, "/cache cannot be used: Permission denied", "permissions"),
        (RuntimeError("Symlink loop from '/out/x'"), 3, "/out/x is a link that leads back to itself", "Remove it"),
        (MemoryError(), 6, "The memory ran out", "smaller model"),
    ],
)
def test_one_message_with_the_reason(
    error: Exception, code: int, message: str, hint: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(command_line.cli, "main", fail)
    assert command_line._run(["build"], debug=False) == code
    said = capsys.readouterr().err
    assert said.count("Error: ") == 1
    assert message in said
    assert hint in said
    assert "bug" not in said


def test_a_file_where_a_directory_is_needed(tmp_path: Path) -> None:
    """`logs` is a file: not the space, nor the permissions."""
    (tmp_path / "logs").write_text("mine")
    with pytest.raises(
        InputError, match=r"The log cannot be written: .*logs is a file where a directory"
    ) as refused:
        process._Log(Workspace(tmp_path).log("convert"), ("llama-quantize",)).__enter__()
    assert refused.value.exit_code == 3
    (tmp_path / ".ggufkit").write_text("mine")
    with pytest.raises(InputError, match=r"\.ggufkit is a file where a directory"), Workspace(tmp_path).locked():
        pass
    assert (tmp_path / "logs").read_text() == (tmp_path / ".ggufkit").read_text() == "mine"


def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise os_error(errno.ENOSPC)

    log = process._Log(tmp_path / "x.log", ("llama-quantize",))
    log._file = Full()
    with pytest.raises(ResourceError, match="The log cannot be written: the disk is full"):
        log.write(b"loading")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    def make(partial: Path) -> Made:
        partial.write_text("x")
        return Made()

    with pytest.raises(InputError, match="is too long for its file system") as refused:
        ensure(RECIPE, tmp_path / f"{'x' * 245}.gguf", make)
    assert "shorter name" in str(refused.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.md").write_text("the last one")
    full = Path.write_text

    def fill(path: Path, text: str, **how: str) -> int:
        full(path, text[:3], **how)
        raise os_error(errno.ENOSPC)

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "report.md", "the next one")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("report.md", "the last one")]


@pytest.mark.parametrize("name", ["results.csv", "results.json", "report.md", "report.html", "report.json"])
def test_tables_and_report_on_a_full_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = write_results(tmp_path / "out", FAKES[:1]), Path.write_text

    def fill(path: Path, text: str, **how: str) -> int:
        if path.name != f"{name}{PARTIAL}":
            return whole(path, text, **how)
        whole(path, text[:9], **how)
        raise os_error(errno.ENOSPC)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fill)
        assert command_line._run(["report", str(out)], False) == 6
    said = capsys.readouterr().err
    assert said.count("Error: ") == 1
    assert f"{name} cannot be written: the disk is full" in said
    assert not list(out.rglob("*.partial"))
    assert command_line._run(["report", str(out)], False) == 0


def test_what_is_needed_must_be_free_and_little_more(tmp_path: Path) -> None:
    Plan((), 1_000_000, 6_000_000, 0, 1).require(tmp_path)
    Plan((), 10_000_000_000, 10_300_000_000, 0, 1).require(tmp_path)
    for needed, free in ((1_000_000, 2_000_000), (10_000_000_000, 10_000_000_000)):
        with pytest.raises(ResourceError, match="of disk at its peak"):
            Plan((), needed, free, 0, 1).require(tmp_path)


def test_a_name_that_begins_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert PATH.convert("./~x", None, None) == user_path("./~x") == tmp_path / "~x"
    assert user_path("~nobody-of-that-name/x") == tmp_path / "~nobody-of-that-name" / "x"
    assert user_path("~/x") == PATH.convert("~/x", None, None) == Path("/home/me/x")
    assert user_path("models/~x") == Path("models/~x")
    assert BuildRequest("m", out=PATH.convert("./~x", None, None)).out == tmp_path / "~x"
    assert BuildRequest("m", out="./~x").out == tmp_path / "~x"


@pytest.mark.parametrize("given", ["./~x", "~nobody-of-that-name", "~nobody-of-that-name/x.txt"])
def test_a_model_or_a_text_that_begins_with_a_tilde(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line._run(["build", given, "--no-bench"], False) == 3
    assert command_line._run(["perplexity", given, "--corpus", given], False) == 3
    said = capsys.readouterr().err
    assert said.count("Error: ") == 2
    assert "bug" not in said


def test_errors_that_no_user_can_do_anything_about() -> None:
    assert oserrors.explain(OSError("x")) is None
    assert oserrors.explain(os_error(errno.EBADF)) is None
    assert isinstance(oserrors.explain(os_error(errno.EBUSY, "x")), GgufkitError)
