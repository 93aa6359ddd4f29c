"""The native engine: search the scales of all layers, one layer in memory at a time, resumable by layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from ggufkit.awq.archs import Fold, folds_in_layer, folds_of
from ggufkit.awq.fold import Heads
from ggufkit.awq.search import Found, Goal, best_scales, targets_of
from ggufkit.core.errors import ResourceError
from ggufkit.core.progress import Progress, Reporter
from ggufkit.layers import HiddenStates, Linear, Moments, StreamedModel, embed, run_layer
from ggufkit.llama.libggml import LibGgml
from ggufkit.models.checkpoint import fingerprint
from ggufkit.texts.calibration import Calibration, Tokens

VERSION = 3
_WIDEST_GRAM = 8192


@dataclass(frozen=True)
class LayerWork:
    """One layer that has been run over all samples: what an objective searches on.

    Args:
        layer: with its original weights.
        hidden: its input.
        moments: of the inputs of its linears, by `Linear.input`.
        tell: takes the fraction of the layer's search that is done.
    """

    model: StreamedModel
    index: int
    layer: nn.Module
    linears: Sequence[Linear]
    folds: Sequence[Fold]
    heads: Heads
    hidden: HiddenStates
    moments: Mapping[str, Moments]
    tell: Callable[[float], None]


class Objective(Protocol):
    """What scales are judged by."""

    @property
    def key(self) -> str:
        """Changes whenever its results may."""

    @property
    def widest_gram(self) -> int:
        """Inputs up to this width have x xᵀ accumulated, wider ones x² only."""

    def search(self, work: LayerWork) -> dict[str, dict[str, Found]]:
        """The best scales of each of a layer's folds, by goal and `Fold.source`."""


@dataclass(frozen=True)
class Searched:
    """Scales of a whole model, and how they were found; both by module, e.g. "model.layers.0.input_layernorm"."""

    found: Mapping[str, Found]

    @property
    def scales(self) -> dict[str, torch.Tensor]:
        """The scales that are not the identity."""
        return {name: f.scales for name, f in self.found.items() if f.scales is not None}

    @property
    def mean_gain(self) -> float:
        """Mean over folds of (error after / error before); 1 where nothing was gained."""
        ratios = [f.after / f.before for f in self.found.values() if f.before > 0]
        return sum(ratios) / len(ratios) if ratios else 1.0


def search_scales(
    model: StreamedModel, calibration: Calibration, objective: Objective, state: Path, reporter: Reporter
) -> dict[str, Searched]:
    """Search the scales of every layer.

    Args:
        state: directory of this search's own; an interrupted search goes on after its last whole layer.

    Returns:
        What was found, by the objective's goals.

    Raises:
        UnsupportedArchitecture: no fold table for the model.
        InputError: an activation is not finite.
        ResourceError: the disk is full.
    """
    folds = folds_of(model.architecture)
    key = f"{fingerprint(model.path)} {calibration.tokens_sha256} {objective.key}"
    try:
        done = _resume(state, key)
        with reporter.step("AWQ: searching scales") as progress:
            hidden = _input_of(done, model, calibration.samples, state)
            for index in range(done, model.n_layers):
                hidden = _one_layer(model, index, folds, objective, hidden, progress)
        hidden.remove()
    except OSError as error:
        message = f"The search's state cannot be written to {state}: {error.strerror}."
        raise ResourceError(message, hint="Free some space and repeat the command.") from error
    layers = [_load(_layer_file(state, i)) for i in range(model.n_layers)]
    return {goal: Searched({n: f for layer in layers for n, f in layer[goal].items()}) for goal in layers[0]}


def _one_layer(
    model: StreamedModel,
    index: int,
    folds: tuple[Fold, ...],
    objective: Objective,
    hidden: HiddenStates,
    progress: Progress,
) -> HiddenStates:
    """Run and search one layer, store what was found, and return the next one's input."""
    layer = model.load_layer(index)
    present = folds_in_layer(folds, {n.rpartition(".")[0] for n, _ in layer.named_parameters()})
    wanted = {target for fold in present for target in fold.targets}
    linears = [x for x in model.linears(layer, index) if x.module in wanted]
    widest = objective.widest_gram
    moments = {x.input: Moments(x.n_in, model.device, full=x.expert is None and x.n_in <= widest) for x in linears}
    after = _hidden_file(hidden.path.parent, index + 1, (len(hidden), hidden.n_tokens), model.width)

    def tell(done: float) -> None:
        progress.update((index + done) / model.n_layers, 1.0, f"layer {index + 1} of {model.n_layers}")

    # Searching takes about as long as running the layer.
    share = 0.5 / len(hidden)
    run_layer(model, index, layer, hidden, after, moments=moments, on_batch=lambda samples: tell(share * samples))
    heads = Heads(*model.heads)
    work = LayerWork(
        model, index, layer, linears, present, heads, hidden, moments, lambda done: tell(0.5 + 0.5 * done)
    )
    found = objective.search(work)
    prefix = model.prefix(index)
    named = {goal: {prefix + source: f for source, f in of.items()} for goal, of in found.items()}
    _store(_layer_file(hidden.path.parent, index), named)
    hidden.remove()
    tell(1.0)
    return after


def _resume(state: Path, key: str) -> int:
    """How many layers an earlier run of the same search has finished; anything else in `state` is removed."""
    file = state / "key"
    if not file.is_file() or file.read_text(encoding="utf-8") != key:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        file.write_text(key, encoding="utf-8")
    done = 0
    while _layer_file(state, done).is_file():
        done += 1
    return done


def _input_of(index: int, model: StreamedModel, samples: Tokens, state: Path) -> HiddenStates:
    """The input of a layer: what an interrupted search left, or made again from the tokens."""
    wanted = _hidden_file(state, index, samples.shape, model.width)
    if wanted.complete:
        return wanted
    hidden = _hidden_file(state, 0, samples.shape, model.width)
    embed(model, samples, hidden)
    for i in range(index):
        after = _hidden_file(state, i + 1, samples.shape, model.width)
        run_layer(model, i, model.load_layer(i), hidden, after)
        hidden.remove()
        hidden = after
    return hidden


def _hidden_file(state: Path, index: int, shape: tuple[int, ...], width: int) -> HiddenStates:
    return HiddenStates(state / f"hidden-{index}.f32", shape, width)


def _layer_file(state: Path, index: int) -> Path:
    return state / f"layer-{index}.safetensors"


def _store(file: Path, found: Mapping[str, Mapping[str, Found]]) -> None:
    """Store a layer's scales, whole or not at all."""
    tensors = {f"{g}|{n}": f.scales for g, of in found.items() for n, f in of.items() if f.scales is not None}
    notes = {g: {n: (f.candidate, f.before, f.after) for n, f in of.items()} for g, of in found.items()}
    partial = file.with_suffix(".partial")
    partial.write_bytes(save(tensors, {"found": json.dumps(notes)}))
    partial.replace(file)


def _load(file: Path) -> dict[str, dict[str, Found]]:
    with safe_open(file, framework="pt") as stored:
        notes = json.loads(stored.metadata()["found"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    return {g: {n: Found(tensors.get(f"{g}|{n}"), *f) for n, f in of.items()} for g, of in notes.items()}


class GgmlObjective:
    """The output error under the types that llama-quantize will give the tensors.

    Args:
        goals: each gets scales of its own, from one run over the samples.
        lib: the toolchain's quantizers.
        threads: candidates that are quantized at once.
    """

    def __init__(self, goals: Sequence[Goal], lib: LibGgml, threads: int) -> None:
        self._goals = goals
        self._lib = lib
        self._threads = threads

    @property
    def key(self) -> str:
        """The goals in short."""
        described = json.dumps([(g.name, g.importance, [sorted(t.items()) for t in g.types]) for g in self._goals])
        return f"ggml {VERSION} {sha256(described.encode()).hexdigest()}"

    @property
    def widest_gram(self) -> int:
        """What memory and time allow: the matrix of a wider input costs more than the layer itself."""
        return _WIDEST_GRAM

    def search(self, work: LayerWork) -> dict[str, dict[str, Found]]:
        """Judge all candidates of each fold for each goal."""
        weights = {x.module: work.layer.get_parameter(f"{x.module}.weight").data for x in work.linears}
        found: dict[str, dict[str, Found]] = {goal.name: {} for goal in self._goals}
        steps = len(work.folds) * len(self._goals)
        with ThreadPoolExecutor(self._threads) as pool:
            for number, (fold, goal) in enumerate(product(work.folds, self._goals), start=1):
                targets = targets_of(fold, weights, work.linears, work.moments)
                found[goal.name][fold.source] = best_scales(fold, targets, goal, work.heads, self._lib, pool)
                work.tell(number / steps)
        return found
