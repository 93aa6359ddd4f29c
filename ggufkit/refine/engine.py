"""Refine a quantized GGUF: layer by layer, stage by stage, matrix by matrix."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.core.errors import CheckpointError, GgufError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.progress import Progress, Reporter
from ggufkit.core.records import Tensor
from ggufkit.layers import (
    HiddenStates,
    Linear,
    StreamedModel,
    borrowed_device,
    embed,
    from_file_rows,
    keeping_freed_memory,
    passes,
)
from ggufkit.llama.gguf import quantized_tensors
from ggufkit.refine.matrices import Owner, refine_matrices
from ggufkit.refine.norms import Tuning, tune_norms
from ggufkit.refine.options import RefineOptions
from ggufkit.refine.output import TENSOR as OUTPUT
from ggufkit.refine.output import TwinHead
from ggufkit.refine.report import Pace, Part, RefineReport, peak_ram, untouched
from ggufkit.refine.stages import Gathered, TwinLayer
from ggufkit.refine.state import Outcome, State
from ggufkit.refine.tensors import Pair, QuantizedRows
from ggufkit.refine.writer import Value, require_new, rewrite
from ggufkit.texts.calibration import Calibration, overlapping_windows
from ggufkit.version import __version__

__all__ = ["RefineReport", "refine_gguf"]

VERSION = 1
# Held-out text that repeats the calibration text proves nothing. In prose hardly any window occurs twice.
_WINDOW, _MOST_REPEATED = 16, 0.5
_MOMENTS_BUDGET = 4 << 30
_GATHERING = 0.6  # of the time that a group of linears takes


@borrowed_device("refining")
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
            4 * (8 * width + MLP width) * tokens bytes, and is removed at the end.

    Memory, at most: two copies of a layer in float32; for the widest input, of n columns, 60 n² bytes of second
    moments and their factors; 60 bytes for each weight of the largest matrices that share an input and a type (q
    and k, gate and up); a batch of tokens, and the held-out tokens' inputs and outputs. Files are mapped.
    `tune_norms` holds the whole model in float32.

    Raises:
        GgufError: the files are damaged, do not belong together, or have been refined already.
        CheckpointError: the checkpoint is not the one that the base was made from.
        InputError: activations or second moments are not finite.
        ResourceError: a disk is full. The inputs are never changed.
        DeviceMemoryError: the GPU's memory ran out; the same call on another device goes on there.
    """
    started = time.monotonic()
    pair, model = Pair(quantized, base), StreamedModel(checkpoint, options.device)
    require_new(pair.quantized, _keys(calibration, ()))
    _require_quantized(pair)
    _require_same_model(model, pair, calibration)
    state = State(state_dir, _key(pair, checkpoint, calibration, options))
    refiner = _Refiner(pair, model, calibration, options, state)
    if _repeats_itself(calibration):
        reporter.warn("The calibration text repeats itself too much to prove a gain: the file stays as it is.")
    else:
        refiner.run(reporter)
    outcomes = tuple(state.outcomes())
    data = _Replacements(pair, state, outcomes)
    tuning = refiner.tune(data, reporter) if options.tune_norms and outcomes else None
    data.vectors = tuning.vectors if tuning else {}
    rewrite(pair.quantized, out, _keys(calibration, outcomes, len(data.vectors)), data)
    state.remove()
    seconds, left = time.monotonic() - started, untouched(pair, outcomes)
    return RefineReport(outcomes, left, calibration.n_tokens, str(model.device), seconds, peak_ram(), tuning)


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
        first, n_layers = self.state.layer(), self.model.n_layers
        with reporter.step(f"Refining {self.pair.quantized.path.name}", n_layers) as progress:
            pace = Pace(progress, first, n_layers)
            for index in range(first, n_layers):
                self._layer(index, pace)
                self.state.enter(index + 1)
                for hidden in self._hidden(index):
                    hidden.remove()
            progress.update(n_layers)
            if self.options.include_output:
                self._output(progress)

    def tune(self, data: _Replacements, reporter: Reporter) -> Tuning:
        """Tune norms and biases of the refined file."""
        refined = self.state.path / "refined.gguf"
        rewrite(self.pair.quantized, refined, {}, data)
        pair = Pair(refined, self.pair.base.path)
        return tune_norms(
            self.model, pair, self.samples, self.n_samples, self._hidden(self.model.n_layers)[0], reporter
        )

    def _output(self, progress: Progress) -> None:
        """Refine the output matrix, where it is a tensor of its own."""
        if self.pair.codec(OUTPUT) is not None:
            progress.update(self.model.n_layers, note=OUTPUT)
            head = TwinHead(self.model, self._hidden(self.model.n_layers), self.n_samples)
            self._refine(head, [head.linear], head.gather())
            self.model.release_head()

    def _refine(self, owner: Owner, linears: Sequence[Linear], sums: Gathered) -> None:
        with keeping_freed_memory():
            refine_matrices(self.pair, self.state, owner, linears, sums, self.options.act_order)

    def _hidden(self, index: int) -> tuple[HiddenStates, HiddenStates]:
        """The inputs of a layer, of the original and of the refined model: one object if they are the same."""
        names = ("original", "refined") if self.options.sequential else ("original",)
        files = [
            HiddenStates(self.state.path / f"{name}.{index}", self.samples.shape, self.model.width)
            for name in names
        ]
        return files[0], files[-1]

    def _wanted(self, index: int) -> tuple[HiddenStates, HiddenStates] | None:
        """The inputs of a layer; those behind the last one only if something comes of them."""
        behind = self.options.include_output or self.options.tune_norms
        return self._hidden(index) if behind or index < self.model.n_layers else None

    def _layer(self, index: int, pace: Pace) -> None:
        hidden, following = self._hidden(index), self._wanted(index + 1)
        if index == 0:
            self._embed(hidden)
        twin = TwinLayer(self.model, index, hidden, self.n_samples, self.state.path, self._refines)
        for linear in twin.others if twin.sequential else ():
            self._use_stored(twin, linear)
        groups = [group for stage in twin.stages() for group in passes(stage, _MOMENTS_BUDGET)]
        for number, group in enumerate(groups):
            outputs = following[0] if following and number == len(groups) - 1 else None
            part = Part(
                pace, index + number / len(groups), _GATHERING / len(groups) / len(self.samples), group[0].tensor
            )
            gathered = twin.gather(group, outputs, part.at)
            for key, sums in gathered.items():
                self._refine(twin, [x for x in group if x.input == key], sums)
        if following and not groups:
            twin.finish(0, following[0])
        if following and twin.sequential:
            twin.finish(1, following[1])
        twin.close()

    def _embed(self, hidden: tuple[HiddenStates, HiddenStates]) -> None:
        original, refined = hidden
        embed(self.model, self.samples, original)
        if refined is not original:
            reader = copy.copy(self.model)
            reader.shards = QuantizedRows(self.model.path, self.pair)
            embed(reader, self.samples, refined)

    def _refines(self, linear: Linear) -> bool:
        return self.pair.codec(linear.tensor) is not None

    def _use_stored(self, twin: TwinLayer, linear: Linear) -> None:
        if linear.tensor in self.pair.quantized.by_name:
            stored = self.pair.stored(linear.tensor, linear.expert)
            twin.set_weight(linear, from_file_rows(stored, linear.row_heads))


class _Replacements:
    """New bytes for tensors of which at least one matrix is better, and for the `vectors` that were tuned."""

    def __init__(self, pair: Pair, state: State, outcomes: Sequence[Outcome]) -> None:
        self._pair, self._state = pair, state
        self.vectors: Mapping[str, NDArray[np.float32]] = {}
        self._kept: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.kept:
                self._kept.setdefault(outcome.tensor, []).append(outcome)

    def __call__(self, tensor: Tensor) -> bytes | None:
        """The tensor's new bytes; None if it stays."""
        if tensor.name in self.vectors:
            return self.vectors[tensor.name].tobytes()
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


def _require_quantized(pair: Pair) -> None:
    if not quantized_tensors(pair.quantized):
        message = f"{pair.quantized.path} is not quantized: it has no roundings to better."
        raise GgufError(message, hint="Give what llama-quantize made of it, and the file itself with --base.")


def _require_same_model(model: StreamedModel, pair: Pair, calibration: Calibration) -> None:
    """Refuse what can be told at once; each matrix is compared when its turn comes."""
    base, largest = pair.base, int(_stack(calibration).max())
    n_layers, width, n_tokens = base.hparam("block_count"), *base.by_name["token_embd.weight"].shape[:2]
    if n_layers != model.n_layers:
        differs = f"{n_layers} layers, {model.path} has {model.n_layers}"
    elif width != model.width:
        differs = f"a width of {width}, {model.path} one of {model.width}"
    elif largest >= n_tokens:
        differs = f"{n_tokens} tokens, the tokenizer of {model.path} gives token {largest}"
    else:
        return
    hint = "Give the checkpoint that the base was converted from."
    raise CheckpointError(f"{base.path} has {differs}.", hint=hint)


def _repeats_itself(calibration: Calibration) -> bool:
    apart = replace(calibration, samples=calibration.held_out, held_out=calibration.held_out[:0])
    n_windows = len(apart.samples) * (apart.samples.shape[1] - _WINDOW + 1)
    repeated = overlapping_windows(apart, calibration.samples.reshape(-1), _WINDOW)
    return bool(repeated > _MOST_REPEATED * n_windows)


def _key(pair: Pair, checkpoint: Path, calibration: Calibration, options: RefineOptions) -> str:
    """What the state is valid for."""
    files = [sha256_file(path) for path in (pair.quantized.path, pair.base.path)]
    how = {name: value for name, value in asdict(options).items() if name != "device"}
    return json.dumps([VERSION, *files, str(checkpoint.resolve()), calibration.tokens_sha256, how])


def _keys(calibration: Calibration, outcomes: Sequence[Outcome], n_tuned: int = 0) -> dict[str, Value]:
    n_samples, length = calibration.samples.shape
    return {
        "general.refined.by": f"ggufkit {__version__}",
        "general.refined.method": "GPTQ, coordinate descent and scale search within llama.cpp's own blocks",
        "general.refined.tensors": len({o.tensor for o in outcomes if o.kept}),
        "general.refined.tuned_vectors": n_tuned,
        "general.refined.calibration": f"{n_samples} samples of {length} tokens, {Path(calibration.source).name}",
        "general.refined.calibration_sha256": calibration.tokens_sha256,
    }
