"""The scale search: which scales leave the least output error under the types that the tensors will get.

A candidate is s = (rms of the input ^ share / rms of the weights' columns ^ (1 - share)) ^ strength, for each
channel; at strength 1 it undoes any earlier scaling of the channels, whatever the share. The identity is a
candidate too. A candidate's error under a type is the mean, over tensors, of

    tr(Δ H Δᵀ) / tr(W H Wᵀ),    Δ = Q(W · s) / s - W,    H = E[x xᵀ],

with Q the toolchain's own quantizer, given E[x²] / s² as importance where the variant uses a matrix. Its score is
the mean, over requested types, of that error relative to the identity's: a coarse type counts no more than a fine one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch

from ggufkit.awq.archs import Fold
from ggufkit.awq.fold import Heads, column_scales
from ggufkit.layers import Linear, Moments
from ggufkit.llama.libggml import LibGgml

Types = Mapping[str, str]
"""The ggml type of each GGUF tensor, as a plan of llama-quantize names them."""

STRENGTHS = (0.5, 1.0)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
IDENTITY = "identity"

# Rows are rounded independently: some of a large tensor tell the candidates apart. A few weights, in whole rows,
# say which candidates are worth more.
_FEW_WEIGHTS, _MOST_WEIGHTS = 1 << 17, 1 << 19
_FEWEST_ROWS = 64
_FINALISTS = 3
_JOB_WEIGHTS = 1 << 18
# Channels that carry next to nothing must not get scales of their own.
_FLOOR = 1e-4
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class QuantizationScheme:
    """What weights will be quantized to: what scales are searched for.

    Args:
        name: what the result is called by: "awq", "awq+imatrix", "awq-Q4_0".
        types: one mapping per requested type; the mean of their errors, each relative to what it was, counts.
        importance: whether quantization will be given an importance matrix.
    """

    name: str
    types: tuple[Types, ...]
    importance: bool = False


@dataclass(frozen=True)
class FoldScales:
    """The best scales of a fold (None: the identity), and the mean relative output error without and with them."""

    scales: torch.Tensor | None
    candidate: str
    before: float
    after: float


@dataclass(frozen=True)
class Target:
    """A linear that a fold scales.

    Args:
        linear, weight: which it is, and its weight (out, in).
        gram: sum of x xᵀ over its inputs (in, in), or of x² (in,) where that is all there is.
    """

    linear: Linear
    weight: torch.Tensor
    gram: torch.Tensor

    @property
    def power(self) -> torch.Tensor:
        """Sum of x² over the inputs, (in,)."""
        return self.gram.diagonal() if self.gram.dim() == 2 else self.gram

    def output_power(self, weight: torch.Tensor) -> float:
        """tr(W H Wᵀ): the sum of squares of the outputs that (rows, in) weights make."""
        rows = weight.to(self.gram.device)
        made = rows @ self.gram if self.gram.dim() == 2 else rows * self.gram
        return float((made * rows).sum(dtype=torch.float64))


def targets_of(
    fold: Fold, weights: Mapping[str, torch.Tensor], linears: Sequence[Linear], moments: Mapping[str, Moments]
) -> list[Target]:
    """The targets of a fold that become matrices and whose input was seen at least once."""
    seen = [x for x in linears if x.module in fold.targets and moments[x.input].count]
    return [Target(x, weights[x.module], moments[x.input].total()) for x in seen]


@dataclass(frozen=True)
class Quantizers:
    """The toolchain's quantizers, and the threads in which they round several candidates at once."""

    lib: LibGgml
    pool: Executor


def best_scales(
    fold: Fold, targets: Sequence[Target], scheme: QuantizationScheme, heads: Heads, quantizers: Quantizers
) -> FoldScales:
    """Search the scales of one fold."""
    kinds = [[_type_of(types, target) for types in scheme.types] for target in targets]
    judged = [(target, of) for target, of in zip(targets, kinds, strict=True) if any(of)]
    if not judged:
        return FoldScales(None, IDENTITY, 0.0, 0.0)
    options = candidates(fold, targets, heads)

    def errors(names: Sequence[str], n_weights: int) -> torch.Tensor:
        """By type and candidate: (types, names)."""
        columns = [column_scales(fold, options[name], heads) for name in names]
        made = torch.zeros(len(scheme.types), len(names), dtype=torch.float64)
        for target, of in judged:
            by_kind = _errors(target, {k for k in of if k}, columns, n_weights, scheme.importance, quantizers)
            made += torch.stack([by_kind[k] if k else made.new_zeros(len(names)) for k in of])
        return made / len(judged)

    names = list(options)
    rough = _relative(errors(names, _FEW_WEIGHTS))[1:]
    finalists = [IDENTITY, *(names[1 + i] for i in rough.argsort(stable=True)[:_FINALISTS].tolist())]
    final = errors(finalists, _MOST_WEIGHTS)
    best = int(_relative(final).argmin())
    before, after = final.mean(0)[[0, best]].tolist()
    return FoldScales(None if best == 0 else options[finalists[best]], finalists[best], before, after)


def _relative(errors: torch.Tensor) -> torch.Tensor:
    """Errors (types, candidates) -> their mean over types, each relative to the first candidate's: (candidates,)."""
    identity = errors[:, :1]
    return torch.where(identity > 0, errors / identity, 1.0).mean(0)


def _type_of(types: Types, target: Target) -> str | None:
    """The quantized type of a target; None if it stays a float."""
    name = types.get(target.linear.tensor, "F32").upper()
    return None if name in _FLOATS else name


def candidates(fold: Fold, targets: Sequence[Target], heads: Heads) -> dict[str, torch.Tensor]:
    """Scales to try by name, the identity first; each has a geometric mean of 1, one scale per source channel."""
    x = torch.stack([t.power for t in targets]).mean(0).sqrt()
    w = torch.cat([t.weight.to(x.device).square() for t in targets]).mean(0).sqrt()
    if fold.per_kv_channel:
        x, w = heads.gather(x), heads.gather(w)
    log_x, log_w = (torch.log(v.clamp(min=_FLOOR * float(v.max()) or 1.0)) for v in (x, w))
    found = {IDENTITY: torch.ones_like(x)}
    for strength in STRENGTHS:
        for share in SHARES:
            log_s = strength * (share * log_x - (1 - share) * log_w)
            found[f"{strength:g}·({share:g})"] = torch.exp(log_s - log_s.mean())
    return {name: s.cpu() for name, s in found.items()}


def _errors(
    target: Target,
    kinds: Collection[str],
    columns: Sequence[torch.Tensor],
    n_weights: int,
    importance: bool,
    quantizers: Quantizers,
) -> dict[str, torch.Tensor]:
    """The relative output error of one target for each candidate, (candidates,), by the types that it may get.

    Judged on about `n_weights` of its weights.
    """
    rows = _some_rows(target.weight, n_weights).cpu()
    norm = target.output_power(rows)
    power = target.power.cpu()
    step = max(1, _JOB_WEIGHTS // rows.shape[1])

    def error(scales: torch.Tensor, kind: str, start: int) -> float:
        part = rows[start : start + step]
        weighing = (power / scales.square()).numpy() if importance else None
        rounded = torch.from_numpy(quantizers.lib.rounded((part * scales).numpy(), kind, weighing))
        return target.output_power(rounded / scales - part)

    jobs = [(c, kind, start) for c in range(len(columns)) for kind in kinds for start in range(0, len(rows), step)]
    errors = {kind: torch.zeros(len(columns), dtype=torch.float64) for kind in kinds}
    if norm > 0:
        with single_threaded():
            made = quantizers.pool.map(lambda job: error(columns[job[0]], job[1], job[2]), jobs)
            for (candidate, kind, _), value in zip(jobs, made, strict=True):
                errors[kind][candidate] += value / norm
    return errors


def _some_rows(weight: torch.Tensor, n_weights: int) -> torch.Tensor:
    wanted = max(_FEWEST_ROWS, n_weights // weight.shape[1])
    if len(weight) <= wanted:
        return weight
    chosen = torch.linspace(0, len(weight) - 1, wanted, device=weight.device).round().long()
    return weight[chosen]


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch use one thread in each of the pool's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
