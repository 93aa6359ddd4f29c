"""Refine a quantized GGUF: layer by layer, stage by stage, matrix by matrix."""

from __future__ import annotations

import copy
import json
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ggufkit import __version__
from ggufkit.calibration import Calibration, overlapping_windows
from ggufkit.errors import CheckpointError
from ggufkit.hashing import sha256_file
from ggufkit.layers import HiddenStates, Linear, Shards, StreamedModel, embed, from_file_rows, passes
from ggufkit.llama.gguf import quantized_tensors
from ggufkit.progress import Progress, Reporter
from ggufkit.records import Tensor
from ggufkit.refine.matrices import refine_matrices
from ggufkit.refine.stages import TwinLayer
from ggufkit.refine.state import Outcome, State
from ggufkit.refine.tensors import Pair
from ggufkit.refine.writer import Value, require_new, rewrite

VERSION = 1
# Held-out text that repeats the calibration text proves nothing. In prose hardly any window occurs twice.
_WINDOW, _MOST_REPEATED = 16, 0.5
_MOMENTS_BUDGET = 4 << 30


@dataclass(frozen=True)
class RefineOptions:
    """How to refine.

    Args:
        sequential: each linear for the inputs that the refined model gives it; else all for the original's.
        device: "auto", "cpu", "cuda".
    """

    sequential: bool = True
    device: str = "auto"


@dataclass(frozen=True)
class RefineReport:
    """What a refinement did.

    Args:
        outcomes: one for each matrix that was tried.
        untouched: quantized tensors of which a part or all stays as it was, and why.
        seconds, peak_ram_bytes: wall time, and the most memory that this process has had.
    """

    outcomes: tuple[Outcome, ...]
    untouched: Mapping[str, str]
    n_tokens: int
    device: str
    seconds: float
    peak_ram_bytes: int

    @property
    def n_refined(self) -> int:
        """Tensors that are better than they were, wholly or in part."""
        return len({o.tensor for o in self.outcomes if o.kept})


def refine_gguf(
    quantized: Path,
    base: Path,
    checkpoint: Path,
    out: Path,
    calibration: Calibration,
    *,
    options: RefineOptions,
    reporter: Reporter,
    state_dir: Path,
) -> RefineReport:
    """Write to `out` the file `quantized` with better roundings: same types, same bytes.

    Args:
        base: the F32, F16 or BF16 GGUF that it was made from.
        checkpoint: the Hugging Face checkpoint that the base was converted from.
        state_dir: where finished matrices and hidden states are kept; the same call goes on there. It takes
            4 * width * tokens bytes four times over, and is removed at the end.

    Raises:
        GgufError: the files are damaged, do not belong together, or have been refined already.
        CheckpointError: the checkpoint is not the one that the base was made from.
        InputError: activations or second moments are not finite.
        ResourceError: a disk is full. The inputs are never changed.
    """
    started = time.monotonic()
    pair, model = Pair(quantized, base), StreamedModel(checkpoint, options.device)
    require_new(pair.quantized, _keys(calibration, ()))
    _require_layers(model, pair)
    state = State(state_dir, _key(pair, checkpoint, calibration, options))
    if _repeats_itself(calibration):
        reporter.warn("The calibration text repeats itself too much to prove a gain: the file stays as it is.")
    else:
        _Refiner(pair, model, calibration, options, state).run(reporter)
    outcomes = tuple(state.outcomes())
    data = _Replacements(pair, state, outcomes)
    rewrite(pair.quantized, out, _keys(calibration, outcomes), data)
    state.remove()
    seconds, untouched = time.monotonic() - started, _untouched(pair, outcomes)
    return RefineReport(outcomes, untouched, calibration.n_tokens, str(model.device), seconds, _peak_ram())


class _Refiner:
    """All layers of one file."""

    def __init__(
        self, pair: Pair, model: StreamedModel, calibration: Calibration, options: RefineOptions, state: State
    ) -> None:
        self.pair, self.model, self.state, self.options = pair, model, state, options
        self.samples = _stack(calibration)
        self.n_samples = len(calibration.samples)

    def run(self, reporter: Reporter) -> None:
        """Refine what is not done yet."""
        with reporter.step(f"Refining {self.pair.quantized.path.name}", self.model.n_layers) as progress:
            for index in range(self.state.layer(), self.model.n_layers):
                progress.update(index, note=f"layer {index}")
                self._layer(index, progress)
                self.state.enter(index + 1)
                for hidden in self._hidden(index):
                    hidden.remove()
            progress.update(self.model.n_layers)

    def _hidden(self, index: int) -> tuple[HiddenStates, HiddenStates]:
        """The inputs of a layer, of the original and of the refined model: one object if they are the same."""
        names = ("original", "refined") if self.options.sequential else ("original",)
        files = [
            HiddenStates(self.state.path / f"{name}.{index}", self.samples.shape, self.model.width)
            for name in names
        ]
        return files[0], files[-1]

    def _layer(self, index: int, progress: Progress) -> None:
        hidden, following = self._hidden(index), self._hidden(index + 1)
        if index == 0:
            self._embed(hidden)
        twin = TwinLayer(self.model, index, hidden, self.n_samples, self.state.path, self._refines)
        for linear in twin.others if twin.sequential else ():
            self._use_stored(twin, linear)
        groups = [group for stage in twin.stages() for group in passes(stage, _MOMENTS_BUDGET)]
        for number, group in enumerate(groups):
            last = number == len(groups) - 1
            progress.update(index + number / len(groups), note=group[0].tensor)
            gathered = twin.gather(group, following[0] if last else None)
            for key, sums in gathered.items():
                refine_matrices(self.pair, self.state, twin, [x for x in group if x.input == key], sums)
        if not groups:
            twin.finish(0, following[0])
        if twin.sequential:
            twin.finish(1, following[1])
        twin.close()

    def _embed(self, hidden: tuple[HiddenStates, HiddenStates]) -> None:
        original, refined = hidden
        embed(self.model, self.samples, original)
        if refined is not original:
            reader = copy.copy(self.model)
            reader.shards = _QuantizedRows(self.model.path, self.pair)
            embed(reader, self.samples, refined)

    def _refines(self, linear: Linear) -> bool:
        return self.pair.codec(linear.tensor) is not None

    def _use_stored(self, twin: TwinLayer, linear: Linear) -> None:
        if linear.tensor in self.pair.quantized.by_name:
            stored = self.pair.stored(linear.tensor, linear.expert)
            twin.set_weight(linear, from_file_rows(stored, linear.row_heads))


class _QuantizedRows(Shards):
    """A checkpoint whose token embedding is the quantized file's."""

    def __init__(self, path: Path, pair: Pair) -> None:
        super().__init__(path)
        self._pair = pair

    def rows(self, name: str, ids: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - only the embedding is read by rows
        """Rows `ids` of the token embedding, float32."""
        return self._pair.embedding(ids)


class _Replacements:
    """New bytes for tensors of which at least one matrix is better."""

    def __init__(self, pair: Pair, state: State, outcomes: Sequence[Outcome]) -> None:
        self._pair, self._state = pair, state
        self._kept: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.kept:
                self._kept.setdefault(outcome.tensor, []).append(outcome)

    def __call__(self, tensor: Tensor) -> bytes | None:
        """The tensor's new bytes; None if it stays."""
        kept = self._kept.get(tensor.name, [])
        if not kept:
            return None
        slices = [self._pair.raw(tensor.name, i) for i in range(math.prod(tensor.shape[2:]))]
        for outcome in kept:
            done = self._state.load(tensor.name, outcome.expert)
            if done is not None:
                slices[outcome.expert or 0] = done[1]
        return b"".join(s.tobytes() for s in slices)


def _stack(calibration: Calibration) -> NDArray[np.int32]:
    """All samples, those to be kept apart last."""
    return np.concatenate([calibration.samples, calibration.held_out])


def _require_layers(model: StreamedModel, pair: Pair) -> None:
    n_layers = pair.base.hparam("block_count")
    if n_layers != model.n_layers:
        message = f"{pair.base.path} has {n_layers} layers, {model.path} has {model.n_layers}."
        raise CheckpointError(message, hint="Give the checkpoint that the base was converted from.")


def _repeats_itself(calibration: Calibration) -> bool:
    apart = replace(calibration, samples=calibration.held_out, held_out=calibration.held_out[:0])
    n_windows = len(apart.samples) * (apart.samples.shape[1] - _WINDOW + 1)
    repeated = overlapping_windows(apart, calibration.samples.reshape(-1), _WINDOW)
    return bool(repeated > _MOST_REPEATED * n_windows)


def _key(pair: Pair, checkpoint: Path, calibration: Calibration, options: RefineOptions) -> str:
    """What the state is valid for."""
    files = [sha256_file(path) for path in (pair.quantized.path, pair.base.path)]
    return json.dumps([VERSION, *files, str(checkpoint.resolve()), calibration.tokens_sha256, asdict(options)])


def _keys(calibration: Calibration, outcomes: Sequence[Outcome]) -> dict[str, Value]:
    n_samples, length = calibration.samples.shape
    return {
        "general.refined.by": f"ggufkit {__version__}",
        "general.refined.method": "GPTQ, coordinate descent and scale search within llama.cpp's own blocks",
        "general.refined.tensors": len({o.tensor for o in outcomes if o.kept}),
        "general.refined.calibration": f"{n_samples} samples of {length} tokens, {Path(calibration.source).name}",
        "general.refined.calibration_sha256": calibration.tokens_sha256,
    }


def _untouched(pair: Pair, outcomes: Sequence[Outcome]) -> dict[str, str]:
    tried = {o.tensor for o in outcomes}
    reasons = {t.name: _why_not(pair, t) for t in quantized_tensors(pair.quantized) if t.name not in tried}
    for outcome in outcomes:
        if not outcome.kept:
            where = "" if outcome.expert is None else f"expert {outcome.expert}: "
            before = reasons.get(outcome.tensor)
            reasons[outcome.tensor] = "; ".join(filter(None, (before, where + outcome.reason)))
    return reasons


def _why_not(pair: Pair, tensor: Tensor) -> str:
    if tensor.name in ("token_embd.weight", "output.weight"):
        return "the embedding and the output stay as they are"
    if pair.codec(tensor.name) is None:
        return f"{tensor.type} is not among the types that can be refined"
    return "not a linear of a decoder layer, or the calibration text repeats itself"


def _peak_ram() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
