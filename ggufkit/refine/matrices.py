"""Refine the matrices that share an input, and keep of each what is better on held-out tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ggufkit.core.errors import CheckpointError
from ggufkit.layers import Linear, StreamedModel, from_file_rows, to_file_rows
from ggufkit.refine.grid import Grid, join, read_grid, write_grid
from ggufkit.refine.solve import correction, solve
from ggufkit.refine.state import Outcome, State
from ggufkit.refine.statistics import HeldOut, InputStatistics
from ggufkit.refine.tensors import Pair

# Another model's weights differ everywhere; the same in another precision by less than this share of the largest.
_SAME = 1e-2


class Owner(Protocol):
    """Where matrices live in the running model: a layer, or the head."""

    model: StreamedModel

    def weight(self, linear: Linear) -> torch.Tensor:
        """The original's weight, (out, in) in the checkpoint's order."""

    def set_weight(self, linear: Linear, weight: torch.Tensor) -> None:
        """Go on with this weight, (out, in) in the checkpoint's order, where the refined model is run."""


@dataclass(frozen=True)
class _Matrix:
    """A matrix: its present blocks, the weights that it should have (columns, rows), and what to judge it by."""

    linear: Linear
    grid: Grid
    target: torch.Tensor
    held_out: HeldOut


def refine_matrices(
    pair: Pair,
    state: State,
    owner: Owner,
    linears: Sequence[Linear],
    sums: InputStatistics,
    act_order: str = "auto",
) -> None:
    """Refine the linears of one input, those of a type together; note the outcomes and use the new weights.

    Args:
        act_order: as for `solve`.

    Raises:
        CheckpointError: the base's weights are not the checkpoint's.
        InputError: the second moments are not finite.
    """
    todo = [linear for linear in linears if not _is_done(pair, state, owner, linear)]
    hessian = sums.moments.mean() if todo else torch.zeros(0)
    todo.sort(key=lambda x: pair.quantized.by_name[x.tensor].type)
    for _, same in itertools.groupby(todo, key=lambda x: pair.quantized.by_name[x.tensor].type):
        matrices = [_matrix(pair, owner, linear, sums, hessian) for linear in same]
        if reason := _too_few_tokens(sums):
            solved = [matrix.grid for matrix in matrices]
        else:
            solved = _solve_together(matrices, hessian, act_order)
        for matrix, grid in zip(matrices, solved, strict=True):
            _settle(state, owner, matrix, grid, reason)


def _solve_together(matrices: Sequence[_Matrix], hessian: torch.Tensor, act_order: str) -> list[Grid]:
    target = torch.cat([matrix.target for matrix in matrices], dim=1)
    grid = join([matrix.grid for matrix in matrices])
    whole = solve(grid, target, hessian, matrices[0].linear.tensor, act_order)
    ends = itertools.accumulate(matrix.grid.n_rows for matrix in matrices)
    return [whole.rows(end - matrix.grid.n_rows, end) for matrix, end in zip(matrices, ends, strict=True)]


def _is_done(pair: Pair, state: State, owner: Owner, linear: Linear) -> bool:
    """Whether an earlier run finished this matrix; its weights are used then."""
    known, codec = state.load(linear.tensor, linear.expert), pair.codec(linear.tensor)
    if known is None or codec is None:
        return False
    old = pair.raw(linear.tensor, linear.expert)
    outcome, new = known
    _use(owner, linear, read_grid(codec, new.reshape(old.shape) if outcome.kept else old, owner.model.device))
    return True


def _matrix(pair: Pair, owner: Owner, linear: Linear, sums: InputStatistics, hessian: torch.Tensor) -> _Matrix:
    codec, device = pair.codec(linear.tensor), owner.model.device
    assert codec is not None
    grid = read_grid(codec, pair.raw(linear.tensor, linear.expert), device)
    original = pair.weights(linear.tensor, linear.expert, device).T.contiguous()
    _require_same(pair, owner, linear, original)
    held_out = sums.held_out(original)
    return _Matrix(linear, grid, _target(original, sums, hessian, held_out, linear.tensor), held_out)


def _target(
    original: torch.Tensor, sums: InputStatistics, hessian: torch.Tensor, held_out: HeldOut, name: str
) -> torch.Tensor:
    """The weights to come near to: corrected for what the refined inputs lack, as far as other tokens bear it out."""
    wanted = sums.wanted_for(original)
    if wanted is None:
        return original
    step = correction(original, hessian, wanted, name)
    return original + held_out.best_share(step) * step


def _require_same(pair: Pair, owner: Owner, linear: Linear, original: torch.Tensor) -> None:
    own = to_file_rows(owner.weight(linear), linear.row_heads).T
    if own.shape != original.shape or float((own - original).abs().max()) > _SAME * float(own.abs().max()):
        message = f"{linear.tensor} of {pair.base.path} is not what {owner.model.path} holds."
        raise CheckpointError(message, hint="Give the checkpoint that the base was converted from.")


def _too_few_tokens(sums: InputStatistics) -> str:
    """Why nothing can be learnt from this input, or nothing."""
    count, width = sums.moments.count, len(sums.moments.diagonal())
    if count < width:
        return f"only {count} calibration tokens reached it, fewer than its {width} inputs"
    return "" if sums.n_held_out else "no held-out token reached it"


def _settle(state: State, owner: Owner, matrix: _Matrix, grid: Grid, reason: str) -> None:
    """Keep the new blocks if they are better on held-out tokens, else the old ones."""
    before, after = matrix.held_out.error(matrix.grid.weights()), matrix.held_out.error(grid.weights())
    kept = not reason and after < before
    reason = reason or ("" if kept else "no better on held-out text")
    linear = matrix.linear
    outcome = Outcome(linear.tensor, grid.codec.name, before, after, kept, reason, linear.expert)
    state.save(outcome, write_grid(grid) if kept else None)
    _use(owner, linear, grid if kept else matrix.grid)


def _use(owner: Owner, linear: Linear, grid: Grid) -> None:
    owner.set_weight(linear, from_file_rows(grid.weights().T, linear.row_heads))
