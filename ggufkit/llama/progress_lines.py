"""How far a running tool is, from what it prints piece by piece. Pure functions of text."""

from __future__ import annotations

import re

_STEPS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_WRITTEN = re.compile(r"Writing:\s+(\d+)%")
_COLLECTED = re.compile(r"stored collected data after (\d+) chunks")
_TOKENIZING, _COMPUTING = "tokenizing the input", "computing over"


def steps_done(text: str) -> tuple[int, int] | None:
    """The last "[n/m]": files that ninja has built, tensors that llama-quantize has done; None before the first."""
    steps = _STEPS.findall(text)
    return (int(steps[-1][0]), int(steps[-1][1])) if steps else None


def percent_written(text: str) -> int | None:
    """How much of its file the converter has written, by the progress bar that it draws."""
    found = _WRITTEN.findall(text)
    return int(found[-1]) if found else None


def chunks_collected(text: str) -> int | None:
    """The chunks of text that llama-imatrix has summed up."""
    found = _COLLECTED.findall(text)
    return int(found[-1]) if found else None


def is_computing(text: str) -> bool:
    """Whether llama-imatrix has loaded the model and read the text, and computes."""
    return _COMPUTING in text


def ended_tokenizing(text: str) -> bool:
    """Whether llama-imatrix read the text, and computed nothing."""
    return _TOKENIZING in text and not is_computing(text)


def chunks_found(text: str) -> int | None:
    """How many chunks llama-imatrix found in the text, of those it was asked for."""
    found = re.search(rf"{_COMPUTING} (\d+) chunks", text)
    return int(found[1]) if found else None
