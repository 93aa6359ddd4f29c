"""The way to a proven Modelfile, through a process of its own (`proving`): a chat template is a program that somebody else
wrote, and may take time or memory without end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from ggufkit.core import confined
from ggufkit.core.errors import InputError
from ggufkit.core.limits import Limits
from ggufkit.core.records import Toolchain
from ggufkit.modelfile.grammar import Modelfile

_LIMITS = Limits(cpu_s=30, memory_bytes=1 << 30, turn_s=3)
"""A turn is one conversation, which takes milliseconds; all together take three seconds, and ten on a slow machine."""


@dataclass(frozen=True)
class ModelfileOptions:
    """What is wanted of a Modelfile.

    Args:
        kind: "go" or "native"; None leaves the choice to the proof and to the Ollama at hand.
        checkpoint: directory of the original, for its tokenizer and its generation_config.json.
        template: a Go template to prove in place of the learned one.
        force: write an unproven one rather than none.
    """

    kind: str | None = None
    checkpoint: Path | None = None
    system: str | None = None
    template: str | None = None
    force: bool = False


@dataclass(frozen=True)
class ProvenModelfile:
    """A Modelfile, of which kind it is, and why; or why it could not be proven, where it was to be written all the same.

    `prompt` is what the model's own template makes of a short chat, "" for a model without one.
    """

    modelfile: Modelfile
    kind: str
    why: str
    prompt: str = ""


def make_modelfile(gguf: Path, base: str, options: ModelfileOptions, tools: Toolchain | None) -> ProvenModelfile:
    """The Modelfile of a GGUF.

    Args:
        base: the GGUF's path as the Modelfile names it.
        tools: without them only a Go template can be proven, and without token ids.

    Raises:
        InputError: no template can be proven, and nothing forces one; or it takes time or memory without end.
    """
    asked = {"gguf": gguf, "base": base, "options": asdict(options), "tools": tools and asdict(tools)}
    try:
        made = confined.call("ggufkit.modelfile.proving", json.loads(json.dumps(asked, default=str)), _LIMITS)
    except confined.Unfinished as ended:
        message = f"The chat template of {gguf.name} is refused: to render a conversation {ended.reason}."
        raise InputError(message, hint="Take the template of the model's author.") from ended
    return msgspec.convert(made, ProvenModelfile)
