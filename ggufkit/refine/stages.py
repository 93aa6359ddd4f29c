"""A decoder layer twice, as the original and as refined so far, and what its linears are given in both.

A layer goes in stages: the linears of a stage (q, k and v; then the attention's output; then gate and up; then
down) see inputs that the stages before it have already changed. So each stage is refined for the inputs that
it will really get, towards the outputs that the original gives, and the linears of a layer make up for each
other's errors, and for those of the layers before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from ggufkit.layers import HiddenStates, Linear, Stage, StreamedModel
from ggufkit.refine.sides import FromInput, Record, Side
from ggufkit.refine.statistics import InputStatistics, Pairing
from ggufkit.refine.taps import Seen, Tap
from ggufkit.refine.twin import TwinHidden

# Model types whose attention and MLP outputs are added to the hidden states as they are.
_PLAIN_RESIDUAL = frozenset(
    {
        "deepseek_v2",
        "deepseek_v3",
        "llama",
        "mistral",
        "mixtral",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
    }
)


class TwinLayer:
    """One layer's two sides.

    `linears` are those to be refined, `others` those that are not. `refined` is None, and the original stands for
    both, if refinement is to take no notice of itself.

    Args:
        hidden: before this layer.
        scratch: directory for what stages record for later ones.
        refines: whether a linear is to be refined.
    """

    def __init__(
        self,
        model: StreamedModel,
        index: int,
        hidden: TwinHidden,
        scratch: Path,
        refines: Callable[[Linear], bool],
    ) -> None:
        layer = model.load_layer(index)
        every = model.linears(layer, index)
        self.linears, self.others = [x for x in every if refines(x)], [x for x in every if not refines(x)]
        self.model, self._index = model, index
        self.original = Side("original", layer, FromInput(model, index, hidden.original), scratch)
        self._refine(hidden, scratch)
        self._plain = model.model_type in _PLAIN_RESIDUAL

    def beside(self, hidden: TwinHidden, scratch: Path) -> TwinLayer:
        """The same layer refined in another way, of the same linears: one original serves both."""
        other = copy.copy(self)
        other._refine(hidden, scratch)
        return other

    def _refine(self, hidden: TwinHidden, scratch: Path) -> None:
        """Begin with the refined side: it is the original yet."""
        self.refined: Side | None = None
        if hidden.refined is not None:
            start = FromInput(self.model, self._index, hidden.refined)
            self.refined = Side("refined", copy.deepcopy(self.original.layer), start, scratch)
        self.hidden = hidden

    def stages(self) -> list[list[Linear]]:
        """The linears in the order of their stages: all at once if nothing is refined before something else."""
        if self.refined is None:
            return [self.linears] if self.linears else []
        stages = ([x for x in self.linears if x.stage is stage] for stage in Stage)
        return [linears for linears in stages if linears]

    def weight(self, linear: Linear) -> torch.Tensor:
        """A linear's weight in the original, (out, in) in the checkpoint's order."""
        return self.original.weight(linear)

    def set_weight(self, linear: Linear, weight: torch.Tensor) -> None:
        """Give the refined layer, if there is one, a linear's weight, (out, in) in the checkpoint's order."""
        if self.refined is not None:
            self.refined.weight(linear).copy_(weight)

    def gather(
        self,
        linears: Sequence[Linear],
        outputs: HiddenStates | None,
        on_batch: Callable[[int], None] | None = None,
    ) -> dict[str, InputStatistics]:
        """As the function of that name, of this one alone."""
        return gather([self], linears, outputs, on_batch)[0]

    def finish(self, outputs: TwinHidden) -> None:
        """Write what the refined layer gives, if there is one; and the original, if no `gather` was given outputs."""
        if not self.linears:
            self.original.write_outputs(outputs.original, self.hidden.spans())
        if self.refined is not None and outputs.refined is not None:
            self.refined.write_outputs(outputs.refined, self.hidden.spans())

    def forget(self) -> None:
        """Give back memory that the records take; their files are for the next layer to write over."""
        for side in filter(None, (self.original, self.refined)):
            side.forget()

    def close(self) -> None:
        """Delete what was recorded between stages."""
        for side in filter(None, (self.original, self.refined)):
            side.close()

    def statistics(self, linears: Sequence[Linear]) -> dict[str, InputStatistics]:
        """Empty ones for the linears' inputs, by `Linear.input`."""
        first = {x.input: x for x in reversed(linears)}
        return {
            x.input: InputStatistics(x, len(self.weight(x)), self._pairing(x), self.model.device)
            for x in linears
            if x is first[x.input]
        }

    def _pairing(self, linear: Linear) -> Pairing:
        # An expert may be given other tokens than the original's: its inputs cannot be paired.
        if self.refined is None or linear.expert is not None:
            return Pairing.ITSELF
        return Pairing.OUTPUT if self._plain and linear.ends_block else Pairing.INPUT

    def records(self, linear: Linear, *, last: bool) -> tuple[Record | None, Record | None]:
        """What the stage of `linear` records of both sides for the stages after it; `last`: it is the layer's last."""
        if self.refined is None:
            return None, None
        if linear.stage is Stage.ATTENTION_OUTPUT:
            return self.original.record_attention(linear), self.refined.record_attention(linear)
        if self._plain and linear.stage is Stage.MLP_INPUT:
            return self.original.record_between(), self.refined.record_between()
        if linear.stage is Stage.MLP_OUTPUT and linear.ends_block and last:
            return None, self.refined.record_mlp(linear)  # the original is not run again
        return None, None


def gather(
    twins: Sequence[TwinLayer],
    linears: Sequence[Linear],
    outputs: HiddenStates | None,
    on_batch: Callable[[int], None] | None = None,
) -> list[dict[str, InputStatistics]]:
    """Run all sides of a layer up to `linears`, the whole or a part of a stage.

    Args:
        twins: of one original, which is run once.
        outputs: receives the original's outputs, if given: `linears` are the layer's last.
        on_batch: called with the number of samples done.

    Returns:
        For each twin what is known of the linears' inputs, by `Linear.input`.

    Raises:
        InputError: an activation is not finite.
    """
    every = [twin.statistics(linears) for twin in twins]
    records = [twin.records(linears[0], last=outputs is not None) for twin in twins]
    original, (kept, _) = twins[0].original, records[0]
    in_original = _taps(every[0].values(), of_original=True, stop=outputs is None)
    in_refined = _taps(every[0].values(), of_original=False, stop=True)
    for span in twins[0].hidden.spans():
        seen = original.run(span, in_original, kept)
        if outputs is not None:
            outputs.write(span.start, seen.output)
        for twin, statistics, (_, kept_refined) in zip(twins, every, records, strict=True):
            refined = twin.refined.run(span, in_refined, kept_refined) if twin.refined else seen
            for key, sums in statistics.items():
                if key in refined.inputs:  # an expert may be sent no token of the batch
                    sums.add(refined.inputs[key], _paired(sums, seen, refined), held_out=span.held_out)
        if on_batch is not None:
            on_batch(span.stop)
    original.start_from(kept)
    for twin, (_, kept_refined) in zip(twins, records, strict=True):
        if twin.refined is not None:
            twin.refined.start_from(kept_refined)
    return every


def _taps(statistics: Iterable[InputStatistics], *, of_original: bool, stop: bool) -> list[Tap]:
    """Where to look into one side; `stop` ends the run at the only place, where there is one."""
    linears = [(sums.linear, of_original and sums.pairing is Pairing.OUTPUT) for sums in statistics]
    last = stop and len(linears) == 1
    return [Tap(linear.input, linear.module, outputs, last) for linear, outputs in linears]


def _paired(sums: InputStatistics, original: Seen, refined: Seen) -> torch.Tensor:
    """What the refined side's inputs are set against."""
    linear = sums.linear
    if sums.pairing is Pairing.ITSELF:
        return refined.inputs[linear.input]
    if sums.pairing is Pairing.INPUT:
        return original.inputs[linear.input]
    after_attention = linear.stage is Stage.MLP_OUTPUT
    behind = original.between - refined.between if after_attention else original.hidden - refined.hidden
    return original.outputs[linear.input] + behind.flatten(0, 1)
