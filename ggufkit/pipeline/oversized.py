"""What is said of files that are larger than the names of their types promise, once their losses are known too."""

from __future__ import annotations

from collections.abc import Sequence

from ggufkit.core.progress import OneOfMany
from ggufkit.core.records import ResultRow
from ggufkit.pipeline.resources import PlannedFile

WHY = "Larger than their names promise, as widths of this model are no multiples of their blocks:"


def warnings(files: Sequence[PlannedFile], rows: Sequence[ResultRow]) -> list[OneOfMany]:
    """A warning for each type, to be said together; arguments are those of `remarks`."""
    return [OneOfMany(f"{WHY} {{}}.", remark) for remark in remarks(files, rows)]


def remarks(files: Sequence[PlannedFile], rows: Sequence[ResultRow]) -> list[str]:
    """What to say of each type: "Q4_K_M promises 4.90 bits/weight, has 7.30 (IQ4_XS has 6.92 at KLD 0.0093, not 0.0041)".

    Args:
        rows: what was measured of these files and of others of the model, for what the smaller type costs.
    """
    told = sorted((f for f in files if f.is_warned_of), key=lambda f: not _cost(f, rows))
    by_type = {file.type: file for file in reversed(told)}
    return [_about(by_type[t], rows) for t in dict.fromkeys(f.type for f in files) if t in by_type]


def _about(file: PlannedFile, rows: Sequence[ResultRow]) -> str:
    said = f"{file.type} promises {file.nominal_bpw or 0:.2f} bits/weight, has {file.bpw:.2f}"
    if file.smaller is None:
        return f"{said} (nothing nearby is smaller)"
    return f"{said} ({file.smaller.type} has {file.smaller.bpw:.2f}{_cost(file, rows)})"


def _cost(file: PlannedFile, rows: Sequence[ResultRow]) -> str:
    """What the smaller type loses and this one does, where both were measured alike."""
    losses = {row.type: row.kld_mean for row in rows if row.variant == file.variant}
    own, other = losses.get(file.type), losses.get(file.smaller.type) if file.smaller else None
    return "" if own is None or other is None else f" at KLD {other:.4g}, not {own:.4g}"
