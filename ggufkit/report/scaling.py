"""What AWQ's scales did to each kind of tensor, and the outlier channels that are the reason. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, median

_TENSOR = re.compile(r"blk\.\d+\.(\w+)\.weight")


def in_words(label: str, tensors: Mapping[str, tuple[float | None, float]]) -> str:
    """What is known of a scaled checkpoint's tensors, the kinds that gained most first; "" where nothing is.

    Args:
        label: what it was scaled for: "awq", "awq+imatrix".
        tensors: of each, E[x²] of its input's largest channel over the median one's, and output error with the scales
            over that without.
    """
    known = {name: found for name, found in tensors.items() if _TENSOR.fullmatch(name)}
    if not known:
        return ""
    kinds: dict[str, list[tuple[float | None, float]]] = {}
    for name, found in known.items():
        kinds.setdefault(_TENSOR.sub(r"\1", name), []).append(found)
    ordered = sorted(kinds.items(), key=lambda item: fmean(ratio for _, ratio in item[1]))
    said = ", ".join(f"{kind} {_of_kind(of)}" for kind, of in ordered)
    most = min(known, key=lambda name: known[name][1])
    return (
        f"What the scales of {label} leave of the rounding error, by the output of each kind of tensor, and how many times "
        f"the median channel's power the largest channel of its input has (mean and median over layers): {said}; at most "
        f"they help {most}, {_of_kind([known[most]])}."
    )


def _of_kind(layers: Sequence[tuple[float | None, float]]) -> str:
    outliers = [outlier for outlier, _ in layers if outlier is not None]
    times = f", {median(outliers):,.0f} times" if outliers else ""
    return f"{fmean(ratio for _, ratio in layers):.1%}{times}"
