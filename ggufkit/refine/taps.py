"""Look into a decoder layer while it runs, end the run early, and skip what an earlier run already did."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

_ATTENTION = "self_attn"
BETWEEN = "post_attention_layernorm"
"""The module that is given the hidden states between attention and MLP."""


def _nothing() -> torch.Tensor:
    return torch.zeros(0)


@dataclass
class Seen:
    """What passed by in one batch.

    Shapes: `hidden`, where the run started, `between` attention and MLP, and `output` (samples, tokens, width); `inputs`
    and `outputs` of linears, by `Linear.input`, (tokens, width). What a run did not come to is empty.
    """

    hidden: torch.Tensor = field(default_factory=_nothing)
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    between: torch.Tensor = field(default_factory=_nothing)
    output: torch.Tensor = field(default_factory=_nothing)

    def by_sample(self, key: str) -> torch.Tensor:
        """An input as (samples, tokens, width)."""
        return self.inputs[key].view(*self.hidden.shape[:2], -1)

    def note_between(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook of the module between attention and MLP."""
        self.between = args[0]


@dataclass(frozen=True)
class Tap:
    """A linear to look into; `outputs` asks for what it gives too, `last` ends the run there."""

    key: str
    module: str
    outputs: bool
    last: bool

    def before(self, seen: Seen) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen.inputs[self.key] = args[0].flatten(0, -2)
            if self.last and not self.outputs:
                raise StopForward

        return hook

    def after(self, seen: Seen) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> None:
            seen.outputs[self.key] = output.flatten(0, -2)
            if self.last:
                raise StopForward

        return hook


class StopForward(Exception):
    """All that was wanted of this run has been seen."""


@contextlib.contextmanager
def tapped(layer: nn.Module, taps: Sequence[Tap], seen: Seen) -> Iterator[None]:
    handles = []
    for tap in taps:
        linear = layer.get_submodule(tap.module)
        handles.append(linear.register_forward_pre_hook(tap.before(seen)))
        if tap.outputs:
            handles.append(linear.register_forward_hook(tap.after(seen)))
    if hasattr(layer, BETWEEN):
        handles.append(layer.get_submodule(BETWEEN).register_forward_pre_hook(seen.note_between))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def replayed(layer: nn.Module, kept: torch.Tensor) -> Iterator[None]:
    """Let the attention be its last linear on inputs that are known from an earlier stage."""
    own = layer.get_submodule(_ATTENTION)
    setattr(layer, _ATTENTION, _Replay(own, kept))
    try:
        yield
    finally:
        setattr(layer, _ATTENTION, own)


class _Replay(nn.Module):
    def __init__(self, attention: nn.Module, kept: torch.Tensor) -> None:
        super().__init__()
        self.o_proj = attention.get_submodule("o_proj")
        self._kept = kept

    def forward(self, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        return self.o_proj(self._kept), None
