"""Accidents and attacks: a valid sample, changed at random. The same seed gives the same input."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[random.Random, bytes], bytes]

_EXTREMES = (
    0,
    1,
    2,
    4,
    5,
    9,
    13,
    63,
    64,
    255,
    1 << 16,
    1 << 28,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
)
_NUMBERS = (b"0", b"-1", b"1e999", b"-nan", b"nan", b"inf", b"NaN", b"-Infinity", b"99999999999999999999999", b"1e-400",
            b"1,5", b"1.2.3", b"0x10", b"9" * 5000, "²".encode(), "٣".encode(), b"1_000", b"+1", b".", b"--1")  # fmt: skip
_PIECES = (b"\0", b"\n", b"\r", b"\r\n", b"\x1b[2J", b"\x1b[0m", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", "é".encode(),
           "\u2028".encode(), b"{", b"}", b"[", b"]", b"{{", b"}}", b"{%", b"%}", b'"', b"`", b"'", b"\\", b",", b":", b"(",
           b")", b"-", b"=", b" ", b"../", b"/", b"NaN", b"null", b"true", b"{}", b"[]", b"[[[[[[[[", b"```", b'"""',
           b"{{-", b"-}}", b"$", b".", b"%", b"&", b"<", b"|")  # fmt: skip
_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")


def mutate(rng: random.Random, sample: bytes) -> bytes:
    """A sample with one to four changes of its bytes."""
    for _ in range(rng.randint(1, 4)):
        sample = rng.choice(_BYTE_CHANGES)(rng, sample)
    return sample[: 1 << 20]


def _place(rng: random.Random, sample: bytes) -> int:
    """Rather near the start, where headers are."""
    return rng.randrange(min(len(sample), rng.choice((64, 512, 1 << 30))) + 1)


def _flip(rng: random.Random, sample: bytes) -> bytes:
    at = _place(rng, sample)
    return sample[:at] + bytes([rng.randrange(256)]) + sample[at + 1 :]


def _cut(rng: random.Random, sample: bytes) -> bytes:
    return sample[: rng.randrange(len(sample) + 1)]


def _remove(rng: random.Random, sample: bytes) -> bytes:
    at = _place(rng, sample)
    return sample[:at] + sample[at + rng.randint(1, 40) :]


def _insert(rng: random.Random, sample: bytes) -> bytes:
    at = _place(rng, sample)
    return sample[:at] + rng.choice(_PIECES) * rng.choice((1, 1, 1, 2, 50, 2000)) + sample[at:]


def _repeat(rng: random.Random, sample: bytes) -> bytes:
    at = _place(rng, sample)
    piece = sample[at : at + rng.randint(1, 200)]
    return sample[:at] + piece * rng.choice((2, 3, 50, 500)) + sample[at:]


def _number(rng: random.Random, sample: bytes) -> bytes:
    found = list(_DIGITS.finditer(sample))
    if not found:
        return _insert(rng, sample)
    one = rng.choice(found)
    return sample[: one.start()] + rng.choice(_NUMBERS) + sample[one.end() :]


def _integer(rng: random.Random, sample: bytes) -> bytes:
    at, code = _place(rng, sample), rng.choice("IQ")
    width = struct.calcsize(code)
    value = rng.choice(_EXTREMES) & ((1 << 8 * width) - 1)
    return sample[:at] + struct.pack("<" + code, value) + sample[at + width :]


def _lines(rng: random.Random, sample: bytes) -> bytes:
    lines = sample.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines if rng.random() < 0.5 else [*lines[:one], *lines[other : other + 5], *lines[one:]])


_BYTE_CHANGES: tuple[Mutator, ...] = (
    _flip,
    _flip,
    _cut,
    _remove,
    _insert,
    _insert,
    _repeat,
    _number,
    _integer,
    _lines,
)

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 1 << 31, 1 << 63, 1 << 64, 10**30, -(1 << 70), float("nan"), float("inf"),
    "", "x", "x" * 5000, "\x1b[2J\nError: no", "\u202e", "../../etc/passwd", "/", "a\0b", "=1+1", "<script>", "|", "NaN",
    "1", "2026-13-45", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-23:59", [], {}, [[]], [1], ["x"], {"": None},
    {"a": {}}, [None] * 100, [{}] * 3, {"type": "Sequence", "pretokenizers": 3},
)  # fmt: skip


def mutate_json(rng: random.Random, sample: bytes) -> bytes:
    """A JSON document with values of other types, keys that are gone or new, and depth; now and then other bytes, too."""
    try:
        value = json.loads(sample)
    except ValueError:  # two samples in one
        return mutate(rng, sample)
    if rng.random() < 0.25:
        return mutate(rng, sample)
    for _ in range(rng.randint(1, 3)):
        value = _change(rng, value)
    raw = json.dumps(value).encode()
    if rng.random() < 0.03:
        depth = rng.choice((90, 101, 900, 100_000))
        raw = raw.replace(b"null", b"[" * depth + b"]" * depth, 1) if b"null" in raw else b"[" * depth + raw
    return mutate(rng, raw) if rng.random() < 0.1 else raw


def _change(rng: random.Random, value: Any) -> Any:
    """Replace, remove or rename something, somewhere below."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        how = rng.random()
        if how < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.25:
            return {
                (rng.choice(("", "x", "__metadata__", key + "\n")) if k == key else k): v for k, v in value.items()
            }
        return {**value, key: _change(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _change(rng, value[at]), *value[at + rng.choice((0, 1, 1, 1)) :]]
    return rng.choice(_ODD)


def mutate_lines(rng: random.Random, sample: bytes) -> bytes:
    """JSON a line: one of the lines is changed as JSON is, or the bytes of all."""
    lines = sample.split(b"\n")
    filled = [at for at, line in enumerate(lines) if line.strip().startswith((b"{", b"[", b'"'))]
    if not filled or rng.random() < 0.3:
        return mutate(rng, sample)
    at = rng.choice(filled)
    lines[at] = mutate_json(rng, lines[at])
    return b"\n".join(lines)


def choose(rng: random.Random, samples: Sequence[bytes]) -> bytes:
    """One of the samples, or the start of one and the end of another."""
    one = rng.choice(samples)
    if rng.random() > 0.05:
        return one
    other = rng.choice(samples)
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]
