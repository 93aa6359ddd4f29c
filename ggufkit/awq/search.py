"""The scale search: which scales leave the least output error under the types that the tensors will get.

A candidate is s = (rms of the input ^ share / rms of the weights' columns ^ (1 - share)) ^ strength, for each
channel; at strength 1 it undoes any earlier scaling of the channels, whatever the share. The identity is a
candidate too. A candidate's error under a type is the mean, over tensors, of

    tr(Δ H Δᵀ) / tr(W H Wᵀ),    Δ = Q(W · s) / s - W,    H = E[x xᵀ],

with Q the toolchain's own quantizer, given E[x²] / s² as importance where the variant uses a matrix. Its score is
the mean, over requested types, of that error relative to the identity's: a coarse type counts no more than a fine one.

A few rows, rounded to all of the types, say first which candidates are worth more. A model of rounding that knows no
types does not: where no channel stands out, it misses the best by as much as scales gain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import torch

from ggufkit.awq.archs import Fold
from ggufkit.awq.fold import Heads, column_scales
from ggufkit.awq.targets import Rows, Target
from ggufkit.core.records import Json
from ggufkit.llama.libggml import LibGgml

Types = Mapping[str, str]
"""The ggml type of each GGUF tensor, as a plan of llama-quantize names them."""

STRENGTHS = (0.5, 1.0)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
IDENTITY = "identity"

# Rows are rounded independently: some of a large tensor tell the candidates apart, fewer which are worth that.
_FEW, _MANY = Rows(1 << 16, fewest=16), Rows(1 << 18, fewest=64)
_FINALISTS = 3
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
class TensorGain:
    """What scales did for one tensor.

    Args:
        outlier: E[x²] of the input's largest channel, over that of its median one; None if that one is dead.
        ratio: output error with the scales over that without them, the mean over types.
    """

    outlier: float | None
    ratio: float

    def rounded(self) -> list[Json]:
        """Both, with as many digits as they are worth."""
        return [None if self.outlier is None else round(self.outlier, 2), round(self.ratio, 4)]


@dataclass(frozen=True)
class FoldScales:
    """The best scales of a fold (None: the identity), and the mean relative output error without and with them.

    `tensors` tells the same of each of its targets, by tensor of the GGUF.
    """

    scales: torch.Tensor | None
    candidate: str
    before: float
    after: float
    tensors: Mapping[str, TensorGain] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantizers:
    """The toolchain's quantizers, and the threads in which they round several candidates at once."""

    lib: LibGgml
    pool: Executor


Kind = tuple[str, bool]
"""What a tensor will be rounded to: its type, and whether by an importance matrix."""


def best_scales(
    fold: Fold,
    targets: Sequence[Target],
    schemes: Sequence[QuantizationScheme],
    heads: Heads,
    quantizers: Quantizers,
) -> dict[str, FoldScales]:
    """Search the scales of one fold, for all schemes at once, by their names."""
    kinds = {scheme.name: [_kinds(scheme, target) for target in targets] for scheme in schemes}
    rounded = [{k for of in kinds.values() for k in of[number] if k} for number in range(len(targets))]
    judged = [number for number, of in enumerate(rounded) if of]
    if not judged:
        return {scheme.name: FoldScales(None, IDENTITY, 0.0, 0.0) for scheme in schemes}
    options = candidates(fold, targets, heads)

    def judge(names: Sequence[str], rows: Rows) -> dict[str, list[_Judged]]:
        """By scheme, each target that it rounds."""
        columns = [column_scales(fold, options[name], heads) for name in names]
        errors = {n: _errors(targets[n], rounded[n], columns, rows, quantizers) for n in judged}
        every = {name: [_Judged(targets[n], of[n], errors[n]) for n in judged] for name, of in kinds.items()}
        return {name: [one for one in mine if any(one.kinds)] for name, mine in every.items()}

    roughly = torch.stack([_score(mine) for mine in judge(list(options), _FEW).values() if mine]).mean(0)
    best = (1 + roughly[1:].argsort(stable=True))[:_FINALISTS].tolist()
    finalists = [IDENTITY, *(list(options)[i] for i in best)]
    return {name: _best(mine, finalists, options) for name, mine in judge(finalists, _MANY).items()}


@dataclass(frozen=True)
class _Judged:
    """A target, its kind under each type of a scheme (None: a float), and its errors by kind, (candidates,)."""

    target: Target
    kinds: Sequence[Kind | None]
    errors: Mapping[Kind, torch.Tensor]

    @property
    def by_type(self) -> torch.Tensor:
        """Its errors: (types, candidates)."""
        none = torch.zeros_like(next(iter(self.errors.values())))
        return torch.stack([self.errors[k] if k else none for k in self.kinds])


def _best(judged: Sequence[_Judged], finalists: Sequence[str], options: Mapping[str, torch.Tensor]) -> FoldScales:
    if not judged:
        return FoldScales(None, IDENTITY, 0.0, 0.0)
    errors = torch.stack([j.by_type for j in judged]).mean(0)
    best = int(_score(judged).argmin())
    before, after = errors.mean(0)[[0, best]].tolist()
    gains: dict[str, list[TensorGain]] = {}
    for j in judged:
        quantized = torch.stack([j.errors[kind] for kind in j.kinds if kind])
        gain = TensorGain(j.target.outlier, float(_relative(quantized)[best]))
        gains.setdefault(j.target.linear.tensor, []).append(gain)
    scales = None if best == 0 else options[finalists[best]].clone()  # schemes are stored side by side
    return FoldScales(scales, finalists[best], before, after, {name: _mean(of) for name, of in gains.items()})


def _mean(gains: Sequence[TensorGain]) -> TensorGain:
    """Of the experts that one tensor holds."""
    outliers = [g.outlier for g in gains if g.outlier is not None]
    outlier = sum(outliers) / len(outliers) if outliers else None
    return TensorGain(outlier, sum(g.ratio for g in gains) / len(gains))


def _score(judged: Sequence[_Judged]) -> torch.Tensor:
    """What candidates are compared by: (candidates,)."""
    return _relative(torch.stack([j.by_type for j in judged]).mean(0))


def _relative(errors: torch.Tensor) -> torch.Tensor:
    """Errors (types, candidates) -> their mean over types, each relative to the first candidate's: (candidates,)."""
    identity = errors[:, :1]
    return torch.where(identity > 0, errors / identity, 1.0).mean(0)


def _kinds(scheme: QuantizationScheme, target: Target) -> list[Kind | None]:
    """What a target will be rounded to under each type; None where it stays a float."""
    names = [types.get(target.linear.tensor, "F32").upper() for types in scheme.types]
    return [None if name in _FLOATS else (name, scheme.importance) for name in names]


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
    kinds: Collection[Kind],
    columns: Sequence[torch.Tensor],
    judged_on: Rows,
    quantizers: Quantizers,
) -> dict[Kind, torch.Tensor]:
    """The relative output error of one target for each candidate, (candidates,), by what it may be rounded to."""
    rows = judged_on.of(target.weight).cpu()
    norm, power = target.output_power(rows), target.power.cpu()

    def error(scales: torch.Tensor, kind: Kind) -> float:
        name, importance = kind
        weighing = (power / scales.square()).numpy() if importance else None
        rounded = torch.from_numpy(quantizers.lib.rounded((rows * scales).numpy(), name, weighing))
        return target.output_power(rounded.div_(scales).sub_(rows)) / norm

    if not norm > 0:
        return {kind: torch.zeros(len(columns), dtype=torch.float64) for kind in kinds}
    jobs = [(scales, kind) for kind in kinds for scales in columns]
    with single_threaded():
        made = iter(list(quantizers.pool.map(lambda job: error(*job), jobs)))
    return {kind: torch.tensor([next(made) for _ in columns], dtype=torch.float64) for kind in kinds}


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch use one thread in each of the pool's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
