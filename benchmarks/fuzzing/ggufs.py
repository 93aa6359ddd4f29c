"""GGUF files, importance matrices, and recipes for the types of a GGUF."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from benchmarks.fuzzing.mutate import mutate_lines
from benchmarks.fuzzing.reader import Reader, of_file
from ggufkit.cli import inspect
from ggufkit.core.errors import GgufError
from ggufkit.llama.gguf import GgufHeader, read_gguf, read_header
from ggufkit.modelfile.metadata import read_meta
from ggufkit.recipes.recipe_file import as_yaml, parse_recipe, read_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.report.data import footprint
from ggufkit.steps.imatrix import read_imatrix, require_fits
from tests.fake_results import FAKES, write_results

_SPARSE_EVERY = 20
"""One of so many files is as long as a large model, without taking the room."""


def readers(home: Path) -> list[Reader]:
    """Headers of models and vocabularies; matrices in both formats."""
    files = [file.read_bytes() for file in sorted(write_results(home / "ggufs", FAKES[:2]).glob("*.gguf"))]
    heads = [data[: 4096 + len(data) % 2] for data in files]
    base = read_header(home / "ggufs" / "tiny-F16.gguf")

    def matrix(file: Path) -> None:
        _sometimes_sparse(file)
        read_imatrix(file)
        require_fits(file, base)

    def recipe(file: Path) -> None:
        found = read_recipe(file, base)
        assert parse_recipe(as_yaml(found).encode(), "what was written") == found

    written = [as_yaml(_recipe(base)).encode(), b"version: 1\ntensors: {token_embd.weight: q8_0}\n"]
    return [
        Reader("recipe", written, of_file(recipe, "a.recipe.yaml"), mutate_lines),
        Reader(
            "recipe as others have it", [b"embd=q8_0\n.*weight=Q4_0 ", files[0]], of_file(recipe, "a"), weight=0.5
        ),
        Reader("gguf", [*files, *heads, _vocabulary()], of_file(_look, "a.gguf"), weight=4),
        Reader("imatrix", [_matrix(), _old_matrix()], of_file(matrix, "a.imatrix"), weight=2),
    ]


def _recipe(base: GgufHeader) -> TypeRecipe:
    choices = [Choice(t.name, "Q8_0", t.n_bytes, 1e-7, 'it: pays, "here" # so') for t in base.tensors]
    return TypeRecipe(tuple(choices), "Q8_0", "like:q8_0", 12345, 0.01, {"base": "ab" * 32}, ("A remark.",))


def _sometimes_sparse(file: Path) -> None:
    if file.stat().st_size % _SPARSE_EVERY == 0:
        os.truncate(file, 8 << 30)


def _look(file: Path) -> None:
    _sometimes_sparse(file)
    header = read_header(file, check_size=False)
    read_meta(header.metadata)
    footprint(header)
    json.dumps(inspect._facts(header))
    try:
        gguf = read_gguf(file)
    except GgufError:
        return
    assert 0 <= gguf.tensor_bytes <= gguf.size_bytes


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _array(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + values


def _vocabulary() -> bytes:
    """A header with arrays of every kind, and a chat template."""
    pairs = {
        "general.architecture": struct.pack("<I", 8) + _text("llama"),
        "general.alignment": struct.pack("<II", 4, 32),
        "general.file_type": struct.pack("<II", 4, 15),
        "tokenizer.ggml.tokens": _array(8, 3, b"".join(map(_text, ("<s>", "</s>", "a")))),
        "tokenizer.ggml.token_type": _array(5, 3, struct.pack("<3i", 3, 3, 1)),
        "tokenizer.ggml.scores": _array(6, 3, struct.pack("<3f", 0, 0, 0)),
        "tokenizer.ggml.bos_token_id": struct.pack("<II", 4, 0),
        "tokenizer.ggml.add_bos_token": struct.pack("<I?", 7, True),
        "tokenizer.chat_template": struct.pack("<I", 8) + _text("{{ messages }}"),
        "llama.attention.head_count": _array(4, 2, struct.pack("<2I", 4, 4)),
        "llama.block_count": struct.pack("<II", 4, 2),
        "llama.embedding_length": struct.pack("<II", 4, 64),
        "llama.rope.freq_base": struct.pack("<If", 6, 1e4),
    }
    info = _text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, 3, 1, 0)
    return _padded(_head(1, pairs) + info) + bytes(64 * 3 * 2)


def _matrix() -> bytes:
    pairs = {"general.type": struct.pack("<I", 8) + _text("imatrix")}
    infos = [("blk.0.ffn_up.weight.in_sum2", 256, 0), ("blk.0.ffn_up.weight.counts", 1, 1024)]
    tensors = b"".join(_text(name) + struct.pack("<IQIQ", 1, n, 0, offset) for name, n, offset in infos)
    return _padded(_head(2, pairs) + tensors) + bytes(1024 + 32)


def _head(n_tensors: int, pairs: dict[str, bytes]) -> bytes:
    written = b"".join(_text(key) + value for key, value in pairs.items())
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, len(pairs)) + written


def _padded(head: bytes) -> bytes:
    return head + bytes(-len(head) % 32)


def _old_matrix() -> bytes:
    name = b"blk.0.ffn_up.weight"
    return (
        struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 9, 256) + bytes(1024) + struct.pack("<i", 4)
    )
