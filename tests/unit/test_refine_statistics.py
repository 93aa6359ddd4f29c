"""What held-out tokens tell, from their moments, is what it is token by token."""

from __future__ import annotations

import math

import pytest
import torch

from ggufkit.layers import Linear
from ggufkit.refine.curvature import curvatures
from ggufkit.refine.statistics import InputStatistics, Pairing

N_IN, N_OUT = 24, 10
CPU = torch.device("cpu")


def some_linear(pairing: Pairing) -> InputStatistics:
    return InputStatistics(Linear("q_proj", "blk.0.attn_q.weight", "attn_in", N_IN), N_OUT, pairing, CPU)


@pytest.mark.parametrize("pairing", Pairing)
def test_held_out_tokens_judge_weights_and_steps(pairing: Pairing) -> None:
    torch.manual_seed(0)
    original, other = torch.randn(N_IN, N_OUT), torch.randn(N_IN, N_OUT)
    step = 0.1 * torch.randn(N_IN, N_OUT)
    x = torch.randn(50, N_IN)
    near = x if pairing is Pairing.ITSELF else x + 0.1 * torch.randn(50, N_IN)
    paired = near @ other if pairing is Pairing.OUTPUT else near
    sums = some_linear(pairing)
    for start in (0, 30):
        rows = slice(start, start + 30)
        sums.add(x[rows], paired[rows], held_out=True)
    assert (sums.n_held_out, sums.moments.count) == (50, 0)
    wanted = paired if pairing is Pairing.OUTPUT else near @ original
    held_out = sums.held_out(original)
    for weights in (original, original + step, other):
        exact = float((x @ weights - wanted).square().sum() / wanted.square().sum())
        assert held_out.error(weights) == pytest.approx(exact, rel=1e-4, abs=1e-7)
    moved = x @ step
    best = float((moved * (wanted - x @ original)).sum() / moved.square().sum())
    assert held_out.best_share(step) == pytest.approx(min(max(best, 0), 1), rel=1e-3, abs=1e-6)


def test_without_held_out_tokens_nothing_is_told() -> None:
    held_out = some_linear(Pairing.INPUT).held_out(torch.ones(N_IN, N_OUT))
    assert math.isnan(held_out.error(torch.zeros(N_IN, N_OUT)))
    assert held_out.best_share(torch.ones(N_IN, N_OUT)) == 0


def test_runs_that_are_not_positive_definite_are_made_so() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    hessian = x.T @ x
    hessian[5, 5] -= 0.05 * hessian.diagonal().mean()
    _, inverses, factors = curvatures(hessian, 32)
    assert bool(inverses.isfinite().all())
    assert torch.allclose(factors.mT @ factors, inverses, rtol=1e-3, atol=1e-3 * float(inverses.abs().max()))
