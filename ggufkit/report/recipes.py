"""What reports tell of files whose tensors have types by a recipe. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ggufkit.llama import quants
from ggufkit.recipes.type_map import Row, type_map
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.report.data import Entry, text_of

_ROLES = {"imatrix": "importance matrix", "calibration": "calibration text"}
_SHA256, _SHORT = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b"), r"\1…"


@dataclass(frozen=True)
class Told:
    """A file by a recipe.

    Args:
        entry: the file.
        preset: the preset of its variant that is nearest in size, None where there is none.
        facts: what was asked for and what came of it, as label and value.
        rows, preset_rows: the types of those tensors that the recipe chose, of the file and of the preset.
        choices: of the recipe, by tensor.
    """

    entry: Entry
    preset: Entry | None
    facts: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    rows: tuple[Row, ...]
    preset_rows: tuple[Row, ...]
    choices: dict[str, Choice]


def told(entries: Sequence[Entry], comparable: Collection[Entry]) -> tuple[Told, ...]:
    """What there is to tell of each file that has a recipe; `comparable` are those whose loss may be compared."""
    return tuple(_told(e, e.recipe, entries, comparable) for e in entries if e.recipe is not None)


def _told(entry: Entry, recipe: TypeRecipe, entries: Sequence[Entry], comparable: Collection[Entry]) -> Told:
    preset = nearest_preset(entry, entries)
    chosen = {choice.tensor: choice for choice in recipe.choices}
    return Told(
        entry=entry,
        preset=preset,
        facts=tuple(_facts(entry, recipe, preset if preset in comparable and entry in comparable else None)),
        remarks=(*recipe.remarks, *_deviations(entry, recipe)),
        rows=_map(entry, recipe),
        preset_rows=_map(preset, recipe) if preset is not None else (),
        choices=chosen,
    )


def _map(entry: Entry, recipe: TypeRecipe) -> tuple[Row, ...]:
    """The types that a file really has, of the tensors that a recipe is about."""
    return type_map({name: kind for name, kind in entry.types.items() if name in recipe.types})


def nearest_preset(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """The quantized file without a recipe that has the variant of `entry` and most nearly its size."""
    presets = [
        e for e in entries
        if e.recipe is None and e.row.variant == entry.row.variant and not quants.is_float(e.row.type)
    ]  # fmt: skip
    return min(presets, key=lambda e: abs(math.log(e.row.size_bytes / entry.row.size_bytes)), default=None)


def _facts(entry: Entry, recipe: TypeRecipe, preset: Entry | None) -> list[tuple[str, str]]:
    row = entry.row
    facts = [
        ("Asked for", recipe.target or "types written by hand"),
        ("Size", f"{row.size_bytes:,} bytes, {row.bpw:.3f} bits per weight"),
    ]
    if recipe.expected_kld is not None:
        facts.append(("KL divergence expected", f"{recipe.expected_kld:.3g} nats on the calibration text"))
    if row.kld_mean is not None:
        facts.append(("KL divergence measured", f"{_kld(entry)} on {text_of(entry)}"))
    if preset is not None and preset.row.kld_mean and row.kld_mean is not None:
        facts.append((f"Beside {preset.label}", _comparison(entry, preset)))
    return [*facts, *_measured_on(recipe)]


def _measured_on(recipe: TypeRecipe) -> list[tuple[str, str]]:
    """What the losses of types were measured on, hashes shortened."""
    said = [f"{_ROLES.get(r, r)} {_SHA256.sub(_SHORT, what)}" for r, what in recipe.measured_on.items()]
    return [("Losses of types from", "; ".join(said))] if said else []


def _kld(entry: Entry) -> str:
    row = entry.row
    error = "" if row.kld_stderr is None else f" ± {row.kld_stderr:.2g}"
    return f"{row.kld_mean:.4g}{error} nats"


def _comparison(entry: Entry, preset: Entry) -> str:
    """How a file does beside a preset, both measured on the same text."""
    loss = (entry.row.kld_mean or 0.0) / (preset.row.kld_mean or math.nan)
    share = entry.row.size_bytes / preset.row.size_bytes
    return (
        f"{loss:.2f} of its loss in {100 * share:.1f} % of its bytes ({preset.row.size_bytes:,} bytes, {_kld(preset)} "
        "on the same text)"
    )


def _deviations(entry: Entry, recipe: TypeRecipe) -> list[str]:
    """A recipe that does not tell what is in the file."""
    odd = [name for name, kind in recipe.types.items() if entry.types.get(name) != kind]
    if not odd:
        return []
    kind = entry.types.get(odd[0], "not there")
    more = f", and {len(odd) - 1} more tensors differ" if len(odd) > 1 else ""
    return [f"The file is not as its recipe says: {odd[0]} is {kind}, not {recipe.types[odd[0]]}{more}."]
