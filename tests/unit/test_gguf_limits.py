"""Headers that break the format's rules are refused at once: the file named, little time and memory taken."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from ggufkit.core.errors import GgufError, InputError
from ggufkit.llama.gguf import ggml_type, read_gguf, read_header
from ggufkit.steps.imatrix import read_imatrix

ARRAY, STRING, U32, F32 = 9, 8, 4, 0


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def info(name: str, *shape: int, kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(
    pairs: bytes = b"", n_pairs: int = 0, infos: bytes = b"", n_tensors: int = 0, version: int = 3
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + pairs + infos


ARCH = pair("general.architecture", STRING, text("llama"))
LONG = header(pair("a", ARRAY, struct.pack("<IQ", U32, 1 << 28)), 1)
REFUSED: dict[str, tuple[bytes, str]] = {
    "many dimensions": (header(ARCH, 1, info("t", *[1_500_000] * 200_000), 1), "has 200,000 dimensions, 4 are"),
    "dimensions said": (
        header(ARCH, 1, text("t") + struct.pack("<I", 1 << 31), 1),
        "has 2,147,483,648 dimensions",
    ),
    "nested array": (header(pair("a", ARRAY, struct.pack("<IQ", 9, 1) * 5000), 1), "an array holds arrays"),
    "tensors": (header(ARCH, 1, b"", 1 << 28), "tells of 268,435,456 tensors"),
    "keys": (header(b"", 1 << 28), "tells of 268,435,456 keys"),
    "values": (LONG, "tells of 268,435,456 values in an array"),
    "strings": (header(pair("a", ARRAY, struct.pack("<IQ", STRING, 1 << 62)), 1), "values in an array"),
    "a long string": (header(pair("a", STRING, struct.pack("<Q", 1 << 40)), 1), "characters in a value"),
    "a string beyond the end": (header(pair("a", STRING, struct.pack("<Q", 1 << 25)), 1), "beyond the end"),
    "an array beyond the end": (header(pair("a", ARRAY, struct.pack("<IQ", U32, 1 << 20)), 1), "beyond the end"),
    "a key twice": (header(ARCH * 2, 2), "the key 'general.architecture' is there twice"),
    "no key": (header(pair("", U32, b"\0\0\0\0"), 1), "a key is empty"),
    "a long key": (header(struct.pack("<Q", 1 << 20) + b"a" * (1 << 20), 1), "characters in a key"),
    "a long name": (header(ARCH, 1, info("t" * 64, 1), 1), "64 characters in a tensor's name"),
    "a name twice": (header(ARCH, 1, info("t", 8) + info("t", 8, offset=32), 2), "two tensors have one name"),
    "an unknown kind of value": (header(pair("a", 13, b""), 1), "a value is of type 13"),
    "an alignment": (header(pair("general.alignment", U32, struct.pack("<I", 48)), 1), "'48' is no power of two"),
    "alignment 0": (header(pair("general.alignment", U32, struct.pack("<I", 0)), 1), "'0' is no power of two"),
    "a text for alignment": (header(pair("general.alignment", STRING, text("32")), 1), "is no power of two"),
    "an overflow": (header(ARCH, 1, info("t", 1 << 40, 1 << 40), 1), "has the shape (1099511627776, "),
    "a negative dimension": (header(ARCH, 1, info("t", 1 << 63), 1), "has the shape"),
    "an overlap": (header(ARCH, 1, info("a", 64) + info("b", 64, offset=32), 2), "'b' begins at 32, not at 256"),
    "a gap": (header(ARCH, 1, info("a", 8) + info("b", 8, offset=64), 2), "'b' begins at 64, not at 32"),
    "a row of half a block": (header(ARCH, 1, info("a", 40, kind=8), 1), "no multiple of 32 for Q8_0"),
    "data beyond the end": (header(ARCH, 1, info("a", 1 << 50), 1), "is truncated: it has"),
    "version 1": (header(ARCH, 1, version=1), "has GGUF version 1"),
    "big-endian": (header(ARCH, 1, version=3 << 24), "is a big-endian GGUF"),
    "cut": (header(ARCH[:20], 1), "cannot be read"),
}


@pytest.mark.parametrize("sparse", [False, True], ids=["as it is", "sparse"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_a_rule_is_refused_at_once(tmp_path: Path, case: str, sparse: bool) -> None:
    file, (raw, said) = tmp_path / "a.gguf", REFUSED[case]
    with file.open("wb") as out:
        out.write(raw)
        out.truncate(8 << 30 if sparse else len(raw))
    if (sparse and case in ("cut", "data beyond the end")) or (sparse and "beyond the end" in said):
        said = ""
    ggml_type(0)  # imports what names the types
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(GgufError) as caught:
        read_gguf(file)
    assert time.process_time() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert str(file) in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("kind", [U32, STRING])
def test_the_largest_arrays_take_a_second(tmp_path: Path, kind: int) -> None:
    file = tmp_path / "a.gguf"
    with file.open("wb") as out:
        out.write(header(pair("a", ARRAY, struct.pack("<IQ", kind, 1 << 21)), 1))
        out.truncate(8 << 30)
    begun = time.process_time()
    values = read_header(file).metadata["a"]
    assert time.process_time() - begun < 3  # half a second; tests run beside each other
    assert isinstance(values, list)
    assert len(values) == 1 << 21


def test_a_file_that_shrinks_is_said(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(header(pair("a", ARRAY, struct.pack("<IQ", U32, 500) + bytes(2000)), 1))
    metadata = read_header(file).metadata
    file.write_bytes(b"GGUF")
    with pytest.raises(GgufError, match="was changed while it was read"):
        metadata["a"]


def old(*entries: tuple[bytes, int, bytes]) -> bytes:
    parts = [struct.pack("<i", len(n)) + n + struct.pack("<ii", 1, count) + v for n, count, v in entries]
    return struct.pack("<i", len(entries)) + b"".join(parts)


MATRICES: dict[str, bytes] = {
    "entries": struct.pack("<i", 1 << 28),
    "none": struct.pack("<i", -1),
    "a long name": old((b"a", 1, bytes(4)))[:4] + struct.pack("<i", 1 << 29),
    "values": old((b"a", 1 << 29, bytes(4))),
    "cut": old((b"a", 8, bytes(8))),
    "no text": old((b"\xff\xfe", 1, bytes(4))),
    "counts": header(b"", 0, info("a.in_sum2", 8) + info("a.counts", 1 << 20, offset=32), 2) + bytes(5 << 20),
    "a model": header(ARCH, 1, info("token_embd.weight", 8), 1) + bytes(512),
    "NaN": old((b"a", 2, struct.pack("<2f", 1.0, float("nan")))),
    "negative": header(b"", 0, info("a.in_sum2", 1) + info("a.counts", 1, offset=32), 2).ljust(128, b"\0")
    + struct.pack("<f", -1.0)
    + bytes(64),
    "another type": header(b"", 0, info("a.in_sum2", 8) + info("a.counts", 8, kind=1, offset=32), 2) + bytes(512),
    "no dimensions": header(b"", 0, info("a.in_sum2") + info("b.counts", 8, offset=32), 2) + bytes(512),
}


@pytest.mark.parametrize("case", MATRICES)
def test_matrices_likewise(tmp_path: Path, case: str) -> None:
    file = tmp_path / "a.imatrix"
    with file.open("wb") as out:
        out.write(MATRICES[case])
    with pytest.raises(InputError) as caught:
        read_imatrix(file)
    assert str(file) in caught.value.message
    assert caught.value.hint
