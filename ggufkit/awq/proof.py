"""The proof that a scaled checkpoint computes what the original does: float32 logits on held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ggufkit.awq.apply import Rewrites
from ggufkit.core.errors import ToolError
from ggufkit.core.progress import Progress, Reporter
from ggufkit.core.records import Json
from ggufkit.layers import HiddenStates, Shards, StreamedModel, embed, return_freed_memory, run_layer
from ggufkit.layers.shards import DTYPES
from ggufkit.texts.calibration import Tokens

TOLERANCE = 1e-3
"""The largest change of a logit allowed, in standard deviations of the logits."""

# So much text is run through all layers; logits are compared at fewer tokens, as a large vocabulary makes them slow.
_SAMPLES, _TOKENS = 4, 128
_LOGITS_AT_ONCE = 1 << 19
_ROWS = 1024
# What the layers take of the time, roughly.
_LAYERS_SHARE = 0.9
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
        n_tokens: tokens whose logits were compared; 0 where all tensors are what they were.
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
        if not self.n_tokens:
            return {"equality": {"same_tensors": True}}
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
        tokens: (samples, tokens) that the search has not seen; of many samples the first are enough.

    Raises:
        ToolError: a logit changed by more than `TOLERANCE`, or what was written is something else.
    """
    layers, tokens = original.prefix(0).partition("0")[0], tokens[:_SAMPLES]
    _require_same(original, written, (n for n in original.shards.tensors if not n.startswith(layers)))
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
            done = _LAYERS_SHARE * (index + 1) / original.n_layers
            progress.update(done, 1.0, f"layer {index + 1} of {original.n_layers}")
        return_freed_memory()
        others = [hidden["folded"], hidden["written"]]
        (in_float32, stored), std, n_tokens = _compare(original, hidden["original"], others, progress)
    proof = Proof(in_float32, stored, std, n_tokens)
    _require(proof, original.path)
    return proof


def prove_unchanged(original: StreamedModel, written: StreamedModel) -> Proof:
    """The proof where nothing was scaled: every tensor is what it was, as far as its dtype holds it.

    Raises:
        ToolError: one is not.
    """
    _require_same(original, written, original.shards.tensors)
    same = Difference(0.0, 0.0, 0.0)
    return Proof(same, same, 0.0, 0)


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


def _require_same(original: StreamedModel, written: StreamedModel, names: Iterable[str]) -> None:
    """Require that tensors are written as they were, up to their dtype."""
    for name in names:
        if name not in written.shards or not _equal(name, original.shards, written.shards):
            message = (
                f"The scaled {original.path.name} was not written as it should be: {name} is not what it was."
            )
            raise ToolError(message, hint="This is a bug in the engine; use --variants imatrix.")


def _equal(name: str, one: Shards, other: Shards) -> bool:
    shape, dtype = one.info(name).shape, DTYPES.get(other.info(name).dtype)
    if shape != other.info(name).shape or dtype is None:
        return False
    for start in range(0, shape[0], _ROWS):
        ids = torch.arange(start, min(start + _ROWS, shape[0]))
        if not torch.equal(one.rows(name, ids).to(dtype).float(), other.rows(name, ids)):
            return False
    return True


def _compare(
    model: StreamedModel, original: HiddenStates, others: Sequence[HiddenStates], progress: Progress
) -> tuple[list[Difference], float, int]:
    """Differences of others' logits from the original's, the standard deviation of these, and how many tokens had some.

    A few tokens at a time: those whose hidden states say most about the first of the others, see `_telling`.
    """
    tallies = [_Tally() for _ in others]
    total, square, count = 0.0, 0.0, 0
    step = max(1, _LOGITS_AT_ONCE // model.n_vocab)
    for sample, chosen in enumerate(_telling(model, original, others[0])):
        rows = [h.read(sample, sample + 1)[:, chosen] for h in (original, *others)]
        for start in range(0, rows[0].shape[1], step):
            reference = _Reference(model.logits(rows[0][:, start : start + step]))
            total += float(reference.logits.sum(dtype=torch.float64))
            square += float(torch.linalg.vector_norm(reference.logits)) ** 2
            count += reference.logits.numel()
            for tally, other in zip(tallies, rows[1:], strict=True):
                tally.add(reference, model.logits(other[:, start : start + step]))
        progress.update(_LAYERS_SHARE + (1 - _LAYERS_SHARE) * (sample + 1) / len(original), 1.0, "logits")
    model.release_head()
    std = math.sqrt(max(square / count - (total / count) ** 2, 0.0))
    return [tally.result() for tally in tallies], std, tallies[0].count


def _telling(model: StreamedModel, original: HiddenStates, other: HiddenStates) -> list[torch.Tensor]:
    """The tokens whose logits to compare, by sample: half of them where the head's input moved most, half all over."""
    moved = []
    for sample in range(len(original)):
        one, two = (model.normalized(h.read(sample, sample + 1)) for h in (original, other))
        moved.append(torch.linalg.vector_norm(two - one, dim=-1).cpu())
    distances = torch.cat(moved)
    wanted = min(_TOKENS // 2, distances.numel())
    most = distances.flatten().topk(wanted).indices
    spread = torch.linspace(0, distances.numel() - 1, wanted).round().long()
    mask = torch.zeros(distances.numel(), dtype=torch.bool)
    mask[torch.cat([most, spread])] = True
    return [row.nonzero()[:, 0] for row in mask.view_as(distances)]


class _Reference:
    """The original's logits (1, tokens, vocabulary), with their log-probabilities and probabilities."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.log_p = logits.log_softmax(-1)
        self.p = self.log_p.exp()


class _Tally:
    """Running differences of two models' logits."""

    def __init__(self) -> None:
        self._delta, self._kl_sum, self._kl_max = 0.0, 0.0, 0.0
        self.count = 0

    def add(self, reference: _Reference, other: torch.Tensor) -> None:
        """Count another model's logits, which are overwritten: vocabularies are large."""
        log_q = other.log_softmax(-1)
        self._delta = max(self._delta, _largest(other.sub_(reference.logits)))
        kl = log_q.neg_().add_(reference.log_p).mul_(reference.p).sum(-1)
        self._kl_sum += float(kl.sum(dtype=torch.float64))
        self._kl_max = max(self._kl_max, _largest(kl))
        self.count += kl.numel()

    def result(self) -> Difference:
        """What was found."""
        return Difference(self._delta, self._kl_sum / self.count, self._kl_max)


def _largest(values: torch.Tensor) -> float:
    """The largest magnitude; infinite if one is not a number."""
    low, high = (float(v) for v in values.aminmax())
    return math.inf if math.isnan(low) or math.isnan(high) else max(-low, high)
