"""The part of a model that reads images or sound, in a GGUF of its own: what its header says, and whose it is.

Sources: `tools/mtmd/mtmd.cpp` and `clip.cpp` of llama.cpp, `conversion/` for what belongs to which architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import GgufError, InputError, UsageError
from ggufkit.llama.gguf import GgufHeader, read_header

PREFIX = "mmproj-"
TYPES = ("f16", "bf16", "f32", "q8_0")
"""Of the file, as the converter writes it."""
AUTO, NONE = "auto", "none"
"""Where the checkpoint reads images or sound; and never."""
_GENERIC = re.compile(r"mmproj(-model)?(-(f16|bf16|f32|q8_0))?\.gguf", re.IGNORECASE)
"""Names that publishers give to the only one of a repository."""
_TYPE = re.compile(r"[-.](f16|bf16|f32|q8_0)$", re.IGNORECASE)
_OURS = "Give the mmproj that was made, or published, with this model; or --no-mmproj for text alone."

_QWEN3 = ("qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp")
_FAMILIES = {
    "qwen2vl_merger": (("qwen2vl", "llama"), ""),  # of Sarashina, too
    "qwen2.5vl_merger": (("qwen2vl",), "<|vision_start|>"),
    "qwen3vl_merger": (_QWEN3, "<|vision_start|>"),
    "gemma3": (("gemma3",), "<start_of_image>"),
    "gemma3nv": (("gemma3n",), "<start_of_image>"),
    "gemma4v": (("gemma4",), "<|image>"),
    "llama4": (("llama4",), "<|image_start|>"),
    "glm4v": ((), "<|begin_of_image|>"),
    "idefics3": ((), "<fake_token_around_image>"),
    "internvl": ((), "<img>"),
    "lfm2": ((), "<|image_start|>"),
    "pixtral": ((), "[IMG_END]"),
}
"""Kinds that belong to some architectures only (any, where none is named), and a token that stands beside an image, which
llama.cpp does without, silently, where the vocabulary lacks it."""


@dataclass(frozen=True)
class Projector:
    """What makes embeddings of images or sound.

    Args:
        kind: how, by llama.cpp's name: "qwen2.5vl_merger".
        widths: numbers that an embedding may have; several where the header does not tell.
        sees, hears: whether it reads images, and sound.
    """

    path: Path
    kind: str
    widths: frozenset[int]
    sees: bool
    hears: bool

    @property
    def reads(self) -> str:
        """What it reads, in words."""
        return " and ".join(word for word, can in (("images", self.sees), ("sound", self.hears)) if can)


def is_projector(header: GgufHeader) -> bool:
    """Whether a GGUF is the part of a model that reads images or sound."""
    return header.metadata.get("general.type") == "mmproj" or header.architecture == "clip"


def read_projector(path: Path) -> Projector:
    """Read an mmproj.

    Raises:
        GgufError: it is none, or no whole GGUF.
    """
    header = read_header(path)
    if not is_projector(header):
        raise GgufError(f"{path} is no mmproj: it reads neither images nor sound.", hint=_OURS)
    said = header.metadata
    kinds = (said.get(f"clip.{key}projector_type") for key in ("", "vision.", "audio."))
    sees, hears = (said.get(f"clip.has_{sense}_encoder") is True for sense in ("vision", "audio"))
    return Projector(path, next((str(kind) for kind in kinds if kind), "mlp"), _widths(header), sees, hears)


def _widths(header: GgufHeader) -> frozenset[int]:
    """What the header says, where tensors of the projector have that size; files of old converters have another number
    there, and any size of their tensors may be it."""
    sizes = {n for t in header.tensors if not t.name.startswith(("v.blk.", "a.blk.")) for n in t.shape}
    told = (header.metadata.get(f"clip.{sense}.projection_dim") for sense in ("vision", "audio"))
    return frozenset(n for n in told if isinstance(n, int) and n in sizes) or frozenset(sizes)


def require_belongs(projector: Projector, model: GgufHeader) -> None:
    """A model can read what a projector makes of images.

    Raises:
        InputError: it is another model's.
    """
    if (reason := _unlike(projector, model)) is not None:
        message = f"{projector.path.name} is of another model than {model.path.name}: {reason}."
        raise InputError(message, hint=_OURS)


def _unlike(projector: Projector, model: GgufHeader) -> str | None:
    width = model.hparam("embedding_length")
    if width not in projector.widths:
        told = f" of {next(iter(projector.widths)):,} numbers" if len(projector.widths) == 1 else ""
        return f"its embeddings{told} are not of the {width:,} that the model's have"
    architectures, mark = _FAMILIES.get(projector.kind, ((), ""))
    if architectures and model.architecture not in architectures:
        return f"{projector.kind} belongs to {' or '.join(architectures)}, and the model is {model.architecture}"
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if mark and isinstance(tokens, list) and mark not in tokens:
        return f"{projector.kind} puts {mark} beside an image, a token that the model does not have"
    return None


def of_model(model: Path, given: Path | None, *, alone: bool = False) -> Path | None:
    """What reads images or sound for a model: the file that is given, or lies beside it; none for text `alone`.

    Raises:
        UsageError: one is given, and none is wanted.
        GgufError, InputError: it is none, or another model's.
    """
    if alone:
        if given is not None:
            raise UsageError("--mmproj and --no-mmproj cannot be both.", hint="Leave one of them out.")
        return None
    found = given or find_beside(model)
    if found is not None:
        require_belongs(read_projector(found), read_header(model))
    return found


def find_beside(model: Path) -> Path | None:
    """The mmproj of a model in its directory, by its name: `mmproj-NAME-F16.gguf` of `NAME-Q4_K_M.gguf`, else the only
    one that is called by no name (`mmproj-F16.gguf`). Of several of a name, the largest."""
    found = sorted(model.parent.glob("mmproj*.gguf"))
    named = [(len(name), file.stat().st_size, file) for file, name in _named(found) if _is_of(model.stem, name)]
    if named:
        return max(named)[2]
    unnamed = [file for file in found if _GENERIC.fullmatch(file.name)]
    return max(unnamed, key=lambda file: file.stat().st_size, default=None)


def _named(files: list[Path]) -> Iterator[tuple[Path, str]]:
    for file in files:
        if not _GENERIC.fullmatch(file.name):
            yield file, _TYPE.sub("", file.stem).removeprefix(PREFIX)


def _is_of(stem: str, name: str) -> bool:
    return stem.lower() == name.lower() or stem.lower().startswith((f"{name.lower()}-", f"{name.lower()}."))
