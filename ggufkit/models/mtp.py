"""Layers of a checkpoint that predict further tokens (MTP, NextN): whether it has them, or only says so. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ggufkit.models.hyperparameters import of_text

_STORED = re.compile(r"(?:^|\.)(?:mtp\w*|nextn\w*|eh_proj|shared_head)\.")
_LAYER = re.compile(r"^(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d{1,6})\.")
_ANNOUNCED = ("mtp_num_hidden_layers", "num_nextn_predict_layers", "num_mtp_modules")


def are_stored(names: Iterable[str], config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's tensors include such layers: called so, or counted after the model's own layers."""
    n_layers = of_text(config, "num_hidden_layers")

    def is_one(name: str) -> bool:
        at = _LAYER.match(name)
        beyond = at is not None and n_layers is not None and int(at[1]) >= n_layers
        return beyond or _STORED.search(name) is not None

    return any(map(is_one, names))


def are_announced(config: Mapping[str, Any]) -> bool:
    """Whether config.json says that there are such layers. transformers keeps that, and saves the model without them."""
    return any((of_text(config, key) or 0) > 0 for key in _ANNOUNCED)
