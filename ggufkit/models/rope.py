"""Rope settings of a checkpoint that its GGUF does not hold, seen without computing anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ggufkit.llama.gguf import GgufHeader

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
