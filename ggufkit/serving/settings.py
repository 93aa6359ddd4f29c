"""How answers of a conversation are made: settings by the names that llama.cpp's and Ollama's users know. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ggufkit.core import values
from ggufkit.core.errors import UsageError
from ggufkit.core.values import Kind

_MOST = values.MOST
CONTEXT = "num_ctx"
"""The setting for which the model is loaded again."""


@dataclass(frozen=True)
class Settings:
    """What a conversation is told besides its turns. None leaves a thing as llama-server has it.

    Args:
        num_predict: tokens of an answer at most, None for as many as the context holds.
        num_ctx: tokens of context, None for what was chosen for the model.
    """

    system: str | None = None
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int = 42
    num_predict: int | None = None
    num_ctx: int | None = None

    def body(self) -> dict[str, Any]:
        """What of it goes with each request."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        del given["system"], given[CONTEXT]
        given["max_tokens"] = given.pop("num_predict")
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Setting:
    """How a setting is written, and what it means."""

    kind: Kind
    meaning: str


SETTINGS: Mapping[str, Setting] = {
    "system": Setting(values.TEXT, "what the model is told before all else"),
    "temperature": Setting(values.Real(0), "0 takes the likeliest token each time"),
    "top_k": Setting(values.Whole(0, _MOST), "of so many likeliest tokens one is drawn; 0 is all"),
    "top_p": Setting(values.Real(0, 1), "of the likeliest tokens that have so much probability together"),
    "min_p": Setting(values.Real(0, 1), "none less likely than this share of the likeliest"),
    "repeat_penalty": Setting(values.Real(0), "1 does not mind repetition"),
    "seed": Setting(values.Whole(0, _MOST), "of the drawing"),
    "num_predict": Setting(values.Count("all"), "tokens of an answer at most; all that the context holds"),
    CONTEXT: Setting(values.Count("auto", 64), "tokens of context; the model is loaded again for it"),
}
"""TABLE of settings."""
_ALSO = {"max_tokens": "num_predict", "ctx": CONTEXT}
"""What the command line calls them."""


def named(name: str) -> str:
    """A setting's own name, of those that it is known by.

    Raises:
        UsageError: there is none of this name.
    """
    known = _ALSO.get(name, name)
    if known not in SETTINGS:
        raise UsageError(f"There is no setting {name}.", hint=f"There are {', '.join(SETTINGS)}.")
    return known


def changed(settings: Settings, name: str, written: str) -> Settings:
    """The settings with one of another value.

    Raises:
        UsageError: there is none of this name, or this is no value of it.
    """
    known = named(name)
    value = values.read(known, SETTINGS[known].kind, written)
    change: dict[str, Any] = {known: None if value == "" else value}
    return replace(settings, **change)
