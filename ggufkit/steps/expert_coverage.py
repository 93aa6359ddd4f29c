"""How many tokens of a calibration text reached each expert of a Mixture of Experts, by an importance matrix (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggufkit.core.progress import Reporter

FEW = 32
"""Tokens below which E[x²] of a column is off by more than a quarter: its relative error is the root of 2 / tokens."""

_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_\w+_exps\.weight")
_SHOWN = 3


@dataclass(frozen=True)
class Coverage:
    """Experts of all layers.

    Args:
        n_experts: over all layers.
        least, median: tokens that reached an expert.
        unseen, few: experts that no token reached, or some but fewer than `FEW`, as "layer 3, expert 17".
    """

    n_experts: int = 0
    least: int = 0
    median: int = 0
    unseen: Sequence[str] = ()
    few: Sequence[str] = ()

    @property
    def sentence(self) -> str:
        """In words: "64 experts saw 1,204 tokens or more each, half of them 9,211 or more"."""
        seen = f"{self.n_experts} experts saw {self.least:,} tokens or more each, half of them {self.median:,} or more"
        some = [f"{len(self.unseen)} saw none"] if self.unseen else []
        some += [f"{len(self.few)} fewer than {FEW}"] if self.few else []
        return "; ".join([seen, *some])

    @property
    def warning(self) -> str | None:
        """What is to be warned of; None where all saw enough."""
        sparse = ((self.unseen, "no token"), (self.few, f"fewer than {FEW} tokens"))
        said = [f"{len(experts)} saw {what} ({_some(experts)})" for experts, what in sparse if experts]
        if not said:
            return None
        return (
            f"Of {self.n_experts} experts {' and '.join(said)} of the calibration text: their weights are rounded without "
            "knowing what matters. More text, or text of more kinds, reaches more of them."
        )


def told(counts: Mapping[str, Sequence[float]], reporter: Reporter) -> str | None:
    """What experts saw, in words; None where there are none. Warns where some saw too little."""
    found = coverage(counts)
    if found is not None and found.warning is not None:
        reporter.warn(found.warning)
    return found.sentence if found is not None else None


def coverage(counts: Mapping[str, Sequence[float]]) -> Coverage | None:
    """What an importance matrix tells of experts; None where there are none, or its format does not tell them apart.

    Args:
        counts: tokens that each matrix of a tensor saw, by the tensor's name.
    """
    of_layers: dict[int, Sequence[float]] = {}
    for name, seen in counts.items():
        if (found := _EXPERTS.fullmatch(name)) is not None and len(seen) > 1:
            of_layers.setdefault(int(found[1]), seen)
    experts = [(layer, i, int(n)) for layer, seen in sorted(of_layers.items()) for i, n in enumerate(seen)]
    if not experts:
        return None
    tokens = sorted(n for _, _, n in experts)
    named = [(f"layer {layer}, expert {i}", n) for layer, i, n in experts]
    return Coverage(
        len(experts),
        tokens[0],
        tokens[len(tokens) // 2],
        tuple(name for name, n in named if n == 0),
        tuple(name for name, n in named if 0 < n < FEW),
    )


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
