"""The proof that a scaled checkpoint computes what the original does: float32 logits on held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ggufkit.awq.apply import Rewrites
from ggufkit.calibration import Tokens
from ggufkit.errors import ToolError
from ggufkit.layers import HiddenStates, StreamedModel, embed, run_layer
from ggufkit.progress import Reporter
from ggufkit.records import Json

TOLERANCE = 1e-3
"""The largest change of a logit allowed, in standard deviations of the logits."""

_TOKENS = 64
# Rounding to bfloat16 costs some 1e-5; a tensor written wrongly costs nats.
_MOST_WRITTEN_KL = 0.01


@dataclass(frozen=True)
class Difference:
    """How far a model's logits are from the original's, on the same tokens.

    `max_delta` is the largest |Δlogit|; `kl_mean` and `kl_max` are KL divergences in nats per token.
    """

    max_delta: float
    kl_mean: float
    kl_max: float


@dataclass(frozen=True)
class Proof:
    """What was proved.

    Args:
        folded: the scaled weights in float32, before they are stored.
        written: the checkpoint as it is on disk, with the rounding of its dtype.
        logit_std: standard deviation of the original's logits.
        n_tokens: tokens that were compared.
    """

    folded: Difference
    written: Difference
    logit_std: float
    n_tokens: int

    @property
    def holds(self) -> bool:
        """Whether scaling left the function as it was."""
        return self.folded.max_delta <= TOLERANCE * self.logit_std

    def notes(self) -> dict[str, Json]:
        """What the manifest says about it."""
        return {"equality": {**asdict(self), "tolerance": TOLERANCE * self.logit_std}}


LoadLayer = Callable[[int], nn.Module]
"""Gives a decoder layer by its number."""


def rewritten_layers(model: StreamedModel, rewrites: Rewrites) -> LoadLayer:
    """The layers of a model with tensors rewritten in float32."""

    def load(index: int) -> nn.Module:
        layer = model.load_layer(index)
        for name, parameter in layer.named_parameters():
            rewrite = rewrites.get(model.prefix(index) + name)
            if rewrite is not None:
                parameter.data = rewrite(parameter.data.cpu()).to(model.device)
        return layer

    return load


def prove(
    original: StreamedModel, folded: LoadLayer, written: StreamedModel, tokens: Tokens, reporter: Reporter
) -> Proof:
    """Compare the original with its folded weights and with the written checkpoint.

    Args:
        folded: layers with the scales folded in, in float32.
        tokens: (samples, tokens) that the search has not seen.

    Raises:
        ToolError: a logit changed by more than `TOLERANCE`, or what was written is something else.
    """
    with (
        TemporaryDirectory(prefix="ggufkit-proof-") as scratch,
        reporter.step("AWQ: proof of equality") as progress,
    ):
        starts = {"original": original, "folded": original, "written": written}
        hidden = {n: HiddenStates(Path(scratch) / f"{n}.0", tokens.shape, original.width) for n in starts}
        for name, model in starts.items():
            embed(model, tokens, hidden[name])
        loaders = {"original": original.load_layer, "folded": folded, "written": written.load_layer}
        for index in range(original.n_layers):
            for name, load in loaders.items():
                after = HiddenStates(Path(scratch) / f"{name}.{index + 1}", tokens.shape, original.width)
                run_layer(original, index, load(index), hidden[name], after)
                hidden[name].remove()
                hidden[name] = after
            progress.update(index + 1, original.n_layers, f"layer {index + 1} of {original.n_layers}")
        proof = _compare(original, hidden["original"], hidden["folded"], hidden["written"])
    _require(proof, original.path)
    return proof


def _require(proof: Proof, path: Path) -> None:
    if not proof.holds:
        limit = TOLERANCE * proof.logit_std
        message = (
            f"Scaling changed the function of {path.name}: a logit moved by {proof.folded.max_delta:.2g}, "
            f"more than {limit:.2g}."
        )
        raise ToolError(message, hint="This is a bug in the fold table or the engine; use --variants imatrix.")
    if not proof.written.kl_mean <= _MOST_WRITTEN_KL:
        loss = proof.written.kl_mean
        message = f"The scaled {path.name} was not written as it should be: its mean KL divergence is {loss:.2g}."
        raise ToolError(message, hint="Try --awq-dtype float32.")


def _compare(model: StreamedModel, original: HiddenStates, *others: HiddenStates) -> Proof:
    """Logits of all tokens, a few at a time."""
    tallies = [_Tally() for _ in others]
    total, square, count = 0.0, 0.0, 0
    for sample in range(len(original)):
        rows = [h.read(sample, sample + 1) for h in (original, *others)]
        for start in range(0, original.n_tokens, _TOKENS):
            reference = model.logits(rows[0][:, start : start + _TOKENS])
            total += float(reference.sum(dtype=torch.float64))
            square += float(reference.square().sum(dtype=torch.float64))
            count += reference.numel()
            for tally, other in zip(tallies, rows[1:], strict=True):
                tally.add(reference, model.logits(other[:, start : start + _TOKENS]))
    model.release_head()
    std = math.sqrt(max(square / count - (total / count) ** 2, 0.0))
    folded, written = (tally.result() for tally in tallies)
    return Proof(folded, written, std, len(original) * original.n_tokens)


class _Tally:
    """Running differences of two models' logits."""

    def __init__(self) -> None:
        self._delta, self._kl_sum, self._kl_max, self._count = 0.0, 0.0, 0.0, 0

    def add(self, reference: torch.Tensor, other: torch.Tensor) -> None:
        """Count logits (1, tokens, vocabulary) of both."""
        self._delta = max(self._delta, _largest(other - reference))
        log_p = reference.log_softmax(-1)
        kl = (log_p.exp() * (log_p - other.log_softmax(-1))).sum(-1)
        self._kl_sum += float(kl.sum(dtype=torch.float64))
        self._kl_max = max(self._kl_max, _largest(kl))
        self._count += kl.numel()

    def result(self) -> Difference:
        """What was found."""
        return Difference(self._delta, self._kl_sum / self._count, self._kl_max)


def _largest(values: torch.Tensor) -> float:
    """The largest magnitude; infinite if one is not a number."""
    largest = float(values.abs().max())
    return math.inf if math.isnan(largest) else largest
