"""Tune what is not quantized, norm vectors and biases, towards the original's output distribution.

The rest of the refined model stays as it is. The loss is KL(original ‖ refined) over the whole vocabulary. Part
of the samples is held out: the vectors that do best there are taken, and none if the gain there is within its
noise. The whole model is held in float32, with the activations of one batch for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ggufkit.core.progress import Progress, Reporter
from ggufkit.refine.fields import U8
from ggufkit.refine.student import Original, Student, Vectors, batches

_STEPS, _CHECK_EVERY, _PATIENCE = 300, 50, 2
_BATCH_TOKENS = 2048
# Of the root mean square of a vector, per step at the start; it falls to zero as half a cosine.
_RATE = 1e-3
SURE = 2.0
"""Standard errors that a gain must have to be believed."""


@dataclass(frozen=True)
class Tuning:
    """What became of tuning.

    Args:
        before, after: mean KL divergence from the original on the held-out samples, nats a token.
        stderr: of `before - after`, over samples.
        steps: how many led to `after`.
        vectors: new values of the GGUF's tensors; none if the gain is below twice its standard error.
        blocks: new blocks likewise, where those were learnt, too (`distill`).
    """

    before: float
    after: float
    stderr: float
    steps: int
    vectors: Vectors = field(default_factory=dict)
    blocks: Mapping[str, U8] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether anything of it is in the file."""
        return bool(self.vectors or self.blocks)


def tune_norms(student: Student, original: Original, reporter: Reporter) -> Tuning:
    """Tune the vectors of the refined file that the student holds."""
    with reporter.step("Tuning norms and biases", _STEPS) as progress:
        tuning = _Trainer(student, original).run(progress)
    if not tuning.kept:
        reporter.warn(
            f"Tuning the norms gains nothing that is sure (KL divergence {tuning.before:.6f}, then "
            f"{tuning.after:.6f} on held-out text): they stay. More --calibration-samples may help."
        )
    return tuning


class _Trainer:
    """Adam on the student's vectors, against the original's answers."""

    def __init__(self, student: Student, original: Original) -> None:
        self.student, self.original = student, original
        groups = [
            {"params": [v], "lr": _RATE * float(v.detach().square().mean().sqrt())}
            for v in student.vectors.values()
        ]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.95))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, _half_cosine)

    def run(self, progress: Progress) -> Tuning:
        """Learn from the samples given; judge by those held out."""
        first = best = self._judge()
        vectors, steps, worse = self.student.snapshot(), 0, 0
        size = max(1, _BATCH_TOKENS // self.original.samples.shape[1])
        for step, batch in enumerate(batches(self.original.given, size, _STEPS), 1):
            progress.update(step, _STEPS, f"KL divergence {float(best.mean()):.6f} on held-out text")
            self._learn(batch)
            if step % _CHECK_EVERY:
                continue
            now = self._judge()
            worse = 0 if now.mean() < best.mean() else worse + 1
            if not worse:
                best, vectors, steps = now, self.student.snapshot(), step
            if worse == _PATIENCE:
                break
        gain = first - best
        stderr = float(gain.std() / math.sqrt(len(gain)))
        sure = float(gain.mean()) > SURE * stderr
        return Tuning(float(first.mean()), float(best.mean()), stderr, steps, vectors if sure else {})

    def _learn(self, batch: list[int]) -> None:
        self.adam.zero_grad()
        for part in self.original.parts(batch):
            loss = self.original.divergence(self.student, part).sum() / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.schedule.step()

    def _judge(self) -> torch.Tensor:
        """Mean KL divergence of each held-out sample."""
        return self.original.judge(self.student, self.original.held_out)


def _half_cosine(step: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * min(step / _STEPS, 1.0))
