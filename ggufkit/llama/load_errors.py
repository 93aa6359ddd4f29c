"""Why llama.cpp did not load a GGUF, in the words of its log. Pure functions of text."""

from __future__ import annotations

import re

from ggufkit.llama.logs import plain

_LOADING = re.compile(r"error loading model(?: \w+)?: (?:error loading model \w+: )?(.+)")
_LOADING_PROJECTOR = re.compile(r"(?:clip_init: failed to load model '[^']*'|mtmd_init_from_file: error): (.+)")
_WHERE = re.compile(r"^(?:\w+: )+")
_SHAPE = re.compile(
    r"tensor '(?P<name>[^']+)' has wrong shape; expected (?P<wanted>[\d, ]+?), got (?P<got>[\d, ]+)"
)
_MISSING = re.compile(r"(?:missing tensor '(?P<a>[^']+)'|tensor '(?P<b>[^']+)' not found)")
_TOO_MANY = re.compile(r"wrong number of tensors; expected (?P<there>\d+), got (?P<known>\d+)")
_ASSERT = re.compile(r"GGML_ASSERT\((.+)\) failed|GGML_ABORT|fatal error")


def why_not_loaded(text: str) -> str | None:
    """The reason why a model was not loaded, as the end of a sentence; None where the log gives none."""
    found = _LOADING.search(plain(text))
    if found is None:
        stopped = _ASSERT.search(text)
        return None if stopped is None else f"it gives up with «{stopped[0]}»"
    reason = _WHERE.sub("", found[1].strip())
    return _in_words(reason) or reason


def why_no_projector(text: str) -> str | None:
    """The same of what reads images or sound for a model."""
    found = _LOADING_PROJECTOR.search(plain(text))
    return None if found is None else _WHERE.sub("", found[1].strip()).rstrip(".")


def _in_words(reason: str) -> str | None:
    if (shape := _SHAPE.search(reason)) is not None:
        return f"{shape['name']} has the shape {_shape(shape['got'])} where {_shape(shape['wanted'])} is needed"
    if (missing := _MISSING.search(reason)) is not None:
        return f"{missing['a'] or missing['b']} is missing"
    if (many := _TOO_MANY.search(reason)) is not None:
        return f"it holds {many['there']} tensors, of which the architecture knows {many['known']}"
    return None


def _shape(dimensions: str) -> str:
    """`256, 512, 1, 1` -> `256 x 512`."""
    numbers = [n.strip() for n in dimensions.split(",") if n.strip()]
    while len(numbers) > 1 and numbers[-1] == "1":
        numbers.pop()
    return " x ".join(numbers)
