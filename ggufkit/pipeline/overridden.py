"""What a build tells llama-quantize besides types: which files it is for, and where it cannot work."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from ggufkit.core.errors import UsageError
from ggufkit.core.records import QuantType
from ggufkit.core.variants import Variant
from ggufkit.llama import quants, targets
from ggufkit.llama.argv import Overrides
from ggufkit.request import BuildRequest

NONE = Overrides()
_LONGEST = 70


def of_kind(overrides: Overrides, kind: QuantType) -> Overrides:
    """What is told of files of a type: nothing of float types, which are conversions."""
    return NONE if quants.is_float(kind.name) else overrides


def of_whole_model(overrides: Overrides) -> Overrides:
    """The same where no layer is left out: a search before the quantization sees the model as it is."""
    return replace(overrides, prune_layers=())


def shown(overrides: Overrides) -> str:
    """As the tool's options, cut where they are many; for people."""
    words = shlex.join(overrides.options())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} …"


def require_used(request: BuildRequest, chosen: Sequence[Variant]) -> Overrides:
    """All that is told, as far as the request alone shows that it can be.

    Raises:
        InputError: an option's value is none, or its file cannot be read.
        UsageError: it has no part in what is asked for, or contradicts it.
    """
    told = request.overrides.resolve()
    if told == NONE:
        return told
    if all(quants.is_float(name.strip().upper()) for name in request.types):
        message = f"{shown(told)}: no type is asked for that has it, float types are conversions."
        raise UsageError(message, hint="Ask for a quantized type, e.g. --types q4_k_m.")
    if told.prune_layers and (refined := [v.name for v in chosen if v.refined]):
        message = f"--prune-layers cannot go with --variants {refined[0]}: refining compares with the whole model, by layer."
        raise UsageError(message, hint="Leave the variant out, or prune the checkpoint and build that.")
    require_own_types(told, [*request.types, *(["--fits"] if request.report.fits is not None else [])])
    return told


def require_own_types(told: Overrides, types: Sequence[str]) -> None:
    """Of a recipe's file, and of one whose types are measured, no type is left to be told; nor may layers be missing.

    Args:
        types: as they are typed; or what else a file is made for.

    Raises:
        UsageError: it is told all the same.
    """
    fixed = [n for n in types if n == "--fits" or targets.is_measured(n) or targets.recipe_file(n) is not None]
    if fixed and replace(told, kv=()) != NONE:
        message = f"The types of the file for {fixed[0]} are chosen otherwise: only --override-kv goes with it."
        raise UsageError(message, hint="Make it in a command of its own, or write exceptions into its recipe.")
