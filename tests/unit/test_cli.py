"""Errors become one message and the contract's exit code; sizes and counts are read as people write them."""

from __future__ import annotations

import click
import pytest

from ggufkit import cli as command_line
from ggufkit.cli.parameter_types import SIZE, Count, NameList
from ggufkit.cli.terminal import console
from ggufkit.core import errors, units
from ggufkit.core.units import duration


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.GgufkitError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.CheckpointError("x"), 3),
        (errors.UnknownType("x"), 3),
        (errors.ToolchainError("x"), 4),
        (errors.ToolOutputError("x"), 5),
        (errors.ResourceError("x"), 6),
        (errors.Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "/cache"), 6),
        (OSError("x"), 1),
        (ZeroDivisionError("x"), 1),
        (click.UsageError("x"), 2),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(command_line.cli, "main", fail)
    monkeypatch.setattr("ggufkit.core.process.stop_all", lambda: None)
    assert command_line._run(["build"], debug=False) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert shown.err.strip()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise errors.InputError("broken", hint="mend it")

    monkeypatch.setattr(command_line.cli, "main", fail)
    command_line._run([], debug=True)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "mend it" in shown


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("8GiB", 8 << 30),
        ("100MB", 100_000_000),
        ("1.5 gib", 3 << 29),
        ("512", 512),
        ("10k", 10_000),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str, n_bytes: int) -> None:
    assert SIZE.convert(text, None, None) == n_bytes


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(512, "512 B"), (25_900_384, "24.7 MiB"), (1010 << 20, "0.986 GiB"), (4_920_000_000, "4.58 GiB")],
)  # fmt: skip
def test_sizes_are_shown_in_binary_units(n_bytes: int, shown: str) -> None:
    assert units.size(n_bytes) == shown


@pytest.mark.parametrize("text", ["", "x", "8 apples", "-1GB", "GB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


def test_counts_and_lists() -> None:
    count = Count("all", 2)
    assert (count.convert("all", None, None), count.convert("60", None, None)) == (None, 60)
    for bad in ("1", "-3", "many"):
        with pytest.raises(click.BadParameter):
            count.convert(bad, None, None)
    assert NameList().convert("a, b,,c", None, None) == ("a", "b", "c")
    with pytest.raises(click.BadParameter):
        NameList().convert(" , ", None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("perplexity", "x.gguf", "--threads", "100000"),
        ("perplexity", "x.gguf", "--chunks", "99999999999"),
        ("perplexity", "x.gguf", "--chunks", "0"),
        ("perplexity", "x.gguf", "--ngl", "²"),
        ("bench", "x.gguf", "--bench-reps", "99999999999"),
        ("imatrix", "x.gguf", "--chunks", "99999999999"),
        ("chat", "x.gguf", "--ctx", "99999999999"),
    ],
)
def test_numbers_that_no_tool_takes(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line._run(list(arguments), False) == 2
    assert "Invalid value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (31.06, "31.1 s"), (120, "2 min 0 s"), (1280.1, "21 min 20 s"), (3599.6, "1 h 0 min"),
     (11111, "3 h 5 min")],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_in_a_file_no_line_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "a-very-long-name-of-a-model-" * 8
    for stderr in (True, False):
        screen = console(stderr=stderr)
        with screen.capture() as said:
            screen.print(f"{name} {name}")
        assert said.get() == f"{name} {name}\n"
    monkeypatch.setenv("COLUMNS", "80")
    assert console().width == 80


@pytest.mark.parametrize("command", [("quantize", "--types", "q8_0"), ("imatrix",)])
def test_a_file_that_is_missing_is_asked_of_no_hub(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ggufkit.models.sources.obtain", lambda *_a, **_k: pytest.fail("a hub was asked"))
    assert command_line._run([command[0], "nm/typo", *command[1:]], False) == 3
    assert "nm/typo is not there" in capsys.readouterr().err
