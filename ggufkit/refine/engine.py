"""Refine a quantized GGUF: layer by layer, stage by stage, matrix by matrix."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.core.errors import CheckpointError, GgufError
from ggufkit.core.progress import Progress, Reporter
from ggufkit.layers import (
    HiddenStates,
    KeptStates,
    Linear,
    Room,
    StreamedModel,
    borrowed_device,
    embed,
    from_file_rows,
    keeping_freed_memory,
)
from ggufkit.llama import mtp
from ggufkit.llama.gguf import EMBEDDING, gguf_sha256, quantized_tensors
from ggufkit.llama.gguf_bytes import MetadataValue
from ggufkit.models.files import fingerprint
from ggufkit.refine import kernels
from ggufkit.refine.distill import distill, require_room
from ggufkit.refine.layerwise import Layers
from ggufkit.refine.matrices import Owner, refine_matrices
from ggufkit.refine.norms import Tuning, tune_norms
from ggufkit.refine.options import RefineOptions
from ggufkit.refine.output import TwinHead
from ggufkit.refine.replacements import Replacements
from ggufkit.refine.result import RefineResult, peak_ram, untouched
from ggufkit.refine.stages import TwinLayer
from ggufkit.refine.state import Outcome, State
from ggufkit.refine.statistics import InputStatistics
from ggufkit.refine.student import Original, Student
from ggufkit.refine.tensors import Pair, QuantizedRows
from ggufkit.refine.tied import weight_of_rows
from ggufkit.refine.twin import TwinHidden
from ggufkit.refine.writer import require_new, rewrite
from ggufkit.texts.calibration import Calibration, overlapping_windows
from ggufkit.version import __version__

__all__ = ["RefineInputs", "RefineResult", "refine_gguf", "refine_layers_together"]

VERSION = 2
# Held-out text that repeats the calibration text proves nothing. In prose hardly any window occurs twice.
_WINDOW, _MOST_REPEATED = 16, 0.5


@dataclass(frozen=True)
class RefineInputs:
    """What is refined, and for what.

    Args:
        quantized: the GGUF to refine.
        base: the F32, F16 or BF16 GGUF that it was made from.
        checkpoint: the Hugging Face checkpoint that the base was converted from.
        calibration: the text that it is refined for.
    """

    quantized: Path
    base: Path
    checkpoint: Path
    calibration: Calibration


@borrowed_device("refining")
def refine_gguf(
    inputs: RefineInputs, out: Path, options: RefineOptions, *, state_dir: Path, reporter: Reporter
) -> RefineResult:
    """Write to `out` the quantized file with better roundings: same types, same bytes.

    Args:
        state_dir: where finished matrices and hidden states are kept; the same call goes on there. It takes
            4 * (8 * width + MLP width) * tokens bytes, and is removed at the end.

    Memory, at most: two copies of a layer in float32; for the widest input, of n columns, 76 n² bytes of second
    moments and their factors (96 n² on a GPU); 68 bytes for each weight of the largest matrices that share an input
    and a type (q and k, gate and up); a batch of tokens, and the held-out tokens' inputs. A GPU keeps
    hidden states in what is left. Files are mapped. `tune_norms` holds the whole model in float32, `distill` three floats
    for each weight; it starts again where a run was stopped, from the matrices that are done.

    Raises:
        GgufError: the files are damaged, do not belong together, or have been refined already.
        CheckpointError: the checkpoint is not the one that the base was made from.
        InputError: activations or second moments are not finite.
        ResourceError: a disk is full, or `distill` takes more memory than there is. The inputs are never changed.
        DeviceMemoryError: the GPU's memory ran out; the same call on another device goes on there.
    """
    started, calibration = time.monotonic(), inputs.calibration
    model = StreamedModel(inputs.checkpoint, options.device)
    refiner = _opened(inputs, model, options, state_dir)
    kernels.of(model.device, reporter)
    pair, state = refiner.pair, refiner.state
    if _repeats_itself(calibration):
        reporter.warn("The calibration text repeats itself too much to prove a gain: the file stays as it is.")
    else:
        refiner.run(reporter)
    outcomes = tuple(state.outcomes())
    data = Replacements(pair, state, outcomes)
    tuning = refiner.tune(data, reporter) if options.tunes and outcomes else None
    if tuning:
        data = replace(data, vectors=tuning.vectors, blocks=tuning.blocks)
    rewrite(pair.quantized, out, _keys(calibration, outcomes, data), data)
    state.remove()
    seconds, left = time.monotonic() - started, untouched(pair, outcomes, data.blocks)
    return RefineResult(outcomes, left, calibration.n_tokens, str(model.device), seconds, peak_ram(), tuning)


@borrowed_device("refining")
def refine_layers_together(files: Mapping[Path, RefineInputs], options: RefineOptions, reporter: Reporter) -> None:
    """Refine the layers of several files of one model, in one pass over the original.

    `refine_gguf` of each, with its own directory, finds them done, and makes the same bytes as if it had done them itself:
    what it needs of the original is what they share. What cannot share a pass is left to it.

    Args:
        files: what is to be refined, by the directory of its state. They differ in `quantized` alone.

    Memory: for each further file a layer in float32, second moments (for an input of n columns 8 n² bytes, or 4 n² and 4 n m
    where they are paired with m outputs) and the held-out tokens' inputs.

    Raises:
        GgufkitError: as `refine_gguf`.
    """
    some = next(iter(files.values()))
    if not options.sequential or len(files) < 2 or _repeats_itself(some.calibration):
        return
    model = StreamedModel(some.checkpoint, options.device)
    opened = [_opened(one, model, options, directory, len(files)) for directory, one in files.items()]
    kernels.of(model.device, reporter)
    alike: dict[object, list[_Refiner]] = {}
    for refiner in opened:
        alike.setdefault((refiner.state.layer(), refiner.refinable), []).append(refiner)
    for group in alike.values():
        if len(group) > 1 and group[0].state.layer() < model.n_layers:
            names = ", ".join(refiner.pair.quantized.path.name for refiner in group)
            with reporter.step(f"Refining {names}", model.n_layers) as progress:
                Layers(group).run(progress)


def _opened(
    inputs: RefineInputs, model: StreamedModel, options: RefineOptions, state_dir: Path, n_files: int = 1
) -> _Refiner:
    """A file that can be refined, and how far that is."""
    pair, calibration = Pair(inputs.quantized, inputs.base), inputs.calibration
    require_new(pair.quantized, _keys(calibration, ()))
    _require_quantized(pair)
    _require_same_model(model, pair, calibration)
    if options.distill:
        require_room(model, pair, calibration.samples.shape[1])
    state = State(state_dir, _key(inputs, options))
    return _Refiner(pair, model, calibration, options, state, n_files)


class _Refiner:
    """One file: its layers, its output matrix, its norms.

    Args:
        n_files: so many are refined at once.
    """

    def __init__(
        self,
        pair: Pair,
        model: StreamedModel,
        calibration: Calibration,
        options: RefineOptions,
        state: State,
        n_files: int,
    ) -> None:
        self.pair, self.model, self.state, self.options = pair, model, state, options
        self.samples = _stack(calibration)
        self.n_samples = len(calibration.samples)
        self.room = Room(model.device, _needed(pair, n_files)) if model.device.type == "cuda" else None
        self._states: dict[str, HiddenStates] = {}

    def run(self, reporter: Reporter) -> None:
        """Refine what is not done yet."""
        with reporter.step(f"Refining {self.pair.quantized.path.name}", self.model.n_layers) as progress:
            Layers([self]).run(progress)
            if self.options.include_output:
                self._output(progress)

    def tune(self, data: Replacements, reporter: Reporter) -> Tuning:
        """Distil the original into the refined file, or tune its norms and biases."""
        refined = self.state.path / "refined.gguf"
        rewrite(self.pair.quantized, refined, {}, data)
        student = Student(self.model, Pair(refined, self.pair.base.path))
        hidden = self.hidden(self.model.n_layers).original
        original = Original(self.model, self.samples, self.n_samples, hidden)
        with keeping_freed_memory():
            return (distill if self.options.distill else tune_norms)(student, original, reporter)

    def _output(self, progress: Progress) -> None:
        """Refine the output matrix, which may be the embedding, too."""
        name = self.pair.output
        if self.pair.codec(name) is not None:
            progress.update(self.model.n_layers, note=name)
            reads = weight_of_rows(self.model, self._quantized_rows(), self.samples) if name == EMBEDDING else 0.0
            head = TwinHead(self.model, self.hidden(self.model.n_layers), name, reads)
            with keeping_freed_memory():
                self.refine(head, [head.linear], head.gather())
            self.model.release_head()

    def refine(self, owner: Owner, linears: Sequence[Linear], sums: InputStatistics) -> None:
        """Refine the linears of one input."""
        refine_matrices(self.pair, self.state, owner, linears, sums, self.options.act_order)

    def hidden(self, index: int) -> TwinHidden:
        """The inputs of a layer."""
        refined = self._file(f"refined.{index}") if self.options.sequential else None
        return TwinHidden(self._file(f"original.{index}"), refined, self.n_samples)

    def outputs(self, index: int) -> TwinHidden | None:
        """The outputs of a layer; those of the last one only if something comes of them."""
        behind = self.options.include_output or self.options.tunes
        return self.hidden(index + 1) if behind or index + 1 < self.model.n_layers else None

    def keep(self, states: Sequence[HiddenStates]) -> None:
        """Know of these hidden states alone, whoever's they are."""
        self._states = {one.path.name: one for one in states}

    def _file(self, name: str) -> HiddenStates:
        if name not in self._states:
            file, shape, width = self.state.path / name, self.samples.shape, self.model.width
            kept = self.room and KeptStates(file, shape, width, self.room)
            self._states[name] = kept or HiddenStates(file, shape, width)
        return self._states[name]

    def embed(self, *, original: bool) -> None:
        """Write the first layer's inputs, the original's only if asked."""
        hidden = self.hidden(0)
        if original:
            embed(self.model, self.samples, hidden.original)
        if hidden.refined is not None:
            embed(self._quantized_rows(), self.samples, hidden.refined)

    @property
    def refinable(self) -> frozenset[str]:
        """The tensors that can be refined."""
        return frozenset(tensor.name for tensor in self.pair.quantized.tensors if self.pair.codec(tensor.name))

    def refines(self, linear: Linear) -> bool:
        """Whether a linear can be refined."""
        return self.pair.codec(linear.tensor) is not None

    def use_stored(self, twin: TwinLayer) -> None:
        """Have the refined side compute with what the file holds of linears that are not refined."""
        for linear in twin.others if twin.refined is not None else ():
            if linear.tensor in self.pair.quantized.by_name:
                stored = self.pair.stored(linear.tensor, linear.expert)
                twin.set_weight(linear, from_file_rows(stored, linear.row_heads))

    def _quantized_rows(self) -> StreamedModel:
        """The original with the quantized file's embedding and output matrix."""
        path, device = self.model.path, self.model.device
        return StreamedModel(path, device, QuantizedRows(path, self.pair))


def _needed(pair: Pair, n_files: int) -> int:
    """Bytes of a GPU that refining the widest and the largest matrices takes; see `refine_gguf`."""
    shapes = [t.shape for t in quantized_tensors(pair.quantized)]
    square, largest = max(n_in**2 for n_in, *_ in shapes), max(n_in * n_out for n_in, n_out, *_ in shapes)
    return 96 * square + 120 * largest + (n_files - 1) * (8 * square + 40 * largest)


def _stack(calibration: Calibration) -> NDArray[np.int32]:
    """All samples, those held out last."""
    return np.concatenate([calibration.samples, calibration.held_out])


def _require_quantized(pair: Pair) -> None:
    if not quantized_tensors(pair.quantized):
        message = f"{pair.quantized.path} is not quantized: it has no roundings to better."
        raise GgufError(message, hint="Give what llama-quantize made of it, and the file itself with --base.")


def _require_same_model(model: StreamedModel, pair: Pair, calibration: Calibration) -> None:
    """Refuse what can be told at once; each matrix is compared when its turn comes."""
    base, largest = pair.base, int(_stack(calibration).max())
    n_layers, width, n_tokens = mtp.n_run(base), *base.by_name[EMBEDDING].shape[:2]
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
    held_out = replace(calibration, samples=calibration.held_out, held_out=calibration.held_out[:0])
    n_windows = len(held_out.samples) * (held_out.samples.shape[1] - _WINDOW + 1)
    repeated = overlapping_windows(held_out, calibration.samples.reshape(-1), _WINDOW)
    return bool(repeated > _MOST_REPEATED * n_windows)


def _key(inputs: RefineInputs, options: RefineOptions) -> str:
    """What the state is valid for."""
    files = [gguf_sha256(path) for path in (inputs.quantized, inputs.base)]
    how = {name: value for name, value in asdict(options).items() if name != "device"}
    tokens = inputs.calibration.tokens_sha256
    return json.dumps([VERSION, *files, fingerprint(inputs.checkpoint), tokens, how])


def _keys(
    calibration: Calibration, outcomes: Sequence[Outcome], data: Replacements | None = None
) -> dict[str, MetadataValue]:
    n_samples, length = calibration.samples.shape
    distilled = {"general.refined.distilled_tensors": len(data.blocks)} if data and data.blocks else {}
    return {
        "general.refined.by": f"ggufkit {__version__}",
        "general.refined.method": "GPTQ, coordinate descent and scale search within llama.cpp's own blocks",
        "general.refined.tensors": len({o.tensor for o in outcomes if o.kept}),
        "general.refined.tuned_vectors": len(data.vectors) if data else 0,
        **distilled,
        "general.refined.calibration": f"{n_samples} samples of {length} tokens, {Path(calibration.source).name}",
        "general.refined.calibration_sha256": calibration.tokens_sha256,
    }
