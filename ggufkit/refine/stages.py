"""A decoder layer twice, as the original and as refined so far, and what its linears are given in both.

A layer goes in stages: the linears of a stage (q, k and v; then the attention's output; then gate and up; then
down) see inputs that the stages before it have already changed. So each stage is refined for the inputs that
it will really get, towards the outputs that the original gives, and the linears of a layer make up for each
other's errors, and for those of the layers before.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ggufkit.core.errors import InputError
from ggufkit.layers import HiddenStates, Linear, Moments, StreamedModel
from ggufkit.layers.moments import batch_size
from ggufkit.refine.taps import Enough, Seen, Tap, replayed, tapped

# Model types whose attention and MLP outputs are added to the hidden states as they are.
_PLAIN_RESIDUAL = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"})
_ATTENTION_OUTPUT, _MLP_OUTPUT = "attn_out", "mlp_out"
_BETWEEN = "between"  # the hidden states between attention and MLP
_MLP_RANK = 2


@dataclass(frozen=True)
class Apart:
    """Tokens that were kept apart: (x̂, t) by batch, inputs in the refined model and the outputs wanted for them."""

    pairs: list[tuple[torch.Tensor, torch.Tensor]]

    def miss(self, weights: torch.Tensor) -> float:
        """‖x̂ W - t‖² / ‖t‖² for weights (n_in, n_out); NaN without tokens."""
        missed = sum(float((x @ weights - wanted).square().sum()) for x, wanted in self.pairs)
        size = sum(float(wanted.square().sum()) for _, wanted in self.pairs)
        return missed / size if size else float("nan")

    def share(self, original: torch.Tensor, step: torch.Tensor) -> float:
        """The share of `step`, from 0 to 1, that brings the weights `original` nearest to t."""
        gain, size = 0.0, 0.0
        for x, wanted in self.pairs:
            moved = x @ step
            gain += float((moved * (wanted - x @ original)).sum())
            size += float(moved.square().sum())
        return min(max(gain / size, 0.0), 1.0) if size else 0.0


@dataclass
class Gathered:
    """What is known of one input of the refined layer.

    Args:
        moments: of x̂, the refined layer's input.
        wanted: sum of x̂ xᵀ over tokens with the original's input x, (n_in, n_in), or of x̂ tᵀ where `direct`,
            (n_in, n_out), with the outputs t that are wanted; None where x̂ is x.
        held_out: (x̂, x or t) of the tokens that were kept apart.
    """

    moments: Moments
    wanted: torch.Tensor | None
    direct: bool
    held_out: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def add(self, refined: torch.Tensor, other: torch.Tensor) -> None:
        """Count tokens: inputs of the refined layer, and the original's or the wanted outputs."""
        self.moments.add(refined)
        if self.wanted is not None:
            self.wanted.addmm_(refined.T, other)

    def wanted_for(self, weights: torch.Tensor) -> torch.Tensor | None:
        """E[x̂ tᵀ] for a linear with the original `weights` (n_in, n_out)."""
        if self.wanted is None:
            return None
        mean = self.wanted / max(self.moments.count, 1)
        return mean if self.direct else mean @ weights

    def apart(self, original: torch.Tensor) -> Apart:
        """The tokens kept apart, for a linear with the original weights `original` (n_in, n_out)."""
        return Apart([(x, other if self.direct else other @ original) for x, other in self.held_out])

    @property
    def n_held_out(self) -> int:
        """Tokens kept apart."""
        return sum(len(refined) for refined, _ in self.held_out)


def batches(
    hidden: tuple[HiddenStates, HiddenStates], n_samples: int, device: torch.device
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Read both hidden states, some samples at a time: (first sample, original, refined).

    No batch holds samples from both sides of `n_samples`, where those kept apart begin.
    """
    original, refined = hidden
    step = batch_size(original)
    for begin, end in ((0, n_samples), (n_samples, len(original))):
        for start in range(begin, end, step):
            stop = min(start + step, end)
            first = original.read(start, stop).to(device)
            yield start, first, first if refined is original else refined.read(start, stop).to(device)


class TwinLayer:
    """One layer's two versions, and the hidden states that each is given.

    `linears` are those to be refined, `others` those that are not.

    Args:
        hidden: of the original and of the refined model, before this layer; the same object if refinement is
            to take no notice of itself.
        n_samples: how many of them count; the samples after those are kept apart.
        scratch: where the attention's outputs are kept between stages.
        refines: whether a linear is to be refined.
    """

    def __init__(
        self,
        model: StreamedModel,
        index: int,
        hidden: tuple[HiddenStates, HiddenStates],
        n_samples: int,
        scratch: Path,
        refines: Callable[[Linear], bool],
    ) -> None:
        self.model, self.index, self.hidden, self.n_samples = model, index, hidden, n_samples
        self.original = model.load_layer(index)
        self.sequential = hidden[0] is not hidden[1]
        self.refined = copy.deepcopy(self.original) if self.sequential else self.original
        every = model.linears(self.original, index)
        self.linears, self.others = [x for x in every if refines(x)], [x for x in every if not refines(x)]
        self._scratch = scratch
        self._kept: dict[str, tuple[HiddenStates, HiddenStates]] = {}

    def stages(self) -> list[list[Linear]]:
        """The linears in the order of their stages."""
        if not self.sequential:
            return [self.linears] if self.linears else []
        ranks = sorted({_rank(x.input) for x in self.linears})
        return [[x for x in self.linears if _rank(x.input) == rank] for rank in ranks]

    def weight(self, linear: Linear) -> torch.Tensor:
        """A linear's weight in the original, (out, in) in the checkpoint's order."""
        weight: torch.Tensor = self.original.get_submodule(linear.module).weight.data  # type: ignore[assignment]
        return weight

    def set_weight(self, linear: Linear, weight: torch.Tensor) -> None:
        """Give the refined layer, if there is one, a linear's weight, (out, in) in the checkpoint's order."""
        if self.sequential:
            self.refined.get_submodule(linear.module).weight.data.copy_(weight)  # type: ignore[operator]

    def gather(
        self,
        linears: Sequence[Linear],
        outputs: HiddenStates | None,
        on_batch: Callable[[int], None] | None = None,
    ) -> dict[str, Gathered]:
        """Run both versions up to `linears`, the whole or a part of a stage.

        Args:
            outputs: receives the original's outputs, if given.

        Raises:
            InputError: an activation is not finite.
        """
        gathered = {x.input: self._empty(x) for x in linears}
        keep = self._to_keep(linears[0], last=outputs is not None) if self.sequential else {}
        with torch.no_grad():
            for start, first, second in self._batches():
                of_original, output = self._run(0, first, start, self._taps(gathered, linears, 0, outputs is None))
                of_refined = of_original
                if self.sequential:
                    of_refined, _ = self._run(1, second, start, self._taps(gathered, linears, 1, True))
                if outputs is not None and output is not None:
                    outputs.write(start, output)
                for what, files in keep.items():
                    self._write_kept(what, files, start, (of_original, of_refined))
                self._count(gathered, of_original, of_refined, held_out=start >= self.n_samples)
                if on_batch is not None:
                    on_batch(start + len(first))
        self._kept |= keep
        return gathered

    def finish(self, which: int, outputs: HiddenStates) -> None:
        """Write the outputs of the original (0) or of the refined layer (1)."""
        with torch.no_grad():
            for start, *hidden in self._batches():
                if which == 1 and _MLP_OUTPUT in self._kept:
                    outputs.write(start, self._last_step(hidden[1], start))
                    continue
                _, output = self._run(which, hidden[which], start, [])
                if output is not None:
                    outputs.write(start, output)

    def close(self) -> None:
        """Remove what was kept between stages."""
        for file in itertools.chain.from_iterable(self._kept.values()):
            file.remove()

    def _batches(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        return batches(self._kept.get(_BETWEEN) or self.hidden, self.n_samples, self.model.device)

    def _empty(self, linear: Linear) -> Gathered:
        direct = self.sequential and self._is_direct(linear)
        device, width = self.model.device, linear.n_in
        out = len(self.weight(linear)) if direct else width
        # An expert may be given other tokens than the original's: its inputs cannot be paired.
        wanted = torch.zeros(width, out, device=device) if self.sequential and linear.expert is None else None
        return Gathered(Moments(width, device), wanted, direct)

    def _is_direct(self, linear: Linear) -> bool:
        return self.model.model_type in _PLAIN_RESIDUAL and linear.input in (_ATTENTION_OUTPUT, _MLP_OUTPUT)

    def _to_keep(self, linear: Linear, *, last: bool) -> dict[str, tuple[HiddenStates, HiddenStates]]:
        """Files for what the stages after that of `linear` can start from; `last`: it is the layer's last."""
        plain = self.model.model_type in _PLAIN_RESIDUAL
        if linear.input == _ATTENTION_OUTPUT:
            return self._files(_ATTENTION_OUTPUT, linear.n_in)
        if plain and _rank(linear.input) == _MLP_RANK and _BETWEEN not in self._kept:
            return self._files(_BETWEEN, self.model.width)
        if linear.input == _MLP_OUTPUT and last and _BETWEEN in self._kept:
            return self._files(_MLP_OUTPUT, linear.n_in)
        return {}

    def _files(self, what: str, width: int) -> dict[str, tuple[HiddenStates, HiddenStates]]:
        shape = (len(self.hidden[0]), self.hidden[0].n_tokens)
        files = (self._scratch / f"{what}.{name}" for name in ("original", "refined"))
        first, second = (HiddenStates(file, shape, width) for file in files)
        return {what: (first, second)}

    @staticmethod
    def _write_kept(
        what: str, files: tuple[HiddenStates, HiddenStates], start: int, both: tuple[Seen, Seen]
    ) -> None:
        for which, (file, seen) in enumerate(zip(files, both, strict=True)):
            if what == _BETWEEN:
                file.write(start, seen.between)
            elif what == _ATTENTION_OUTPUT or which == 1:  # nobody runs the original's last linear again
                file.write(start, seen.inputs[what].view(*seen.hidden.shape[:2], -1))

    def _taps(self, gathered: dict[str, Gathered], linears: Sequence[Linear], which: int, stop: bool) -> list[Tap]:
        first = {x.input: x.module for x in reversed(linears)}
        last = stop and len(first) == 1
        return [Tap(key, module, gathered[key].direct and which == 0, last) for key, module in first.items()]

    def _run(
        self, which: int, hidden: torch.Tensor, start: int, taps: Sequence[Tap]
    ) -> tuple[Seen, torch.Tensor | None]:
        """Run the original (0) or the refined layer (1) on one batch, as far as the taps want."""
        layer, seen = (self.original, self.refined)[which], Seen(hidden)
        kept = None
        halfway = _BETWEEN in self._kept
        if _ATTENTION_OUTPUT in self._kept and not halfway:
            kept = self._kept[_ATTENTION_OUTPUT][which].read(start, start + len(hidden)).to(self.model.device)
        with tapped(layer, taps, seen), replayed(layer, kept):
            try:
                output = self._second_half(layer, seen) if halfway else self._whole(layer, hidden)
            except Enough:
                return seen, None
        return seen, self._finite(output)

    def _finite(self, output: torch.Tensor) -> torch.Tensor:
        if not bool(output.isfinite().all()):
            message = f"Layer {self.index} of {self.model.path} gives NaN or infinite activations."
            raise InputError(message, hint="Its weights are damaged, or overflow; check the checkpoint.")
        return output

    def _last_step(self, between: torch.Tensor, start: int) -> torch.Tensor:
        """The refined layer's output from the known inputs of the MLP's last linear."""
        known = self._kept[_MLP_OUTPUT][1].read(start, start + len(between)).to(self.model.device)
        return self._finite(between + self.refined.get_submodule("mlp.down_proj")(known))

    def _whole(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.forward(self.index, layer, hidden)

    @staticmethod
    def _second_half(layer: nn.Module, seen: Seen) -> torch.Tensor:
        """The layer's output from the states between attention and MLP."""
        seen.between = seen.hidden
        output = layer.get_submodule("mlp")(layer.get_submodule("post_attention_layernorm")(seen.hidden))
        added: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return seen.hidden + added

    def _count(self, gathered: dict[str, Gathered], first: Seen, second: Seen, *, held_out: bool) -> None:
        for key, sums in gathered.items():
            if key not in second.inputs:
                continue  # an expert that no token of the batch was sent to
            refined = second.inputs[key]
            other = self._other(key, sums, first, second)
            if held_out:
                sums.held_out.append((refined, other))
            else:
                sums.add(refined, other)

    def _other(self, key: str, sums: Gathered, first: Seen, second: Seen) -> torch.Tensor:
        if sums.wanted is None:
            return second.inputs[key]
        if not sums.direct:
            return first.inputs[key]
        behind = first.hidden - second.hidden if key == _ATTENTION_OUTPUT else first.between - second.between
        return first.outputs[key] + behind.flatten(0, 1)


def _rank(key: str) -> int:
    """The stage in which an input becomes known."""
    return {"attn_in": 0, _ATTENTION_OUTPUT: 1}.get(key, _MLP_RANK if key.endswith("in") else 3)
