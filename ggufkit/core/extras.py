"""Optional parts of the installation: which packages each needs, and the command that brings them.

`pip install ggufkit` is light. What runs a checkpoint, or reads what few people have, comes as an extra, which is
asked for before anything long runs.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ggufkit.core.errors import MissingExtra


@dataclass(frozen=True)
class Extra:
    """An extra of `pyproject.toml`: what for, as the beginning of a sentence, and the modules that it brings."""

    name: str
    purpose: str
    modules: tuple[str, ...]

    def missing(self, needed: Sequence[str] | None = None) -> tuple[str, ...]:
        """Its modules, or those of them that are needed, that are not installed."""
        wanted = [module for module in self.modules if needed is None or module in needed]
        return tuple(module for module in wanted if not _is_installed(module))


# llama.cpp's converter imports torch and transformers at once, sentencepiece and protobuf for some tokenizers;
# transformers builds a model without storage with accelerate.
_CHECKPOINTS = (
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "tokenizers",
    "sentencepiece",
    "google.protobuf",
)

EXTRAS = {
    extra.name: extra
    for extra in (
        Extra("convert", "Converting a checkpoint", _CHECKPOINTS),
        Extra("awq", "AWQ", _CHECKPOINTS),
        Extra("refine", "Refining", _CHECKPOINTS),
        Extra("recipe", "Choosing a type for each tensor", ("scipy",)),
        Extra("lora", "Merging a LoRA adapter", (*_CHECKPOINTS, "peft")),
        Extra("data", "Reading tables and data sets", ("pyarrow", "datasets")),
        Extra("sweep", "Many models at once", ("distributed", "dask_jobqueue", "bokeh", "fsspec")),
        Extra("serve", "Checking an endpoint", ("openai",)),
        Extra("tasks", "Judging what a model writes", ("lm_eval",)),
        Extra("modelscope", "ModelScope", ("modelscope_hub",)),
        Extra("formats", "Measuring quantized checkpoints", (*_CHECKPOINTS, "bitsandbytes", "compressed_tensors")),
    )
}


def require(*names: str, modules: Sequence[str] | None = None, purpose: str | None = None) -> None:
    """Refuse to start what lacks packages.

    Args:
        modules: those that are needed of the extras', None for all.
        purpose: what for, where it is not what the extra is for.

    Raises:
        MissingExtra: an extra is not installed, or not whole; the hint is the command that brings all of `names`.
    """
    lacking = [extra for name in names if (extra := EXTRAS[name]).missing(modules)]
    if lacking:
        missing = ", ".join(lacking[0].missing(modules))
        message = f"{purpose or lacking[0].purpose} needs what is not installed: {missing}."
        raise MissingExtra(message, hint=f"Install it: {install_command(*(extra.name for extra in lacking))}")


def install_command(*names: str) -> str:
    """What to type to install extras into this Python."""
    return f"{sys.executable} -m pip install 'ggufkit[{','.join(names)}]'"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
