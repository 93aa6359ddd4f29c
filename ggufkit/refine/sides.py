"""One version of a decoder layer, the original or the refined one, run from as far inside as is known already.

At first a run starts with the layer's input. A stage records what the runs of later stages can start from: what the
last linear of the attention is given, then the hidden states between attention and MLP, then what the last linear of
the MLP is given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from ggufkit.layers import HiddenStates, Linear, StreamedModel
from ggufkit.layers.moments import require_finite
from ggufkit.refine.taps import BETWEEN, Seen, StopForward, Tap, replayed, tapped
from ggufkit.refine.twin import Span


class Start(Protocol):
    """Where a run of a layer starts."""

    def run(self, layer: nn.Module, span: Span, seen: Seen) -> torch.Tensor:
        """The layer's output for some samples."""


class Record(Start, Protocol):
    """A start that is recorded in a file, by the runs of one stage for those of later ones."""

    @property
    def file(self) -> HiddenStates:
        """Where it is recorded."""

    def note(self, span: Span, seen: Seen) -> None:
        """Record what was seen of some samples."""


@dataclass(frozen=True)
class FromInput:
    """Runs the whole layer."""

    model: StreamedModel
    index: int
    file: HiddenStates

    def run(self, layer: nn.Module, span: Span, seen: Seen) -> torch.Tensor:
        """The layer's output for some samples."""
        seen.hidden = self.read(self.file, span)
        return self.model.forward(self.index, layer, seen.hidden)

    def read(self, file: HiddenStates, span: Span) -> torch.Tensor:
        """(samples, tokens, width) on the model's device."""
        return file.read(span.start, span.stop).to(self.model.device)


@dataclass(frozen=True)
class FromAttentionOutput:
    """Runs the layer with an attention that is its last linear alone, whose inputs are recorded."""

    whole: FromInput
    linear: Linear
    file: HiddenStates

    def note(self, span: Span, seen: Seen) -> None:
        """Record what was seen of some samples."""
        self.file.write(span.start, seen.by_sample(self.linear.input))

    def run(self, layer: nn.Module, span: Span, seen: Seen) -> torch.Tensor:
        """The layer's output for some samples."""
        with replayed(layer, self.whole.read(self.file, span)):
            return self.whole.run(layer, span, seen)


@dataclass(frozen=True)
class FromMlp:
    """Runs the MLP alone, on recorded hidden states between attention and MLP."""

    whole: FromInput
    file: HiddenStates

    def note(self, span: Span, seen: Seen) -> None:
        """Record what was seen of some samples."""
        self.file.write(span.start, seen.between)

    def run(self, layer: nn.Module, span: Span, seen: Seen) -> torch.Tensor:
        """The layer's output for some samples."""
        seen.hidden = seen.between = self.whole.read(self.file, span)
        output = layer.get_submodule("mlp")(layer.get_submodule(BETWEEN)(seen.hidden))
        added: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return seen.hidden + added


@dataclass(frozen=True)
class FromMlpOutput:
    """Runs the MLP's last linear alone, whose inputs are recorded."""

    mlp: FromMlp
    linear: Linear
    file: HiddenStates

    def note(self, span: Span, seen: Seen) -> None:
        """Record what was seen of some samples."""
        self.file.write(span.start, seen.by_sample(self.linear.input))

    def run(self, layer: nn.Module, span: Span, seen: Seen) -> torch.Tensor:
        """The layer's output for some samples."""
        read = self.mlp.whole.read
        seen.hidden = seen.between = read(self.mlp.file, span)
        added: torch.Tensor = layer.get_submodule(self.linear.module)(read(self.file, span))
        return seen.between + added


class Side:
    """One version of a layer.

    Args:
        name: of the version, in the names of files.
        layer: with its weights.
        whole: how to run it from its input.
        scratch: directory for what stages record.
    """

    def __init__(self, name: str, layer: nn.Module, whole: FromInput, scratch: Path) -> None:
        self.name, self.layer = name, layer
        self._whole, self._scratch = whole, scratch
        self._start: Start = whole
        self._recorded: list[HiddenStates] = []

    def weight(self, linear: Linear) -> torch.Tensor:
        """The data of a linear's weight, (out, in) in the checkpoint's order."""
        weight: torch.Tensor = self.layer.get_submodule(linear.module).weight.data  # type: ignore[assignment]
        return weight

    def run(self, span: Span, taps: Sequence[Tap] = (), record: Record | None = None) -> Seen:
        """Run the layer on some samples, as far as the taps want, and note what is to be recorded.

        Raises:
            InputError: an activation is not finite.
            ResourceError: the disk is full.
        """
        seen = Seen()
        with torch.no_grad(), tapped(self.layer, taps, seen), contextlib.suppress(StopForward):
            seen.output = self._start.run(self.layer, span, seen)
            require_finite(self._whole.model, self._whole.index, seen.output)
        if record is not None:
            record.note(span, seen)
        return seen

    def write_outputs(self, outputs: HiddenStates, spans: Iterable[Span]) -> None:
        """Write what the layer gives for all samples."""
        for span in spans:
            outputs.write(span.start, self.run(span).output)

    def record_attention(self, linear: Linear) -> Record:
        """A record of what the attention's last linear is given."""
        return FromAttentionOutput(self._whole, linear, self._file("attn_out", linear.n_in))

    def record_between(self) -> Record | None:
        """A record of the hidden states between attention and MLP; None if there is one."""
        file = self._file("between", self._whole.file.width)
        return None if isinstance(self._start, FromMlp) else FromMlp(self._whole, file)

    def record_mlp(self, linear: Linear) -> Record | None:
        """A record of what the MLP's last linear is given; None without one of the states that it adds to."""
        file = self._file("mlp_out", linear.n_in)
        return FromMlpOutput(self._start, linear, file) if isinstance(self._start, FromMlp) else None

    def start_from(self, record: Record | None) -> None:
        """Start later runs from a record, now complete, if there is one."""
        if record is not None:
            self._start = record
            self._recorded.append(record.file)

    def forget(self) -> None:
        """Give back memory that the records take; files stay, for those of another layer to be written over them."""
        for file in self._recorded:
            file.forget()

    def close(self) -> None:
        """Delete the records."""
        for file in self._recorded:
            file.remove()

    def _file(self, what: str, width: int) -> HiddenStates:
        return self._whole.file.beside(self._scratch / f"{what}.{self.name}", width)
