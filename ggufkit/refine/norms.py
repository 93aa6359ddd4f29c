"""Tune what is not quantized, norm vectors and biases, towards the original's output distribution.

The rest of the refined model stays as it is. The loss is KL(original ‖ refined) over the whole vocabulary. Part
of the samples is held out: the vectors that do best there are taken, and none if the gain there is within its
noise. The whole model is held in float32, with the activations of one batch for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from numpy.typing import NDArray
from torch import nn

from ggufkit.core.progress import Progress, Reporter
from ggufkit.layers import HiddenStates, StreamedModel, from_file_rows
from ggufkit.refine.tensors import Pair, QuantizedRows

Vectors = Mapping[str, NDArray[np.float32]]

_STEPS, _CHECK_EVERY, _PATIENCE = 300, 50, 2
_BATCH_TOKENS = 2048
_AT_ONCE = 512  # tokens whose logits are held at a time
# Of the root mean square of a vector, per step at the start; it falls to zero as half a cosine.
_RATE = 1e-3
_HELD_OUT_EVERY = 12
# The base's value of a vector minus the checkpoint's is 0, or 1 where a norm multiplies by 1 + w.
_SHIFTS, _SAME = (0.0, 1.0), 1e-2
_SURE = 2.0


@dataclass(frozen=True)
class Tuning:
    """What became of tuning.

    Args:
        before, after: mean KL divergence from the original on the held-out samples, nats a token.
        stderr: of `before - after`, over samples.
        steps: how many led to `after`.
        vectors: new values of the GGUF's tensors; none if the gain is below twice its standard error.
    """

    before: float
    after: float
    stderr: float
    steps: int
    vectors: Vectors = field(default_factory=dict)


def tune_norms(
    model: StreamedModel,
    pair: Pair,
    samples: NDArray[np.int32],
    n_samples: int,
    original: HiddenStates,
    reporter: Reporter,
) -> Tuning:
    """Tune the vectors of the refined file in `pair`.

    Args:
        samples: token ids, those to be held out after the first `n_samples`.
        original: the original's hidden states after the last layer, for all samples.
    """
    student = _Student(model, pair)
    held_out = [i for i in range(len(samples)) if i >= n_samples or i % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1]
    given = [i for i in range(len(samples)) if i not in set(held_out)]
    trainer = _Trainer(model, student, samples, original)
    with reporter.step("Tuning norms and biases", _STEPS) as progress:
        tuning = trainer.run(given, held_out, progress)
    if not tuning.vectors:
        reporter.warn(
            f"Tuning the norms gains nothing that is sure (KL divergence {tuning.before:.6f}, then "
            f"{tuning.after:.6f} on held-out text): they stay. More --calibration-samples may help."
        )
    return tuning


class _Student:
    """The refined model, whole, with the vectors that may change."""

    def __init__(self, model: StreamedModel, pair: Pair) -> None:
        self.pair = pair
        self.model = StreamedModel(model.path, model.device, QuantizedRows(model.path, pair))
        self.layers = [self._layer(index) for index in range(model.n_layers)]
        self.vectors = self._tunable()
        self._starts = {name: vector.detach().clone() for name, vector in self.vectors.items()}

    def _layer(self, index: int) -> nn.Module:
        layer = self.model.load_layer(index)
        for linear in self.model.linears(layer, index):
            if linear.tensor in self.pair.quantized.by_name:
                stored = from_file_rows(self.pair.stored(linear.tensor, linear.expert), linear.row_heads)
                layer.get_submodule(linear.module).weight.data.copy_(stored)  # type: ignore[operator]
        return layer

    def _tunable(self) -> dict[str, nn.Parameter]:
        """The F32 vectors of the file that the checkpoint holds in the same order, by their GGUF names."""
        header = self.pair.base
        arch = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}[header.architecture]
        names = get_tensor_name_map(arch, self.model.n_layers)
        found: dict[str, nn.Parameter] = {}
        for path, parameter in self._parameters():
            name = names.get_name(path, try_suffixes=(".weight", ".bias"))
            if parameter.dim() == 1 and name is not None and self._is_same(name, parameter):
                parameter.requires_grad_()
                found[name] = parameter
        return found

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        named = [(f"model.norm.{name}", p) for name, p in self.model.final_norm().named_parameters()]
        for index, layer in enumerate(self.layers):
            named += [(self.model.prefix(index) + name, p) for name, p in layer.named_parameters()]
        return named

    def _is_same(self, name: str, parameter: nn.Parameter) -> bool:
        tensor = self.pair.quantized.by_name.get(name)
        if tensor is None or tensor.type != "F32" or tensor.shape != tuple(parameter.shape):
            return False
        off = self.pair.vector(name) - parameter.detach().cpu()
        return any(bool(torch.allclose(off, torch.full_like(off, s), atol=_SAME * (1 + s))) for s in _SHIFTS)

    def logits(self, ids: NDArray[np.int32]) -> torch.Tensor:
        """(samples, tokens) -> (samples, tokens, vocabulary)."""
        hidden = self.model.embed(ids)
        for index, layer in enumerate(self.layers):
            hidden = self.model.forward(index, layer, hidden)
        return self.model.logits(hidden)

    def snapshot(self) -> Vectors:
        """The file's vectors with the changes made so far."""
        return {
            name: (self.pair.vector(name) + (vector.detach() - self._starts[name]).cpu()).numpy()
            for name, vector in self.vectors.items()
        }


class _Trainer:
    """Adam on the student's vectors, against the original's answers."""

    def __init__(
        self, model: StreamedModel, student: _Student, samples: NDArray[np.int32], original: HiddenStates
    ) -> None:
        self.model, self.student, self.samples, self.original = model, student, samples, original
        groups = [
            {"params": [v], "lr": _RATE * float(v.detach().square().mean().sqrt())}
            for v in student.vectors.values()
        ]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.95))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, _half_cosine)

    def run(self, given: list[int], held_out: list[int], progress: Progress) -> Tuning:
        """Learn from the samples `given`; judge by those `held_out`."""
        first = best = self._judge(held_out)
        vectors, steps, worse = self.student.snapshot(), 0, 0
        for step, batch in enumerate(_batches(given, max(1, _BATCH_TOKENS // self.samples.shape[1])), 1):
            progress.update(step, _STEPS, f"KL divergence {float(best.mean()):.6f} on held-out text")
            self._learn(batch)
            if step % _CHECK_EVERY:
                continue
            now = self._judge(held_out)
            worse = 0 if now.mean() < best.mean() else worse + 1
            if not worse:
                best, vectors, steps = now, self.student.snapshot(), step
            if worse == _PATIENCE:
                break
        gain = first - best
        stderr = float(gain.std() / math.sqrt(len(gain)))
        sure = float(gain.mean()) > _SURE * stderr
        return Tuning(float(first.mean()), float(best.mean()), stderr, steps, vectors if sure else {})

    def _learn(self, batch: list[int]) -> None:
        self.adam.zero_grad()
        for part in self._parts(batch):
            (self._divergence(part).sum() / len(batch)).backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.schedule.step()

    def _judge(self, chosen: list[int]) -> torch.Tensor:
        """Mean KL divergence of each sample."""
        with torch.no_grad():
            return torch.cat([self._divergence(part) for part in self._parts(chosen)]).double().cpu()

    def _parts(self, chosen: list[int]) -> Iterator[list[int]]:
        step = max(1, _AT_ONCE // self.samples.shape[1])
        return (chosen[start : start + step] for start in range(0, len(chosen), step))

    def _divergence(self, chosen: list[int]) -> torch.Tensor:
        """Mean KL divergence of each of some samples that are run at once, nats a token."""
        with torch.no_grad():
            hidden = torch.cat([self.original.read(i, i + 1) for i in chosen])
            wanted = self.model.logits(hidden).log_softmax(-1)
        answers = self.student.logits(self.samples[chosen]).log_softmax(-1)
        each = nn.functional.kl_div(answers, wanted, reduction="none", log_target=True)
        return each.sum(-1).mean(-1)


def _half_cosine(step: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * min(step / _STEPS, 1.0))


def _batches(given: list[int], size: int) -> Iterator[list[int]]:
    """`_STEPS` batches, in an order of their own for each pass over the samples."""
    rng, queue = np.random.default_rng(0), list[int]()
    for _ in range(_STEPS):
        while len(queue) < size:
            queue += [given[i] for i in rng.permutation(len(given))]
        yield queue[:size]
        del queue[:size]
