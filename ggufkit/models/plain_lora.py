"""A LoRA adapter of peft's as llama.cpp's converter reads it right: pairs of matrices under one scale, and nothing else.

The converter knows one rank and one alpha, and no other setting: what it would pass over in silence is folded into the
matrices here, or refused. It runs in a process of its own, as `peft`'s patterns are regular expressions of somebody else's.

Source: llama.cpp, `convert_lora_to_gguf.py`, `src/llama-adapter.cpp`; peft, `tuners/lora/layer.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core import confined
from ggufkit.core.errors import InputError
from ggufkit.core.limits import Limits
from ggufkit.core.records import Json
from ggufkit.models.checkpoint import read_config, stored_tensors
from ggufkit.models.lora import CONFIG, read_adapter
from ggufkit.models.peft_merge import WEIGHTS
from ggufkit.models.tensor_headers import StoredTensor, read_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")
_INITIAL = (None, True, False, "gaussian", "eva", "orthogonal")
"""Beginnings of a training that leave the base's weights as they are."""
_HARMLESS = frozenset({
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "lora_dropout",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights",
    "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "runtime_config",
})  # fmt: skip
"""Settings that are heeded here, or that only the training heeded."""
_REASONS = {
    "use_dora": "DoRA scales the base's rows as well",
    "modules_to_save": "it brings whole weights",
    "trainable_token_indices": "it brings embeddings of single tokens",
    "bias": "it changes biases",
    "lora_bias": "it changes biases",
    "alora_invocation_tokens": "it changes the weights for a part of the text only",
    "layer_replication": "it makes another model, with more layers",
    "target_parameters": "it changes parameters that are no matrix of a layer",
    "ensure_weight_tying": "it changes embedding and head at once",
}
"""Settings whose result a GGUF adapter cannot hold, and why."""
_EMBEDDING, _HEAD = (
    re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)$"),
    re.compile(r"(^|\.)(lm_head|embed_out)$"),
)
_BYTES, _ROOM = 12, 1 << 30


@dataclass(frozen=True)
class PlainLora:
    """What became of an adapter: how many matrices it changes, and its ranks."""

    n_matrices: int
    ranks: list[int]


@dataclass(frozen=True)
class _Settings:
    """What decides the scale of a matrix's change."""

    r: int
    lora_alpha: float
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    fan_in_fan_out: bool = False

    def rank(self, module: str) -> int:
        """The rank of a module's change."""
        return int(_of_pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """What a module's change is multiplied with."""
        rank = self.rank(module)
        return float(_of_pattern(self.alpha_pattern, module, self.lora_alpha)) / (
            math.sqrt(rank) if self.use_rslora else rank
        )


def make_plain(base: Path, adapter: Path, target: Path) -> PlainLora:
    """Write an adapter into a directory as the converter reads it right.

    Raises:
        InputError: it does not belong to this base, or a GGUF adapter cannot hold it.
    """
    limits = Limits(cpu_s=300, memory_bytes=_ROOM + _BYTES * (adapter / WEIGHTS).stat().st_size)
    try:
        made = confined.call(__name__, [str(base), str(adapter), str(target)], limits)
    except confined.Unfinished as ended:
        raise InputError(f"{adapter} cannot be read: {ended.reason}.", hint="Is it peft's?") from ended
    return PlainLora(**made)


def write_plain(base: Path, adapter: Path, target: Path) -> PlainLora:
    """The same in this process."""
    from safetensors.numpy import save_file

    work = _Work(base, adapter)
    config = read_adapter(adapter)
    settings = work.settings(config)
    pairs, weights = work.pairs(), dict[str, Any]()
    for module, (a, b) in sorted(pairs.items()):
        named = f"base_model.model.{module}.lora_%s.weight"
        weights[named % "A"], weights[named % "B"] = work.matrices(module, a, b, settings)
    if not work.changes:
        raise work.refused("it changes no weight: it was not trained")
    target.mkdir(parents=True)
    save_file(weights, target / WEIGHTS)
    plain = {"peft_type": "LORA", "r": settings.r, "lora_alpha": settings.lora_alpha}
    (target / CONFIG).write_text(json.dumps(plain), encoding="utf-8")
    return PlainLora(len(pairs), sorted({settings.rank(module) for module in pairs}))


class _Work:
    """One adapter, on its way to one base."""

    def __init__(self, base: Path, adapter: Path) -> None:
        self.base, self.adapter = base, adapter
        self.stored = {tensor.name: tensor for tensor in stored_tensors(base)}
        self.changes = False
        self.tied = bool(read_config(base).get("tie_word_embeddings", "lm_head.weight" not in self.stored))

    def refused(self, why: str, hint: str | None = None) -> InputError:
        """Why a GGUF adapter cannot hold it."""
        merge = f"Merge it into its base instead: ggufkit convert {self.base} --lora {self.adapter}"
        return InputError(f"{self.adapter} cannot be a GGUF adapter: {why}.", hint=hint or merge)

    def foreign(self, why: str) -> InputError:
        """Why it is no adapter of this base."""
        message = f"{self.adapter} is no adapter of {self.base}: {why}."
        return InputError(message, hint="Give with --base the checkpoint that it was trained on.")

    def settings(self, config: Mapping[str, Any]) -> _Settings:
        """What is heeded of its settings; others are refused where they change the result."""
        import msgspec

        if config.get("peft_type") != "LORA":
            raise self.refused(f"{config.get('peft_type')} is no LoRA")
        if (initial := config.get("init_lora_weights")) not in _INITIAL:
            raise self.refused(f"its training began with other weights of the base ({initial})")
        for name, value in config.items():
            if name not in _HARMLESS and value and value != "none":
                raise self.refused(_REASONS.get(name, f"what its setting {name} does is not known"))
        try:
            settings = msgspec.convert({k: v for k, v in config.items() if v is not None}, _Settings)
        except msgspec.ValidationError as error:
            raise InputError(
                f"{self.adapter / CONFIG} is not as expected: {error}.", hint="Is it peft's?"
            ) from error
        if settings.r < 1 or not settings.lora_alpha or not math.isfinite(settings.lora_alpha):
            raise self.refused(f"its rank is {settings.r}, its alpha {settings.lora_alpha:g}")
        return settings

    def pairs(self) -> Mapping[str, tuple[StoredTensor, StoredTensor]]:
        """The two matrices of each module that it changes."""
        found: dict[str, dict[str, StoredTensor]] = {}
        for tensor in read_tensors(self.adapter / WEIGHTS):
            named = _NAME.fullmatch(tensor.name)
            if named is not None:
                found.setdefault(named["module"], {})[named["side"]] = tensor
            elif not self._is_of_base(tensor):
                raise self.refused(f"it brings {tensor.name.removeprefix('base_model.model.')} beside its LoRA")
        for module, sides in found.items():
            if len(sides) < 2:
                raise self.foreign(f"of {module} one matrix lacks")
        if not found:
            raise self.refused("it holds no matrices of LoRA")
        return {module: (sides["A"], sides["B"]) for module, sides in found.items()}

    def _is_of_base(self, tensor: StoredTensor) -> bool:
        """Whether a weight that comes along is the base's own: peft saves an embedding beside what changes it."""
        name = tensor.name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        own = self.stored.get(name)
        if own is None and self.tied and _HEAD.search(name.removesuffix(".weight")):
            own = next((t for n, t in self.stored.items() if _EMBEDDING.search(n.removesuffix(".weight"))), None)
        return own is not None and own.shape == tensor.shape and bool((_read(own) == _read(tensor)).all())

    def matrices(
        self, module: str, a: StoredTensor, b: StoredTensor, settings: _Settings
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """A (rank, in) and B (out, rank) of a module, with its scale where that is not the converter's."""
        rank = self._rank(module, a, b, settings)
        factor = settings.scale(module) / (settings.lora_alpha / rank)
        first, second = _read(a), _read(b)
        if not (_is_finite(first) and _is_finite(second)):
            raise self.refused(
                f"{module} holds NaN or infinite values", "Train it again, or take an earlier checkpoint."
            )
        self.changes |= bool(second.any())
        if not math.isclose(factor, 1, rel_tol=1e-9):
            second = second.astype("float32") * factor
        # The base's matrix lies the other way round, and so does its change.
        return (second.T.copy(), first.T.copy()) if settings.fan_in_fan_out else (first, second)

    def _rank(self, module: str, a: StoredTensor, b: StoredTensor, settings: _Settings) -> int:
        """The rank of a module's change, once its shapes are found to be those of the base."""
        base = self.stored.get(f"{module}.weight")
        if self.tied and (_HEAD.search(module) or _EMBEDDING.search(module)):
            raise self.refused(f"it changes {module}, which in this model is embedding and head at once")
        if base is None:
            raise self.foreign(f"the model has no {module}")
        shape = base.shape[::-1] if settings.fan_in_fan_out else base.shape
        embeds = "lora_embedding" in a.name
        rank = settings.rank(module)
        wanted = (rank, shape[0] if embeds else shape[-1]), (shape[-1] if embeds else shape[0], rank)
        if len(shape) != 2 or (a.shape, b.shape) != wanted:
            told = " and ".join(" x ".join(map(str, t.shape)) for t in (a, b))
            raise self.foreign(
                f"its {module} is {told} where the model has {' x '.join(map(str, base.shape))}, rank {rank}"
            )
        return rank


def _of_pattern(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """A setting of a module as peft finds it: by the end of its name, which a pattern matches."""
    return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), otherwise)


def _read(tensor: StoredTensor) -> NDArray[Any]:
    """The values of a tensor, BF16 as F32."""
    import numpy as np

    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}
    if tensor.dtype not in kinds:
        message = f"{tensor.name} of {tensor.file} has the dtype {tensor.dtype}."
        raise InputError(message, hint="Save it in float32, float16 or bfloat16.")
    found: NDArray[Any] = np.fromfile(tensor.file, kinds[tensor.dtype], tensor.n_elements, offset=tensor.start)
    if tensor.dtype == "BF16":
        found = (found.astype("<u4") << 16).view("<f4")
    return found.reshape(tensor.shape)


def _is_finite(values: NDArray[Any]) -> bool:
    import numpy as np

    return bool(np.isfinite(values).all())


def _main(request: list[str]) -> Json:
    base, adapter, target = map(Path, request)
    return asdict(write_plain(base, adapter, target))


if __name__ == "__main__":
    confined.serve(_main)
