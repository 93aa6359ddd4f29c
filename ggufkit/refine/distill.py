"""Distil the original into the refined file: what is continuous in it is learnt end to end from the original's answers.

Norms, biases and the blocks' super-scales move together down the gradient of KL(original ‖ file) over the whole
vocabulary, what is computed with being always what the file would hold (`superscales`). Part of the samples is held
out: the numbers that do best there are taken, and none if the gain there is within its noise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ggufkit.core import machine
from ggufkit.core.errors import ResourceError
from ggufkit.core.progress import Progress, Reporter
from ggufkit.core.units import size
from ggufkit.layers import StreamedModel, fast_halves
from ggufkit.llama.gguf import quantized_tensors
from ggufkit.refine.fields import U8
from ggufkit.refine.grid import read_grid
from ggufkit.refine.norms import SURE, Tuning
from ggufkit.refine.student import LOGITS_AT_ONCE, Original, Place, Student, batches
from ggufkit.refine.superscales import SuperScales
from ggufkit.refine.tensors import Pair

_PASSES, _CHECKS = 1, 2
_BATCH_TOKENS = 2048
# Shares of a super-scale, and of the root mean square of a vector, per step at the start; they fall to zero.
_SCALE_RATE, _NORM_RATE = 5e-4, 1e-3
_TINY = 1e-16  # gradients of single blocks are far below what optimizers expect
_FLOATS_A_WEIGHT = 3  # itself, its gradient and its level
# Floats for each token that is run at once: in a layer, of its width and of its MLP's; in the end, of the vocabulary.
_WIDTHS, _MLPS, _LOGITS = 16, 5, 5


def require_room(model: StreamedModel, pair: Pair, n_tokens: int) -> None:
    """Raise ResourceError where distilling from samples of so many tokens takes more memory than there is."""
    on_gpu = model.device.type == "cuda"
    at_once = max(n_tokens, min(_BATCH_TOKENS, LOGITS_AT_ONCE // model.n_vocab))
    needed = _needed(model, pair, at_once)
    free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else machine.free_memory()
    if needed > free:
        whose = "the GPU's memory" if on_gpu else "memory"
        message = f"--distill holds the model and what it learns: {size(needed)} of {whose}, of which {size(free)} are free."
        hint = "Leave --distill out, or refine where there is more memory" + (
            " (--device cpu)." if on_gpu else "."
        )
        raise ResourceError(message, hint=hint)


def _needed(model: StreamedModel, pair: Pair, n_tokens: int) -> int:
    quantized, n_vocab = quantized_tensors(pair.quantized), model.n_vocab
    learnt = sum(math.prod(t.shape) for t in quantized if pair.codec(t.name) is not None)
    every = sum(math.prod(t.shape) for t in pair.base.tensors)
    in_a_layer = _WIDTHS * model.width + _MLPS * max(t.shape[0] for t in quantized)
    of_a_token = model.n_layers * in_a_layer + _LOGITS * n_vocab
    head = 2 * n_vocab * model.width  # the original's, and for a moment the student's twice
    return 4 * (_FLOATS_A_WEIGHT * learnt + every - learnt + head + n_tokens * of_a_token)


def distill(student: Student, original: Original, reporter: Reporter) -> Tuning:
    """Learn the super-scales and vectors of the refined file that the student holds."""
    with reporter.step("Distilling", None) as progress:
        tuning = _Distillation(student, original).run(progress)
    if not tuning.kept:
        reporter.warn(
            f"Distilling gains nothing that is sure (KL divergence {tuning.before:.6f}, then {tuning.after:.6f} on "
            "held-out text): the file stays as it was refined. More --calibration-samples may help."
        )
    return tuning


@dataclass(frozen=True)
class _Matrix:
    """A matrix where it runs, and its super-scales."""

    place: Place
    scales: SuperScales

    def use(self) -> None:
        """Run with what would be stored."""
        self.scales.round()
        self.place.set(self.scales.grid.weights())


class _Distillation:
    """Adam on everything, against the original's answers."""

    def __init__(self, student: Student, original: Original) -> None:
        self.student, self.original = student, original
        self._coarse = fast_halves(student.model.device)
        self._batch = max(1, _BATCH_TOKENS // original.samples.shape[1])
        self._n_steps = max(_CHECKS, math.ceil(_PASSES * len(original.given) / self._batch))
        self.matrices = [_Matrix(place, self._scales(place)) for place in student.trained()]
        groups = [{"params": [s for m in self.matrices for s in m.scales.shares], "lr": _SCALE_RATE}]
        groups += [
            {"params": [v], "lr": _NORM_RATE * float(v.detach().square().mean().sqrt())}
            for v in student.vectors.values()
        ]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.95), eps=_TINY, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda step: 1 - step / self._n_steps)

    def _scales(self, place: Place) -> SuperScales:
        pair, device = self.student.pair, self.student.model.device
        codec = pair.codec(place.tensor)
        assert codec is not None
        return SuperScales(read_grid(codec, pair.raw(place.tensor, place.expert), device))

    def run(self, progress: Progress) -> Tuning:
        """Learn from the samples given; judge by those held out."""
        first = self._judge()
        best, found = first, Tuning(float(first.mean()), float(first.mean()), 0.0, 0)
        every = math.ceil(self._n_steps / _CHECKS)
        for step, batch in enumerate(batches(self.original.given, self._batch, self._n_steps), 1):
            note = f"KL divergence {found.after:.6f} on held-out text"
            progress.update(step - 1, self._n_steps, note)
            self._learn(batch)
            if step % every and step != self._n_steps:
                continue
            now = self._judge()
            if now.mean() < best.mean():
                best, found = now, self._found(first - now, found.before, step)
        sure = found.before - found.after > SURE * found.stderr
        return found if sure else replace(found, vectors={}, blocks={})

    def _found(self, gain: torch.Tensor, before: float, steps: int) -> Tuning:
        """What has been learnt by now."""
        stderr, after = float(gain.std() / math.sqrt(len(gain))), before - float(gain.mean())
        return Tuning(before, after, stderr, steps, self.student.snapshot(), self._blocks())

    def _blocks(self) -> Mapping[str, U8]:
        """The blocks by tensor; those of experts lie behind each other."""
        found = defaultdict[str, list[U8]](list)
        for matrix in sorted(self.matrices, key=lambda m: m.place.expert or 0):
            found[matrix.place.tensor].append(matrix.scales.raw())
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _learn(self, batch: list[int]) -> None:
        for part in self.original.parts(batch):
            loss = self.original.divergence(self.student, part, coarse=self._coarse).sum() / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        for matrix in self.matrices:
            matrix.scales.learn(matrix.place.take_gradient())
        self.adam.step()
        self.adam.zero_grad()
        self.schedule.step()
        for matrix in self.matrices:
            matrix.use()

    def _judge(self) -> torch.Tensor:
        """Mean KL divergence of each held-out sample."""
        return self.original.judge(self.student, self.original.held_out)
