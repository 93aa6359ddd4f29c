"""Garbage is told from speech, and only garbage that the base does not speak is an error."""

from __future__ import annotations

import pytest

from ggufkit.core.errors import ToolError
from ggufkit.core.process import ToolOutput
from ggufkit.measure import chat, generating
from ggufkit.measure.chat import Reply, faults, require_sane


def reply(tokens: list[int], *, valid: bool = True) -> Reply:
    return Reply("words", tokens, 3, True, valid, 0.1, 0.3, 10.0)


FINE = reply([1, 2, 3, 2, 1] * 8)
SILENT, STUCK, BROKEN = reply([]), reply([5] * 48), reply([1, 2, 3], valid=False)


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        (FINE, []),
        (SILENT, ["end"]),
        (STUCK, ["repetition"]),
        (reply([7] * 15 + [8]), []),
        (reply([1, 2] + [7] * 16 + [8]), ["repetition"]),
        (BROKEN, ["encoding"]),
        (reply([9] * 20, valid=False), ["repetition", "encoding"]),
    ],
)
def test_faults(said: Reply, kinds: list[str]) -> None:
    assert list(faults(said)) == kinds


@pytest.mark.parametrize("bad", [SILENT, STUCK, BROKEN])
def test_new_garbage_is_refused_and_named(bad: Reply) -> None:
    with pytest.raises(ToolError, match=r"model-Q2_K\.gguf"):
        require_sane(FINE, {"model-Q8_0.gguf": FINE, "model-Q2_K.gguf": bad})


@pytest.mark.parametrize("usual", [SILENT, STUCK, BROKEN])
def test_garbage_that_the_base_speaks_too_is_the_model_s_own(usual: Reply) -> None:
    require_sane(usual, {"base": usual, "quantized": usual})


def test_a_longer_run_of_the_base_s_own_kind_is_no_news() -> None:
    require_sane(reply([5] * 20), {"quantized": STUCK})


@pytest.mark.parametrize(
    ("raw", "valid"),
    [("naïve 🙂".encode(), True), ("🙂".encode()[:2], True), (b"a\xff", False), (b"\xc3(", False), (b"", True)],
)
def test_a_character_cut_off_at_the_end_is_not_invalid(raw: bytes, valid: bool) -> None:
    assert generating._is_utf8(raw) is valid


def test_a_reply_that_is_not_there_is_an_error() -> None:
    from pathlib import Path

    from ggufkit.core.errors import GgufError, ToolOutputError

    with pytest.raises(ToolOutputError):
        chat._parse(ToolOutput(("python",), 0, "", "", 1.0), Path("x.gguf"))
    with pytest.raises(GgufError):
        chat._parse(
            ToolOutput(("python",), 1, "", "ValueError: Failed to load model from file: x", 1.0), Path("x.gguf")
        )
    with pytest.raises(ToolError, match="SIGSEGV"):
        chat._parse(ToolOutput(("python",), -11, "", "", 1.0), Path("x.gguf"))
