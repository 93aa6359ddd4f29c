"""What is done to a model besides choosing a type: methods, ggufkit's own and those of installed packages.

A package names its variants in `pyproject.toml`, under `[project.entry-points."ggufkit.variants"]`, each a `Variant` whose
method is a `Method`; ggufkit's own stand in the same table, `core.variants`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from ggufkit.core.errors import UsageError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Json


@dataclass(frozen=True)
class Work:
    """What a method is given to work on.

    Args:
        source: the checkpoint's directory, or the quantized GGUF; to be left as it is.
        output: where to write: a directory that is there and empty, or a file that is not there.
        options: of the method, as its `options` class holds them.
        base: where a GGUF is changed, the F32, F16 or BF16 that it was quantized from.
        text: what to calibrate on, for a method that is `calibrated`.
        threads: that may work.
        reporter: where to tell how far it is.
    """

    source: Path
    output: Path
    options: Any
    base: Path | None
    text: Path | None
    threads: int
    reporter: Reporter


@dataclass(frozen=True)
class Method:
    """A change of a model.

    Args:
        name: of letters, digits and "_"; files and manifests have it.
        of: what it changes: a "checkpoint" before it is converted, or a "gguf" after it was quantized. Names, shapes
            and, of a GGUF, types of all tensors stay as they are: what a plan promises holds.
        run: does it, and returns facts worth keeping in the manifest; None for ggufkit's own, which are steps.
        options: a frozen dataclass of int, float, bool and str, each with a default.
        calibrated: it needs a text to calibrate on.
        package, version: of which package it is; filled in when it is found.
    """

    name: str
    of: Literal["checkpoint", "gguf"]
    run: Callable[[Work], Mapping[str, Json] | None] | None = None
    options: type[Any] | None = None
    calibrated: bool = False
    package: str = ""
    version: str = ""

    @property
    def title(self) -> str:
        """For messages: "smooth of ggufkit-smooth 1.0"."""
        return f"{self.name} of {self.package} {self.version}".rstrip() if self.package else self.name


AWQ = Method("awq", "checkpoint", calibrated=True)
"""AWQ scales are folded into the checkpoint before it is converted."""
GPTQ = Method("gptq", "gguf", calibrated=True)
"""The rounding is improved by GPTQ afterwards."""


def options_of(method: Method, words: Sequence[str]) -> Any:
    """The options of a method from `smooth.strength=0.5` and the like; what is said of other methods is passed over.

    Raises:
        UsageError: it has no such option, or the value is none of its type.
    """
    given = dict(pair(word)[1:] for word in words if pair(word)[0] == method.name)
    if method.options is None or not is_dataclass(method.options):
        if given:
            raise UsageError(f"{method.title} has no options.", hint="Leave out --variant-option.")
        return None
    names = [f.name for f in fields(method.options)]
    if unknown := [name for name in given if name not in names]:
        message = f"{method.title} has no option {unknown[0]!r}."
        raise UsageError(message, hint=f"It has {', '.join(names)}.")
    try:
        return msgspec.convert(given, method.options, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"An option of {method.title} is wrong: {error}.", hint=f"Write e.g. {_example(method)}."
        ) from None


def _example(method: Method) -> str:
    """How the options of a method are written, with their defaults."""
    told = fields(method.options) if method.options is not None else ()
    return " or ".join(f"{method.name}.{f.name}={f.default}" for f in told)


def pair(word: str) -> tuple[str, str, str]:
    """Method, option and value of `smooth.strength=0.5`. Raises UsageError."""
    name, equals, value = word.partition("=")
    method, dot, option = name.strip().partition(".")
    if not (equals and dot and method and option):
        raise UsageError(
            f"{word!r} is no option of a variant.", hint="Write VARIANT.OPTION=VALUE, e.g. smooth.strength=0.5."
        )
    return method, option, value.strip()
