"""Second moments of the inputs of a layer's linears, gathered while the layer runs over all samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ggufkit.core.errors import InputError
from ggufkit.layers.hidden import HiddenStates
from ggufkit.layers.linears import Linear
from ggufkit.layers.model import StreamedModel

# The matrix is symmetric: bands of columns right of the diagonal are enough. Wide ones for a GPU, which waits for launches.
_BANDS = {"cpu": 256, "cuda": 2048}


AddGram = Callable[[torch.Tensor, torch.Tensor], None]


def add_gram(sums: torch.Tensor, x: torch.Tensor) -> None:
    """Add xᵀ x for x (tokens, width) to `sums` (width, width), on and right of the diagonal."""
    for start in range(0, x.shape[1], size := _band(x)):
        band = slice(start, start + size)
        sums[band, start:].addmm_(x[:, band].T, x[:, start:])


def _band(x: torch.Tensor) -> int:
    return _BANDS.get(x.device.type, _BANDS["cpu"])


class Moments:
    """Running sums over tokens of one input, on the device.

    `gram` is x xᵀ (width, width), on and right of the diagonal; not `full`, it is x² (width,), as for
    experts that are too many, and see too few tokens, for a matrix each. `absolute` is |x| (width,), float64.

    Args:
        add_gram: does what `add_gram` does, for `full` ones.
    """

    def __init__(
        self, width: int, device: torch.device | None = None, *, full: bool = True, add_gram: AddGram = add_gram
    ) -> None:
        self.count, self._add_gram = 0, add_gram
        self.full = full
        self.gram = torch.zeros((width, width) if full else (width,), device=device)
        self.absolute = torch.zeros(width, device=device, dtype=torch.float64)

    def add(self, x: torch.Tensor) -> None:
        """Add activations (..., width)."""
        rows = x.detach().reshape(-1, x.shape[-1])
        self.count += len(rows)
        self.absolute += rows.abs().sum(0)
        if self.full:
            self._add_gram(self.gram, rows)
        else:
            self.gram += rows.square().sum(0)

    def total(self) -> torch.Tensor:
        """The sum of x xᵀ (width, width), or of x² (width,) if not `full`; a view, not a copy."""
        if self.full:
            for start in range(0, len(self.gram), band := _band(self.gram)):
                right = self.gram[start : start + band, start:]
                square = right[:, : len(right)]
                square.copy_(square.triu() + square.triu(1).T)
                self.gram[start + len(right) :, start : start + band] = right[:, len(right) :].T
        return self.gram

    def mean(self) -> torch.Tensor:
        """E[x xᵀ] (width, width), or E[x²] (width,) if not `full`; zero where no token came by."""
        return self.total() / max(self.count, 1)

    def diagonal(self) -> torch.Tensor:
        """E[x²], (width,): what an importance matrix holds."""
        sums = self.gram.diagonal() if self.full else self.gram
        return sums / max(self.count, 1)

    def magnitude(self) -> torch.Tensor:
        """E[|x|], (width,), float64: what AutoAWQ's search uses."""
        return self.absolute / max(self.count, 1)


def moments_for(linears: Iterable[Linear], device: torch.device | None = None) -> dict[str, Moments]:
    """Empty moments for each distinct input of some linears."""
    return {key: Moments(width, device) for key, width in {x.input: x.n_in for x in linears}.items()}


def passes(linears: Iterable[Linear], budget_bytes: int) -> list[list[Linear]]:
    """Divide linears into groups whose second moments fit the budget, for one run over the samples each.

    Linears with one input stay together; a single input larger than the budget is a group of its own.
    """
    by_input: dict[str, list[Linear]] = {}
    for linear in linears:
        by_input.setdefault(linear.input, []).append(linear)
    groups: list[list[Linear]] = []
    free = 0
    for members in by_input.values():
        size = 4 * members[0].n_in ** 2
        if not groups or size > free:
            groups.append([])
            free = budget_bytes
        groups[-1] += members
        free -= size
    return groups


def embed(model: StreamedModel, samples: NDArray[np.int32], target: HiddenStates) -> None:
    """Write the first layer's input for all samples."""
    step = batch_size(target)
    for start in range(0, len(target), step):
        target.write(start, model.embed(samples[start : start + step]))


def batch_size(hidden: HiddenStates) -> int:
    """Samples to run at once: about `tokens_at_once` tokens."""
    return max(1, hidden.tokens_at_once // hidden.n_tokens)


def run_layer(
    model: StreamedModel,
    index: int,
    layer: nn.Module,
    source: HiddenStates,
    target: HiddenStates | None = None,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Run a loaded layer over all samples.

    Args:
        source, target: its input, and where its output goes, if anywhere.
        on_batch: called with the number of samples done.

    Raises:
        InputError: an activation is not finite.
        ResourceError: the disk is full.
    """
    step = batch_size(source)
    with torch.no_grad():
        for start in range(0, len(source), step):
            output = model.forward(index, layer, source.read(start, start + step))
            require_finite(model, index, output)
            if target is not None:
                target.write(start, output)
            if on_batch is not None:
                on_batch(min(start + step, len(source)))


@contextlib.contextmanager
def gathering(moments: Mapping[str, Moments], layer: nn.Module, linears: Sequence[Linear]) -> Iterator[None]:
    """Add to moments, by `Linear.input`, what the linears of a layer are given while it runs."""
    first = {linear.input: linear.module for linear in reversed(linears)}
    handles = [
        layer.get_submodule(first[key]).register_forward_pre_hook(_feed(sums)) for key, sums in moments.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _feed(sums: Moments) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        sums.add(args[0])

    return hook


def require_finite(model: StreamedModel, index: int, output: torch.Tensor) -> None:
    """Raise InputError if a layer gives NaN or infinite activations."""
    if bool(torch.isfinite(output).all()):
        return
    message = f"Layer {index} of {model.path} ({model.prefix(index)[:-1]}) gives NaN or infinite activations."
    raise InputError(message, hint="Its weights are damaged, or overflow; check the checkpoint.")
