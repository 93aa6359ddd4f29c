"""The native engine: search the scales of all layers, one layer in memory at a time, resumable by layer."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from ggufkit.awq.archs import Fold, folds_in_layer, folds_of
from ggufkit.awq.fold import Heads
from ggufkit.awq.objectives import CalibratedLayer, Objective
from ggufkit.awq.search import FoldScales, TensorGain
from ggufkit.core.errors import ResourceError
from ggufkit.core.progress import Progress, Reporter
from ggufkit.core.records import Json
from ggufkit.layers import (
    HiddenStates,
    Moments,
    StreamedModel,
    embed,
    gathering,
    keeping_freed_memory,
    run_layer,
)
from ggufkit.models.files import fingerprint
from ggufkit.texts.calibration import Calibration, Tokens

# What running a layer takes of the time, roughly; the rest is its search.
_RUNNING_SHARE = 0.75


@dataclass(frozen=True)
class ModelScales:
    """Scales of a whole model, and how they were found; both by module, e.g. "model.layers.0.input_layernorm".

    `n_tokens` is on how many tokens they were searched.
    """

    found: Mapping[str, FoldScales]
    n_tokens: int

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
) -> dict[str, ModelScales]:
    """Search the scales of every layer.

    Args:
        state: directory of this search's own; an interrupted search goes on after its last whole layer.

    Returns:
        What was found, by the objective's schemes.

    Raises:
        UnsupportedArchitecture: no fold table for the model.
        InputError: an activation is not finite.
        ResourceError: the disk is full.
    """
    folds = folds_of(model.architecture)
    samples = _enough(calibration.samples, folds, objective.most_tokens)
    key = f"{fingerprint(model.path)} {calibration.tokens_sha256} {objective.key}"
    try:
        done = _resume(state, key)
        with reporter.step("AWQ: searching scales") as progress:
            hidden = _input_of(done, model, samples, state)
            for index in range(done, model.n_layers):
                hidden = _one_layer(model, index, folds, objective, hidden, progress)
        hidden.remove()
    except OSError as error:
        message = f"The search's state cannot be written to {state}: {error.strerror}."
        raise ResourceError(message, hint="Free some space and repeat the command.") from error
    layers = [_load(_layer_file(state, i)) for i in range(model.n_layers)]
    return {
        name: ModelScales({n: f for layer in layers for n, f in layer[name].items()}, samples.size)
        for name in layers[0]
    }


def _enough(samples: Tokens, folds: tuple[Fold, ...], most_tokens: int) -> Tokens:
    """Samples with about so many tokens, evenly chosen; all of them where experts share the tokens."""
    wanted = math.ceil(most_tokens / samples.shape[1])
    if wanted >= len(samples) or any("*" in fold.source for fold in folds):
        return samples
    chosen: Tokens = samples[np.linspace(0, len(samples) - 1, wanted).round().astype(int)]
    return chosen


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

    share = _RUNNING_SHARE / len(hidden)

    def tell_searched(done: float) -> None:
        tell(_RUNNING_SHARE + (1 - _RUNNING_SHARE) * done)

    with gathering(moments, layer, linears), keeping_freed_memory():
        run_layer(model, index, layer, hidden, after, on_batch=lambda samples: tell(share * samples))
    heads = Heads(*model.heads)
    work = CalibratedLayer(model, index, layer, linears, present, heads, hidden, moments, tell_searched)
    prefix = model.prefix(index)
    named = {
        scheme: {prefix + source: best for source, best in of.items()}
        for scheme, of in objective.search(work).items()
    }
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


def _store(file: Path, found: Mapping[str, Mapping[str, FoldScales]]) -> None:
    """Store a layer's scales, whole or not at all."""
    tensors = {f"{g}|{n}": f.scales for g, of in found.items() for n, f in of.items() if f.scales is not None}
    notes = {g: {n: _told(f) for n, f in of.items()} for g, of in found.items()}
    partial = file.with_suffix(".partial")
    partial.write_bytes(save(tensors, {"found": json.dumps(notes)}))
    partial.replace(file)


def _load(file: Path) -> dict[str, dict[str, FoldScales]]:
    with safe_open(file, framework="pt") as stored:
        notes = json.loads(stored.metadata()["found"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    return {g: {n: _read(tensors.get(f"{g}|{n}"), f) for n, f in of.items()} for g, of in notes.items()}


def _told(found: FoldScales) -> list[Json]:
    gains: Json = {name: [gain.outlier, gain.ratio] for name, gain in found.tensors.items()}
    return [found.candidate, found.before, found.after, gains]


def _read(scales: torch.Tensor | None, told: list[Any]) -> FoldScales:
    candidate, before, after, gains = told
    return FoldScales(scales, candidate, before, after, {name: TensorGain(*gain) for name, gain in gains.items()})
