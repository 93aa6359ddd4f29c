"""What is typed on the command line."""

from __future__ import annotations

import contextlib

import click

from benchmarks.fuzzing.reader import Reader, of_text
from ggufkit.cli.parameter_types import NAMES, SIZE, Count, of_kind
from ggufkit.core import values, variants
from ggufkit.core.records import QuantType
from ggufkit.hub import names
from ggufkit.llama import quants

_KNOWN = [
    QuantType("Q4_K_M", "4.58G @ Llama-3-8B"),
    QuantType("Q4_K", "alias for Q4_K_M"),
    QuantType("F16", "14.00G"),
]
_WORDS = [b"8GiB", b"100MB", b"all", b"2%", b"0.02", b"Qwen/Qwen2.5-0.5B@main", b"ms:a/b"]


def readers() -> list[Reader]:
    """Sizes, counts, names, lists."""
    return [
        Reader("typed", _WORDS, of_text(_word), weight=2),
        Reader("type list", [b"q4_k_m,f16", b"Q4-K-M, F16"], of_text(_types)),
        Reader("variant list", [b"plain,awq,imatrix,awq+imatrix,gptq"], of_text(_variants), weight=0.5),
    ]


def _word(text: str) -> None:
    for kind in (SIZE, Count("all"), of_kind(values.FRACTION)):
        with contextlib.suppress(click.BadParameter):
            value = kind.convert(text, None, None)
            assert value is None or 0 <= value < 1 << 63
    names.places(text)
    names.find_alias(text)


def _types(text: str) -> None:
    assert quants.resolve(NAMES.convert(text, None, None), _KNOWN)


def _variants(text: str) -> None:
    assert variants.resolve(NAMES.convert(text, None, None))
