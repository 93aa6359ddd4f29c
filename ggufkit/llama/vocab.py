"""llama.cpp's own tokenization of a GGUF's vocabulary, through libllama in a process of its own.

The one struct that must be passed by value is laid out as the header of the same source tree says, so that no
version's layout is written down here. Run as a module it reads JSON strings from stdin and prints JSON ids.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import ToolOutputError
from ggufkit.core.jsonfile import parse_json
from ggufkit.llama import cuda

_MARK = "ggufkit-ids: "
_PARAMS_SIZE = 512


def tokenize(
    binaries: Path,
    source: Path,
    gguf: Path,
    texts: Sequence[str],
    log: Path | None = None,
    *,
    special: bool = False,
    marks: bool = True,
) -> list[list[int]]:
    """Token ids of each text, control tokens recognized, none added unless `special` asks for BOS and the like.

    Args:
        binaries: directory that holds libllama.
        source: llama.cpp's source tree of the same commit.
        marks: whether "<|end|>" is the control token; else it is text, as for llama-perplexity.

    Raises:
        ToolOutputError: the library could not load the vocabulary.
    """
    words = [word for word, wanted in (("special", special), ("text", not marks)) if wanted]
    return _ask(binaries, source, gguf, texts, log, words)


def beginning(binaries: Path, source: Path, gguf: Path, log: Path | None = None) -> int | None:
    """The BOS token that llama.cpp puts at the beginning of a text; None where it puts none there.

    Raises:
        ToolOutputError: the library could not load the vocabulary.
    """
    [found] = _ask(binaries, source, gguf, [], log, ["beginning"])
    return found[0] if found else None


def _ask(
    binaries: Path, source: Path, gguf: Path, texts: Sequence[str], log: Path | None, words: Sequence[str]
) -> list[list[int]]:
    argv = [sys.executable, "-m", "ggufkit.llama.vocab", str(binaries), str(source), str(gguf), *words]
    output = process.run(argv, stdin=json.dumps(list(texts)).encode(), log=log, surroundings=cuda.HIDDEN)
    for line in output.stdout.splitlines():
        if line.startswith(_MARK):
            what, error = f"What llama.cpp's vocabulary of {gguf} printed", partial(ToolOutputError, log=log)
            return parse_json(line.removeprefix(_MARK), list[list[int]], what, error, hint="Repeat the command.")
    why = (output.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    raise ToolOutputError(f"llama.cpp could not tokenize with the vocabulary of {gguf}: {why}", log=log)


def vocab_only_offset(header: str) -> int:
    """Byte offset of `vocab_only` in `struct llama_model_params`, from the text of llama.h.

    Raises:
        ValueError: the struct is not there, or holds a type whose size is not known.
    """
    body = re.search(r"struct llama_model_params \{(.*?)\n\s*\};", header, re.DOTALL)
    if body is None:
        raise ValueError("llama.h defines no llama_model_params")
    offset = 0
    for member in re.findall(r"([^;]+);", re.sub(r"//[^\n]*", "", body[1])):
        size = _size_of(" ".join(member.split()))
        offset = -(-offset // size) * size
        if member.split()[-1] == "vocab_only":
            return offset
        offset += size
    raise ValueError("llama_model_params has no vocab_only")


def _size_of(member: str) -> int:
    if "*" in member or "callback" in member:
        return ctypes.sizeof(ctypes.c_void_p)
    if re.match(r"(enum \w+|u?int32_t|float|int) ", member):
        return 4
    if member.startswith("bool "):
        return 1
    raise ValueError(f"llama_model_params: unknown size of {member!r}")


class _ModelParams(ctypes.Structure):
    """Room for any version's `llama_model_params`: passed in memory, the callee reads its own part."""

    _fields_ = (("raw", ctypes.c_uint8 * _PARAMS_SIZE),)


def _main(binaries: Path, source: Path, gguf: Path, words: Sequence[str]) -> None:
    offset = vocab_only_offset((source / "include" / "llama.h").read_text(encoding="utf-8"))
    llama = ctypes.CDLL(str(_library(binaries)))
    llama.llama_model_default_params.restype = _ModelParams
    llama.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _ModelParams]
    llama.llama_model_load_from_file.restype = ctypes.c_void_p
    llama.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    llama.llama_model_get_vocab.restype = ctypes.c_void_p
    params = llama.llama_model_default_params()
    params.raw[offset] = 1
    model = llama.llama_model_load_from_file(str(gguf).encode(), params)
    if not model:
        sys.exit(f"{gguf} cannot be loaded")
    vocab = llama.llama_model_get_vocab(model)
    special, marks = "special" in words, "text" not in words
    ids = [_tokenize(llama, vocab, text, special=special, marks=marks) for text in json.load(sys.stdin)]
    ids += [_beginning(llama, vocab)] if "beginning" in words else []
    print(_MARK + json.dumps(ids), flush=True)


def _tokenize(llama: ctypes.CDLL, vocab: int, text: str, *, special: bool, marks: bool) -> list[int]:
    raw = text.encode()
    room = (ctypes.c_int32 * (len(raw) + 8))()
    llama.llama_tokenize.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool,
    ]  # fmt: skip
    count = llama.llama_tokenize(vocab, raw, len(raw), room, len(room), special, marks)
    return list(room[: max(count, 0)])


def _beginning(llama: ctypes.CDLL, vocab: int) -> list[int]:
    llama.llama_vocab_get_add_bos.argtypes = llama.llama_vocab_bos.argtypes = [ctypes.c_void_p]
    llama.llama_vocab_get_add_bos.restype = ctypes.c_bool
    return [llama.llama_vocab_bos(vocab)] if llama.llama_vocab_get_add_bos(vocab) else []


def _library(binaries: Path) -> Path:
    names = ("libllama.so", "libllama.dylib", "llama.dll")
    homes = (binaries, binaries.parent / "lib")
    found = [home / name for home in homes for name in names if (home / name).is_file()]
    if not found:
        sys.exit(f"{binaries} holds no libllama: build llama.cpp with shared libraries")
    return found[0]


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
