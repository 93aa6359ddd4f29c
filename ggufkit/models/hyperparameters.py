"""The numbers of config.json: what they can be at all, whatever the architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError

_WIDTH, _LAYERS, _VOCABULARY = 1 << 24, 1 << 16, 1 << 28
_COUNTS = {
    "hidden_size": _WIDTH, "n_embd": _WIDTH, "d_model": _WIDTH, "intermediate_size": _WIDTH,
    "moe_intermediate_size": _WIDTH, "head_dim": _WIDTH, "num_attention_heads": _LAYERS, "n_head": _LAYERS,
    "num_key_value_heads": _LAYERS, "num_hidden_layers": _LAYERS, "n_layer": _LAYERS, "num_experts": _LAYERS,
    "num_local_experts": _LAYERS, "n_routed_experts": _LAYERS, "vocab_size": _VOCABULARY,
}  # fmt: skip
"""What counts something: none is negative or a fraction, and none of any model comes near these."""
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
_CORRECT = "Correct config.json, or download it again."


def require_sane(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse numbers that no model has, before anything computes with them.

    Args:
        file: the config.json, for messages.

    Raises:
        CheckpointError: a hyperparameter is NaN, infinite, negative, a fraction or absurdly large; it is named.
    """
    for key, value in _numbers(config):
        name = key.rpartition(".")[2]
        wrong = (
            math.isnan(value)
            or (name in _COUNTS and not (0 <= value <= _COUNTS[name] and value == int(value)))
            or (name in _EPSILONS and not 0 <= value < 1)
            or (name == "rope_theta" and not 0 < value < math.inf)
        )
        if wrong:
            raise CheckpointError(f"{file} says that {key} is {value}, which no model has.", hint=_CORRECT)


def _numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers with their keys, "text_config.hidden_size", say; those of a list have the list's."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}.")
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, (int, float)) and not isinstance(one, bool):
                yield name, one
            elif isinstance(one, Mapping) and isinstance(value, list):
                yield from _numbers(one, f"{name}.")


def of_text(config: Mapping[str, Any], key: str) -> int | None:
    """A number of the language model, also where config.json describes further modalities."""
    for place in (config, config.get("text_config"), config.get("llm_config")):
        if isinstance(place, Mapping) and isinstance(number := place.get(key), int):
            return number
    return None
