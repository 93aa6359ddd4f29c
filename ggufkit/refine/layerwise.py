"""Refine layer by layer, stage by stage: one file, or several of one base in one pass over the original."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ggufkit.core.progress import Progress
from ggufkit.layers import HiddenStates, Linear, Room, StreamedModel, fast_products, keeping_freed_memory, passes
from ggufkit.refine.behind import Behind, InTurn
from ggufkit.refine.matrices import Owner
from ggufkit.refine.pace import Pace, Part
from ggufkit.refine.stages import TwinLayer, gather
from ggufkit.refine.state import State
from ggufkit.refine.statistics import InputStatistics
from ggufkit.refine.twin import TwinHidden

_MOMENTS_BUDGET = 4 << 30
_GATHERING = 0.6  # of the time that a group of linears takes


class Refined(Protocol):
    """A file that is being refined: its hidden states, its state on disk, and what is done to its matrices."""

    model: StreamedModel
    state: State
    room: Room | None

    def hidden(self, index: int) -> TwinHidden:
        """The inputs of a layer."""

    def outputs(self, index: int) -> TwinHidden | None:
        """The outputs of a layer, if something comes of them."""

    def keep(self, states: Sequence[HiddenStates]) -> None:
        """Know of these hidden states alone, whoever's they are."""

    def embed(self, *, original: bool) -> None:
        """Write the first layer's inputs, the original's only if asked."""

    def refines(self, linear: Linear) -> bool:
        """Whether a linear can be refined."""

    def use_stored(self, twin: TwinLayer) -> None:
        """Have the refined side compute with what the file holds of linears that are not refined."""

    def refine(self, owner: Owner, linears: Sequence[Linear], sums: InputStatistics) -> None:
        """Refine the linears of one input."""


class Layers:
    """All layers of files that have the same linears to refine, and have come to the same layer.

    The original, of which the first file has the hidden states, is run once for all. Each file's state is at any time what
    it would be if that file were refined alone, and so are the results: any of them can go on alone.
    """

    def __init__(self, files: Sequence[Refined]) -> None:
        self._files, self._lead, self._others = files, files[0], files[1:]
        self._model = files[0].model
        self._saving = Behind() if files[0].room else InTurn()

    def run(self, progress: Progress) -> None:
        """Refine what is not done yet."""
        first, n_layers = self._lead.state.layer(), self._model.n_layers
        pace = Pace(progress, first, n_layers)
        if first == 0:
            for file in self._files:
                file.embed(original=file is self._lead)
        try:
            for index in range(first, n_layers):
                with keeping_freed_memory():
                    self._layer(index, pace)
                self._leave(index)
        finally:  # whoever goes on elsewhere finds nothing half done
            self._saving.finish()
        progress.update(n_layers)

    def _layer(self, index: int, pace: Pace) -> None:
        outputs = self._lead.outputs(index)
        twins = self._twins(index)
        for file, twin in zip(self._files, twins, strict=True):
            file.use_stored(twin)
        budget = _MOMENTS_BUDGET // len(twins)
        groups = [group for stage in twins[0].stages() for group in passes(stage, budget)]
        for number, group in enumerate(groups):
            wanted = outputs.original if outputs and number == len(groups) - 1 else None
            share = 1 / len(groups)
            n_samples = len(twins[0].hidden.original)
            part = Part(pace, index + number * share, _GATHERING * share / n_samples, group[0].tensor)
            with fast_products():
                gathered = gather(twins, group, wanted, part.at)
            for file, twin, own in zip(self._files, twins, gathered, strict=True):
                for key in list(own):  # what has served gives its memory back
                    file.refine(twin, [x for x in group if x.input == key], own.pop(key))
        for file, twin in zip(self._files, twins, strict=True):
            if (made := file.outputs(index)) is not None:
                with fast_products():
                    twin.finish(made)
            twin.forget()

    def _twins(self, index: int) -> list[TwinLayer]:
        lead = self._lead
        first = TwinLayer(self._model, index, lead.hidden(index), lead.state.path, lead.refines)
        return [first, *(first.beside(file.hidden(index), file.state.path) for file in self._others)]

    def _leave(self, index: int) -> None:
        """Have the inputs of the next layer in files, if there is one; then a later run starts there."""
        done = [file.hidden(index) for file in self._files]
        after = [file.outputs(index) for file in self._files]
        self._saving.finish()  # it may still be saving what is forgotten now
        for hidden in done:
            hidden.forget()
        for file, made in zip(self._files, after, strict=True):
            file.keep(made.both if made else [])
        coming = [made for made in after if made]

        def save() -> None:
            for number, made in enumerate(coming):
                made.save(original=number == 0)
            for made in coming[1:]:
                _link(coming[0].original.path, made.original.path)
            for file in self._files:
                file.state.enter(index + 1)
            for hidden in done:
                hidden.remove()

        self._saving.do(save)


def _link(file: Path, other: Path) -> None:
    """Have a file under another name, too; as a copy where a disk has no such names."""
    other.unlink(missing_ok=True)
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)
