"""How far a running tool is, from what it prints piece by piece. Pure functions of text."""

from __future__ import annotations

import re

_COUNT = r"(\d{1,9})"
_STEPS = re.compile(rf"\[\s*{_COUNT}/\s*{_COUNT}\]")
_WRITTEN = re.compile(r"Writing:\s+(\d{1,3})%")
_COLLECTED = re.compile(rf"stored collected data after {_COUNT} chunks")
_RUNNING = re.compile(rf"\[{_COUNT}\]\d[\d.]*,|(?<=\n) {{0,3}}{_COUNT} {{4}}[^\n]*%\n")
_LONGEST_LINE = 400
_FOUND = re.compile(rf"(?:calculating perplexity|computing) over {_COUNT} chunks")
_REPETITION = re.compile(rf"benchmark {_COUNT}/{_COUNT}: \w+ run {_COUNT}/{_COUNT}")
_TOKENIZING, _COMPUTING = "tokenizing the input", "computing over"


def steps_done(text: str) -> tuple[int, int] | None:
    """The last "[n/m]": files that ninja has built, tensors that llama-quantize has done; None before the first."""
    steps = _STEPS.findall(text)
    return (int(steps[-1][0]), int(steps[-1][1])) if steps else None


def percent_written(text: str) -> int | None:
    """How much of its file the converter has written, by the progress bar that it draws."""
    found = _WRITTEN.findall(text)
    return int(found[-1]) if found else None


def repetitions_done(text: str) -> tuple[int, int] | None:
    """How many repetitions of all its tests llama-bench has begun, and of how many; None before the first."""
    found = _REPETITION.findall(text)
    if not found:
        return None
    test, tests, run, runs = map(int, found[-1])
    return (test - 1) * runs + run - 1, tests * runs


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
    """How many chunks llama-imatrix or llama-perplexity found in the text, of those it was asked for."""
    found = _FOUND.search(text)
    return int(found[1]) if found else None


class ChunkCounter:
    """Counts finished chunks while llama-perplexity runs, from text that arrives in pieces."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None
        self._tail = ""

    def feed(self, text: str) -> None:
        """Read the next piece."""
        seen = self._tail + text
        counts = [int(a or b) for a, b in _RUNNING.findall(seen)]
        self.done = max([self.done, *counts])
        self.total = chunks_found(seen) or self.total
        self._tail = seen[-_LONGEST_LINE:]
