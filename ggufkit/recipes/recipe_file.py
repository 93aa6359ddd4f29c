"""Recipes as files: YAML that says what each thing in it is; and what others have instead, a GGUF or a list of patterns.

Version 1: a mapping with `version`, `tensors` and, if they are known, the fields of `TypeRecipe`. `tensors` maps each name
to its type, or to a mapping with `type`, `bytes`, `loss` and `why`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.core.errors import InputError, UnknownType
from ggufkit.core.jsonfile import read_within
from ggufkit.core.manifest import write_atomically
from ggufkit.core.yamlfile import LIMIT_BYTES, parse_yaml, require_known, shaped
from ggufkit.llama import quants
from ggufkit.llama.gguf import MAGIC, GgufHeader
from ggufkit.recipes.others import from_gguf, from_patterns, looks_like_patterns
from ggufkit.recipes.type_recipe import Choice, TypeRecipe

VERSION = 1
SUFFIX = ".recipe.yaml"
"""What a recipe is called beside the file that was made from it: `<file>.recipe.yaml`."""
_HINT = "Make it again with `ggufkit recipe`, or write a type for each tensor below `tensors:`."
_HEAD = """\
# Which type each tensor of a GGUF gets, and why. It makes the same file again:
#     ggufkit quantize BASE.gguf --recipe THIS-FILE    (and --imatrix, if one is named below)
# Types may be changed by hand; all of ggml's that llama-quantize makes are allowed: Q8_0, IQ4_XS, F16.
"""


@dataclass(frozen=True)
class _Tensor:
    """What a recipe says of one tensor, by the file's own words."""

    type: str
    bytes: int = 0
    loss: float | None = None
    why: str = ""


@dataclass(frozen=True)
class _Document:
    """A recipe as it is written."""

    version: int
    tensors: dict[str, _Tensor | str]
    target: str = ""
    file_type: str = ""
    size_bytes: int | None = None
    expected_kld: float | None = None
    measured_on: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_recipe(path: Path, base: GgufHeader) -> TypeRecipe:
    """A recipe from a file.

    Args:
        path: our YAML; any GGUF, one part of a split one too, whose types are copied; or llama.cpp's own list of
            `pattern=type`, as `--tensor-type-file` has it.
        base: the GGUF that is to be quantized. A copied GGUF must hold the same tensors; of patterns, its names decide.

    Raises:
        InputError: the file is none of these, has a type that no tensor can be made, or does not fit the base.
    """
    data = _start(path)
    if data == MAGIC:
        return from_gguf(path, base)
    data = read_within(path, LIMIT_BYTES, hint=_HINT)
    if looks_like_patterns(data):
        return from_patterns(path, data.decode("utf-8", "replace"), base)
    return parse_recipe(data, str(path))


def _start(path: Path) -> bytes:
    if path.is_dir() or not path.exists():
        message = f"{path} is {'a directory' if path.is_dir() else 'not there'}."
        raise InputError(message, hint="Give the path of a recipe, or of a .gguf file whose types are copied.")
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}."
        raise InputError(message, hint="Check its permissions.") from error


def parse_recipe(data: bytes, what: str) -> TypeRecipe:
    """A recipe from YAML.

    Args:
        what: what is read, as messages call it.

    Raises:
        InputError: it is no YAML, or not what `write_recipe` writes or a person may.
    """
    document = parse_yaml(data, what, hint=_HINT)
    version = document.get("version", VERSION)
    if isinstance(version, int) and version != VERSION:
        message = f"{what} is a recipe of version {version}; this ggufkit reads version {VERSION}."
        raise InputError(message, hint="Use the ggufkit that wrote it, or make it again with `ggufkit recipe`.")
    said = shaped(document, _Document, what, hint=_HINT)
    for name, of in document["tensors"].items():
        if isinstance(of, dict):
            require_known(of, _Tensor, f"{name} in {what}", hint=_HINT)
    if not said.tensors:
        raise InputError(f"{what} names no tensor.", hint=_HINT)
    if (odd := next(_odd_numbers(said), None)) is not None:
        raise InputError(f"{what} is not as expected: {odd}.", hint=_HINT)
    choices = tuple(_choice(name, of, what) for name, of in said.tensors.items())
    return TypeRecipe(
        choices,
        said.file_type,
        said.target,
        said.size_bytes,
        said.expected_kld,
        said.measured_on,
        tuple(said.remarks),
    )


def _odd_numbers(said: _Document) -> Iterator[str]:
    """Numbers that no size or loss can be."""
    if said.size_bytes is not None and said.size_bytes < 0:
        yield f"size_bytes is {said.size_bytes}"
    if said.expected_kld is not None and not math.isfinite(said.expected_kld):
        yield f"expected_kld is {said.expected_kld}"
    for name, of in said.tensors.items():
        if isinstance(of, _Tensor) and (of.bytes < 0 or not math.isfinite(of.loss or 0)):
            yield f"{name} has {of.bytes} bytes and a loss of {of.loss}"


def _choice(name: str, of: _Tensor | str, what: str) -> Choice:
    said = _Tensor(of) if isinstance(of, str) else of
    try:
        kind = quants.tensor_type(said.type)
    except UnknownType as error:
        raise InputError(f"{what} makes {name} {said.type}: {error.message}", hint=error.hint) from None
    return Choice(name, kind, said.bytes, said.loss, said.why)


def write_recipe(recipe: TypeRecipe, path: Path) -> None:
    """Write a recipe atomically, with a remark on what each thing in it is."""
    write_atomically(path, as_yaml(recipe))


def as_yaml(recipe: TypeRecipe) -> str:
    """A recipe as text."""
    head = [
        ("version", VERSION, "of this format"),
        ("target", recipe.target, "what was asked for"),
        ("file_type", recipe.file_type, "the type that llama-quantize is given, and that the file calls itself"),
        ("size_bytes", recipe.size_bytes, "the whole file's"),
        ("expected_kld", recipe.expected_kld, "mean KL divergence from the base on the calibration text, in nats"),
    ]
    lines = [f"{key}: {_scalar(value)}  # {what}" for key, value, what in head if value not in ("", None)]
    if recipe.measured_on:
        lines += ["", "# What the losses were measured on, by SHA-256.", "measured_on:"]
        lines += [f"  {_scalar(role)}: {_scalar(digest)}" for role, digest in recipe.measured_on.items()]
    if recipe.remarks:
        lines += ["", "remarks:", *(f"  - {_scalar(remark)}" for remark in recipe.remarks)]
    lines += [
        "",
        "# Of each tensor its type; its bytes; what that type adds to the file's mean KL divergence, in nats; why.",
    ]
    lines += ["tensors:", *(f"  {_scalar(choice.tensor)}: {_of_tensor(choice)}" for choice in recipe.choices)]
    return _HEAD + "\n".join(lines) + "\n"


def _of_tensor(choice: Choice) -> str:
    said = {
        "type": choice.type,
        "bytes": choice.n_bytes or None,
        "loss": choice.loss,
        "why": choice.why or None,
    }
    shown = {key: _scalar(value) for key, value in said.items() if value is not None}
    return "{" + ", ".join(f"{key}: {value}" for key, value in shown.items()) + "}"


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._")


def _scalar(value: Any) -> str:
    """A value on one line: names of tensors and types as they are, other text in quotes."""
    import yaml

    if isinstance(value, str):
        looks_plain = value[:1].isalpha() and set(value) <= _PLAIN and ("." in value or "_" in value)
        quoted = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf)
        return value if looks_plain else quoted.removesuffix("\n")
    return yaml.safe_dump(value).partition("\n")[0]
