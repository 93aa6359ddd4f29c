"""Broken output is refused or read right, never read as another number."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufkit.core.errors import ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.llama import cuda, kld, logs
from ggufkit.llama.progress_lines import (
    ChunkCounter,
    chunks_collected,
    chunks_found,
    percent_written,
    steps_done,
)
from tests.shared import SHARED

OWN = Path(__file__).resolve().parents[1] / "logs"
FILES = sorted(OWN.iterdir()) + (sorted((SHARED / "logs").iterdir()) if SHARED.is_dir() else [])
TEXTS = {file.name: file.read_text(encoding="utf-8", errors="replace") for file in FILES}
PARSERS: dict[str, Callable[[ToolOutput], Any]] = {
    "perplexity": logs.parse_perplexity,
    "divergence": kld.parse_divergence,
    "bench": logs.parse_bench,
    "quantize": logs.parse_quantize,
}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
COLOURS = ("\x1b[0m", "\x1b[32m", "\x1b[1;34m", "\x1b[K")


def run(parser: Callable[[ToolOutput], Any], text: str, at: int = 0) -> Any:
    """What a parser makes of a text, split over both streams at a line end; None when it refuses."""
    cut = text.find("\n", at) + 1 if at else 0
    try:
        return parser(ToolOutput(("llama-x", "-m", "x.gguf"), 0, text[cut:], text[:cut], 1.0))
    except ToolOutputError:
        return None


def truncate(draw: st.DrawFn, text: str) -> str:
    start = draw(st.integers(0, len(text) // 4)) if draw(st.booleans()) else 0
    return text[start : draw(st.integers(start, len(text)))]


def recolour(draw: st.DrawFn, text: str) -> str:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)), reverse=True)
    for place in places:
        text = text[:place] + draw(st.sampled_from(COLOURS)) + text[place:]
    return text


def change_locale(draw: st.DrawFn, text: str) -> str:
    """Decimal commas, everywhere or in some lines only; thousands separators."""
    lines = text.split("\n")
    chosen = (
        range(len(lines)) if draw(st.booleans()) else draw(st.sets(st.integers(0, len(lines) - 1), max_size=20))
    )
    for i in chosen:
        lines[i] = re.sub(r"(\d)\.(\d)", r"\1,\2", lines[i])
    return "\n".join(lines)


def interleave(draw: st.DrawFn, text: str) -> str:
    """Lines of another log, or of the same again, among these."""
    lines, other = text.split("\n"), draw(st.sampled_from(sorted(TEXTS.values()))).split("\n")
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(other) - 1))
        piece = other[start : start + draw(st.integers(1, 8))]
        at = draw(st.integers(0, len(lines)))
        lines[at:at] = piece
    return "\n".join(lines)


def break_lines(draw: st.DrawFn, text: str) -> str:
    """A line of the other stream in the middle of this one's."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(("\n", "\r\n", "\n0.00.021.993 I noise\n", "0.00.242.079 I ")))
            + text[at:]
        )
    return text


MUTATIONS = (truncate, recolour, change_locale, interleave, break_lines)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, str, int]:
    """A log's name, its text after one to three accidents, and where its streams part."""
    name = draw(st.sampled_from(sorted(TEXTS)))
    text = TEXTS[name]
    for mutation in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3)):
        text = mutation(draw, text)
    return name, text, draw(st.integers(0, len(text)))


def essence(kind: str, record: Any) -> Any:
    """What must not be wrong. Two streams may swap the order of remarks; that changes no number."""
    if kind == "quantize":
        return {**record.__dict__, "fallbacks": sorted(record.fallbacks)}
    return record.__dict__


@pytest.mark.parametrize("kind", PARSERS)
@settings(max_examples=EXAMPLES)
@given(case=mutated())
def test_never_a_wrong_number(kind: str, case: tuple[str, str, int]) -> None:
    name, text, at = case
    got = run(PARSERS[kind], text, at)
    if got is None:
        return
    # An accident may bring in the whole of another log: then that log's record is the right one.
    right = [record for source in TEXTS.values() if (record := run(PARSERS[kind], source)) is not None]
    assert any(_same(kind, got, record) for record in right), f"{name}: {got}"


NO_NUMBERS = (
    "9" * 5000,
    "0",
    "-1",
    "1e999",
    "1.2.3",
    "²",
    "٣",
    "nan",
    "-inf",
    "",
    ", ,",
    "4294967296",
    "999999999",
)


@st.composite
def garbled(draw: st.DrawFn) -> str:
    """A log in which some numbers are none, or such as no tool prints."""
    text = TEXTS[draw(st.sampled_from(sorted(TEXTS)))]
    numbers = [match.span() for match in re.finditer(r"\d[\d.]*", text)]
    chosen = draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=5, unique=True))
    for start, end in sorted(chosen, reverse=True):
        text = text[:start] + draw(st.sampled_from(NO_NUMBERS)) + text[end:]
    return text


@settings(max_examples=EXAMPLES // 3)
@given(text=garbled())
def test_numbers_that_are_none_are_refused_by_name(text: str) -> None:
    for parser in PARSERS.values():
        run(parser, text)
    run(logs.parse_placement, text)
    run(lambda output: kld.lost_statistics(output) or logs.lost_tail(output), text)
    for watch in (
        ChunkCounter().feed,
        steps_done,
        percent_written,
        chunks_collected,
        chunks_found,
        cuda.parse_gpus,
    ):
        watch(text)


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize(
    "line",
    [
        "kl_divergence: computing over {} chunks, n_ctx=64,", "perplexity: calculating perplexity over {} chunks, n_ctx=64",
        "[{}]9.0000,", "Final estimate: PPL = {} +/- 1.00000 ", "[ {}/ 4] a - [ {}, 1], type = f16, ",
        "quant size = 1.00 MiB ({} BPW)", "load_tensors: CPU model buffer size = {} MiB", "offloaded {}/{} layers to GPU",
        '{{"n_prompt": {0}, "n_gen": {0}, "avg_ts": {0}, "stddev_ts": 0, "backends": "CPU", "n_threads": 1}}',
        "0, GPU-1, H200, 9.0, {}", "Writing: {}%", "stored collected data after {} chunks", "CUDA Version: {}.{}",
    ],
)  # fmt: skip
def test_each_number_that_is_read(line: str, number: str) -> None:
    text = line.replace("{}", number) if "{0}" not in line else line.format(number)
    for parser in (*PARSERS.values(), logs.parse_placement):
        run(parser, f"{text}\n")
    for watch in (ChunkCounter().feed, steps_done, percent_written, chunks_collected, chunks_found, cuda.parse_gpus,
                  cuda.parse_driver, cuda.parse_nvcc):  # fmt: skip
        watch(f"{text}\n")


def _same(kind: str, got: Any, right: Any) -> bool:
    if kind == "bench":  # every line is a record of its own
        return all(any(speed == other for other in right) for speed in got)
    return bool(essence(kind, got) == essence(kind, right))


def test_every_kind_of_log_is_there() -> None:
    for kind, parser in PARSERS.items():
        if kind != "quantize" or SHARED.is_dir():
            assert any(run(parser, text) is not None for text in TEXTS.values()), kind
