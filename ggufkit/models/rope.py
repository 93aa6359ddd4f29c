"""Settings of rope and attention that a checkpoint has and its GGUF does not hold, seen without computing anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ggufkit.llama.gguf import GgufHeader
from ggufkit.models.hyperparameters import of_text

_LONG_FACTORS = "rope_factors_long.weight"
_CLOSE = 1e-3


def unheeded(config: Mapping[str, Any], header: GgufHeader) -> list[str]:
    """Settings that llama.cpp will not heed, in words.

    Longrope's factors are tensors of a GGUF. Of yarn llama.cpp derives the attention factor from the factor by itself.
    Source: `src/llama-context.cpp`, `yarn_attn_factor`.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(rope, dict):
        return []
    kind, lost = rope.get("rope_type", rope.get("type")), list[str]()
    if kind in ("longrope", "su") and _LONG_FACTORS not in header.by_name:
        lost.append(f"the rope type {kind}, for architecture {header.architecture}")
    given, factor = rope.get("attention_factor"), rope.get("factor")
    if kind == "yarn" and isinstance(given, (int, float)) and isinstance(factor, (int, float)) and factor >= 1:
        derived = 0.1 * math.log(factor) + 1.0
        if abs(given - derived) > _CLOSE * derived:
            lost.append(f"attention_factor {given:g} of rope type yarn (llama.cpp computes with {derived:.4g})")
    return lost


def unheeded_in_long_texts(config: Mapping[str, Any], header: GgufHeader) -> Iterator[str]:
    """Settings that llama.cpp will not heed, and that change nothing up to some number of tokens, in words.

    Converters write a window and a scaling where llama.cpp has them for an architecture, or put the scaling into the base.
    """
    longest = of_text(config, "max_position_embeddings") or 0
    window, kinds = of_text(config, "sliding_window"), config.get("layer_types")
    used = of_text(config, "use_sliding_window") is not False and (
        not isinstance(kinds, list) or "sliding_attention" in kinds
    )
    if window and used and window < longest and not header.hparam("attention.sliding_window"):
        yield f"sliding_window, which matters beyond {window:,} tokens"
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "dynamic":
        return
    theta = config.get("rope_theta", rope.get("rope_theta"))
    scaled = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none") != "none"
    base = header.metadata.get(f"{header.architecture}.rope.freq_base")
    if not scaled and base == theta:
        yield f"the rope type dynamic, which matters beyond {longest:,} tokens"
