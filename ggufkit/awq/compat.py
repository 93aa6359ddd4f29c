"""The search as AutoAWQ does it: same candidates, same rounding, same loss, hence the same scales.

Its loss is the mean squared error of what a block puts out (attention and MLP as a whole) when its linears are
rounded to AWQ's own 4-bit integers: group-wise, with a zero point. Source: AutoAWQ 0.2.9,
`awq/quantize/quantizer.py`. It skips v → o where query heads share KV heads.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ggufkit.awq.archs import Divide, Fold
from ggufkit.awq.objectives import CalibratedLayer
from ggufkit.awq.search import IDENTITY, FoldScales
from ggufkit.core.errors import UnsupportedArchitecture
from ggufkit.layers import HiddenStates, keeping_freed_memory, run_layer
from ggufkit.layers.moments import batch_size

GRID = 20
GROUP_SIZES = (128, 64, 32)
SCHEME = "awq"
"""Its scales are the same whatever the weights will be quantized to."""


def group_size(*widths: int) -> int:
    """The largest group that divides every width, of those that AWQ's kernels have.

    Raises:
        UnsupportedArchitecture: none does.
    """
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    message = f"AWQ's groups of {GROUP_SIZES[-1]} do not divide widths {', '.join(map(str, widths))}."
    raise UnsupportedArchitecture(message, hint="Use the native engine with its own objective.")


class AutoAwqObjective:
    """AutoAWQ's objective, on the machinery of the native engine."""

    key = "autoawq 2"
    widest_gram = most_tokens = sys.maxsize

    def search(self, work: CalibratedLayer) -> dict[str, dict[str, FoldScales]]:
        """The best scales of a layer's folds by AutoAWQ's loss."""
        if any(x.expert is not None for x in work.linears):
            message = "AutoAWQ's objective is not available for a Mixture of Experts."
            raise UnsupportedArchitecture(message, hint="Use --awq-objective ggml.")
        size = group_size(*(x.n_in for x in work.linears))
        found = {}
        for number, fold in enumerate(work.folds):
            work.tell(number / len(work.folds))
            if fold.per_kv_channel and work.heads.query != work.heads.kv:
                found[fold.source] = FoldScales(None, IDENTITY, 0.0, 0.0)
            else:
                with keeping_freed_memory():
                    found[fold.source] = _search(work, fold, size)
        return {SCHEME: found}


Weights = dict[str, torch.Tensor]
Loss = Callable[[Weights], float]


def _search(work: CalibratedLayer, fold: Fold, size: int) -> FoldScales:
    weights = {t: work.layer.get_parameter(f"{t}.weight").data for t in fold.targets}
    moments = work.moments[next(x.input for x in work.linears if x.module in fold.targets)]
    options = candidates(moments.magnitude().float(), torch.cat(list(weights.values())), size)
    with _loss(work, fold) as loss:
        before = loss({t: rounded(w, size) for t, w in weights.items()})
        losses = [loss({t: rounded(w * s, size) / s for t, w in weights.items()}) for s in options]
    best = min(range(len(options)), key=losses.__getitem__)
    return FoldScales(options[best].cpu(), f"ratio {best / GRID:g}", before, losses[best])


def candidates(magnitude: torch.Tensor, weight: torch.Tensor, size: int) -> list[torch.Tensor]:
    """The scales that AutoAWQ tries, (in,) each.

    Args:
        magnitude: E[|x|] of the input, (in,).
        weight: the linears' weights, one below the other: (out, in).
        size: columns of a group.
    """
    grouped = weight.reshape(-1, size).abs()
    relative = grouped / (grouped.amax(1, keepdim=True) + 1e-6)
    w_mean = relative.view(weight.shape).mean(0)
    found = []
    for step in range(GRID):
        ratio = step / GRID
        scales = (magnitude.pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
        scales /= (scales.max() * scales.min()).sqrt()
        scales[~torch.isfinite(scales)] = 1
        found.append(scales)
    return found


def rounded(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Weights (out, in) after AWQ's 4-bit rounding: `size` columns share a step and an integer zero point."""
    groups = weight.reshape(-1, size)
    high, low = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
    step = (high - low).clamp(min=1e-5) / 15
    zero = (-torch.round(low / step)).clamp(0, 15)
    integers = torch.clamp(torch.round(groups / step) + zero, 0, 15)
    return ((integers - zero) * step).reshape(weight.shape)


@contextlib.contextmanager
def _loss(work: CalibratedLayer, fold: Fold) -> Iterator[Loss]:
    """Mean squared error of the output that AutoAWQ inspects for a fold, as a function of the targets' weights."""
    if fold.divide is Divide.LAST_ROWS:
        yield _linear_loss(work, fold.targets[0])
        return
    block = fold.targets[0].partition(".")[0]
    inputs, outputs = (_scratch(work, f"{block}-{role}") for role in ("in", "out"))
    try:
        _record(work, block, inputs, outputs)
        yield _block_loss(work, block, inputs, outputs)
    finally:
        inputs.remove()
        outputs.remove()


def _scratch(work: CalibratedLayer, name: str) -> HiddenStates:
    path = work.hidden.path.parent / f"{name}.f32"
    return HiddenStates(path, (len(work.hidden), work.hidden.n_tokens), work.model.width)


def _linear_loss(work: CalibratedLayer, target: str) -> Loss:
    """One linear's output error follows from the second moments of its input."""
    linear = next(x for x in work.linears if x.module == target)
    weight = work.layer.get_parameter(f"{target}.weight").data
    moments = work.moments[linear.input]

    def loss(weights: Weights) -> float:
        change = weights[target] - weight
        return float(((change @ moments.total()) * change).sum()) / (moments.count * len(weight))

    return loss


def _record(work: CalibratedLayer, block: str, inputs: HiddenStates, outputs: HiddenStates) -> None:
    """Run the layer and store what a block of it takes in and puts out."""
    starts = itertools.count(0, batch_size(work.hidden))

    def store(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        start = next(starts)
        inputs.write(start, args[0] if args else kwargs["hidden_states"])
        outputs.write(start, output[0] if isinstance(output, tuple) else output)

    handle = work.layer.get_submodule(block).register_forward_hook(store, with_kwargs=True)
    try:
        run_layer(work.model, work.index, work.layer, work.hidden)
    finally:
        handle.remove()


def _block_loss(work: CalibratedLayer, block: str, inputs: HiddenStates, outputs: HiddenStates) -> Loss:
    module = copy.deepcopy(work.layer.get_submodule(block))
    attention = block == "self_attn"
    kwargs = work.model.layer_kwargs(work.index, inputs.n_tokens) if attention else {}
    step = batch_size(inputs)

    def loss(weights: Weights) -> float:
        for name, weight in weights.items():
            module.get_parameter(name.partition(".")[2] + ".weight").data = weight
        total = 0.0
        for start in range(0, len(inputs), step):
            with torch.no_grad():
                made = module(inputs.read(start, start + step).to(work.model.device), **kwargs)
            output = made[0] if isinstance(made, tuple) else made
            wanted = outputs.read(start, start + step).to(output.device)
            total += float((output - wanted).square().sum(dtype=torch.float64))
        return total / (len(inputs) * inputs.n_tokens * inputs.width)

    return loss
