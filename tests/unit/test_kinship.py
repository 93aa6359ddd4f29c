"""Is a GGUF of the base's model? And a copy of one, in one file, with no more tokens than another has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType, TokenType

from ggufkit.core.errors import InputError
from ggufkit.core.progress import SilentReporter
from ggufkit.llama.gguf import as_one, headers_of, read_header
from ggufkit.llama.kinship import strangeness, vocabulary
from ggufkit.llama.rewrite import write_whole
from tests.fake_model import KINDS, TOKENS, write
from tests.fake_results import split


def reasons(tmp_path: Path, **more: Any) -> list[str]:
    """Why a changed file is not of the model."""
    return strangeness(read_header(write(tmp_path / "b.gguf", **more)), read_header(write(tmp_path / "a.gguf")))


PADDED = {"tokens": (*TOKENS, "[PAD5]"), "kinds": (*KINDS, TokenType.UNUSED)}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"type": GGMLQuantizationType.F16},
        {"tied": True},
        {"rope": True},
        PADDED,
        {"tokens": ("<s>", "a", "b", "ab", "<|pad|>")},
    ],
    ids=["alike", "types", "tied", "rope", "padded", "special"],
)
def test_these_are_of_one_model(tmp_path: Path, more: dict[str, Any]) -> None:
    assert reasons(tmp_path, **more) == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"arch": "qwen2"}, "its architecture is qwen2, that of the base llama"),
        ({"heads": 4}, "it has 4 attention heads, the base 2"),
        ({"width": 64}, "token_embd.weight is 64 × 5, in the base 32 × 5 and 3 more tensors"),
        ({"layers": 4}, "it has blk.2.attn_q.weight and 1 more tensor, which the base lacks"),
        ({"layers": 1}, "it lacks blk.1.attn_q.weight"),
        ({"kind": "llama"}, "its tokenizer is llama, that of the base gpt2"),
        ({"tokens": ("<s>", "a", "c", "ab", "<unused>")}, "its token 2 is 'c', that of the base 'b'"),
        (
            {"tokens": (*TOKENS, "abc"), "kinds": (*KINDS, TokenType.NORMAL)},
            "it has 6 tokens, the base 5",
        ),
    ],
)
def test_a_stranger_is_told_by_what_differs(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    assert reason in reasons(tmp_path, **more)


def test_padding_may_be_the_bases(tmp_path: Path) -> None:
    base, file = write(tmp_path / "a.gguf", **PADDED), write(tmp_path / "b.gguf")
    assert strangeness(read_header(file), read_header(base)) == []


def test_padding_without_kinds_is_known_by_its_name(tmp_path: Path) -> None:
    padded = write(tmp_path / "b.gguf", tokens=(*TOKENS, "[PAD5]"), kinds=[TokenType.NORMAL])
    words = write(tmp_path / "c.gguf", tokens=(*TOKENS, "word"), kinds=[TokenType.NORMAL])
    base = read_header(write(tmp_path / "a.gguf"))
    assert strangeness(read_header(padded), base) == []
    assert strangeness(read_header(words), base) == ["it has 6 tokens, the base 5"]


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.F16])
def test_a_copy_without_padding_is_the_file_without_it(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    padded, plain = write(tmp_path / "b.gguf", type=kind, **PADDED), write(tmp_path / "a.gguf", type=kind)
    with SilentReporter().step("") as progress:
        write_whole([read_header(padded)], len(TOKENS), tmp_path / "c.gguf", progress)
    cut, wanted = read_header(tmp_path / "c.gguf"), read_header(plain)
    assert dict(cut.metadata) == dict(wanted.metadata)
    assert [(t.name, t.shape, t.type) for t in cut.tensors] == [(t.name, t.shape, t.type) for t in wanted.tensors]
    rows = read_header(padded).by_name["token_embd.weight"]
    with padded.open("rb") as long, (tmp_path / "c.gguf").open("rb") as short:
        long.seek(rows.offset)
        short.seek(cut.by_name["token_embd.weight"].offset)
        n_bytes = cut.by_name["token_embd.weight"].n_bytes
        assert short.read(n_bytes) == long.read(n_bytes)
    assert len(vocabulary(cut)) == len(TOKENS)


def test_parts_become_the_file_that_they_are_of(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.gguf")
    headers = headers_of(split(whole, 3)[1])
    assert len(headers) == 3
    assert strangeness(as_one(headers), read_header(whole)) == []
    with SilentReporter().step("") as progress:
        write_whole(headers, None, tmp_path / "joined.gguf", progress)
    assert (tmp_path / "joined.gguf").read_bytes() == whole.read_bytes()


def test_a_part_that_is_not_called_so(tmp_path: Path) -> None:
    part = split(write(tmp_path / "a.gguf"), 2)[0]
    with pytest.raises(InputError, match="one of 2 parts of a split GGUF, and not called so"):
        headers_of(part.rename(tmp_path / "renamed.gguf"))
