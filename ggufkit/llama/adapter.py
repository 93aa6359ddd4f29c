"""GGUFs that lie beside a model and change it: LoRA adapters and control vectors, and whether they are a model's own.

llama.cpp refuses most of what does not belong together, after it has loaded the model; here the headers tell it.
Source: `src/llama-adapter.cpp`, `common/common.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core.errors import GgufError, InputError, UsageError
from ggufkit.core.paths import user_path
from ggufkit.llama.gguf import GgufHeader, read_header

_A, _B = ".lora_a", ".lora_b"
_EMBEDDING = "token_embd.weight"
_STEERING, _DIRECTION = "controlvector", "direction."
_SCALED = re.compile(r"(?P<file>.+)=(?P<scale>[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)", re.IGNORECASE | re.DOTALL)
_HINT = "Give the adapter that was made for this model: ggufkit lora ADAPTER --base CHECKPOINT."


@dataclass(frozen=True)
class Adapter:
    """A GGUF adapter, and what its change is multiplied with."""

    file: Path
    scale: float = 1.0


class Scaled:
    """How an adapter is written: `FILE`, or `FILE=0.5`."""

    def read(self, given: Any) -> Adapter:
        """The file and its scale."""
        if isinstance(given, Adapter):
            return given
        text = str(given)
        found = _SCALED.fullmatch(text)
        whole = found is None or user_path(text).is_file()
        if found is None or whole:
            return Adapter(user_path(text))
        return Adapter(user_path(found["file"]), float(found["scale"]))


def require_kin(adapter: Adapter, model: GgufHeader) -> None:
    """A LoRA adapter is one of this model: of its architecture, each change of the shape of a tensor that is there.

    Raises:
        GgufError: the file cannot be read, or is no adapter.
        InputError: it is another model's.
        UsageError: llama.cpp's command line cannot name it.
    """
    header = read_header(adapter.file)
    kind = header.metadata.get("general.type", "model")
    if (kind, header.metadata.get("adapter.type")) != ("adapter", "lora"):
        raise GgufError(f"{adapter.file} is no LoRA adapter: its general.type is {kind}.", hint=_HINT)
    _require_nameable(adapter)
    why = _strangeness(header, model)
    if why is not None:
        raise InputError(f"{adapter.file.name} is no adapter of {model.path.name}: {why}.", hint=_HINT)


def require_all_kin(loras: Sequence[Adapter], control_vectors: Sequence[Adapter], model: GgufHeader) -> None:
    """All that is to change a model is the model's own. Raises as `require_kin`."""
    for one in loras:
        require_kin(one, model)
    for one in control_vectors:
        _require_steers(one, model)


def _require_steers(vector: Adapter, model: GgufHeader) -> None:
    """A control vector has directions as wide as the model is."""
    header, width = read_header(vector.file), model.hparam("embedding_length")
    directions = [tensor for tensor in header.tensors if tensor.name.startswith(_DIRECTION)]
    if header.architecture != _STEERING or not directions:
        hint = "Give what llama-cvector-generator or repeng wrote."
        raise GgufError(
            f"{vector.file} is no control vector: its architecture is {header.architecture}.", hint=hint
        )
    _require_nameable(vector)
    wrong = next((tensor for tensor in directions if tensor.shape != (width,)), None)
    if wrong is not None:
        why = f"its {wrong.name} has {_words(wrong.shape)} values, the model {width}"
        hint = "Give one that was made for this model."
        raise InputError(f"{vector.file.name} is no control vector of {model.path.name}: {why}.", hint=hint)


def _require_nameable(adapter: Adapter) -> None:
    if adapter.scale != 1 and ":" in str(adapter.file):
        raise UsageError(f"{adapter.file} has a colon in its path: llama.cpp cannot scale it.", hint="Rename it.")


def _strangeness(adapter: GgufHeader, model: GgufHeader) -> str | None:
    """Why an adapter does not belong to a model; None where it may."""
    if adapter.architecture != model.architecture:
        return f"its architecture is {adapter.architecture}, that of the model {model.architecture}"
    names = [tensor.name.removesuffix(_A) for tensor in adapter.tensors if tensor.name.endswith(_A)]
    odd = next((t.name for t in adapter.tensors if t.name[-len(_A) :] not in (_A, _B)), None)
    if odd is not None or not names:
        return f"it holds {odd}, which llama.cpp does not apply" if odd is not None else "it changes nothing"
    return next(filter(None, (_misfit(name, adapter, model) for name in names)), None)


def _misfit(name: str, adapter: GgufHeader, model: GgufHeader) -> str | None:
    """What is wrong with the change of one tensor."""
    own, a, b = model.by_name.get(name), adapter.by_name[name + _A], adapter.by_name.get(name + _B)
    if own is None or b is None:
        return f"it changes {name}, which the model lacks" if own is None else f"it lacks {name}{_B}"
    if name == _EMBEDDING and "output.weight" not in model.by_name:
        return f"it changes {name}, which in this model is the output, too"
    changed = (b.shape[1], a.shape[1]) if name == _EMBEDDING else (a.shape[0], b.shape[1])
    if changed == own.shape[:2] and a.shape[2:] == b.shape[2:] == own.shape[2:]:
        return None
    return f"it changes {name} of {_words(changed)}, the model's has {_words(own.shape)}"


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
