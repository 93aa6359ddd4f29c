"""Scale a checkpoint: search, fold, write, prove. What `ggufkit awq` and the awq variants of a build run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ggufkit.awq.apply import Rewrites, plan_folds, publishing, write_checkpoint
from ggufkit.awq.autoawq import scale_with_autoawq
from ggufkit.awq.compat import SCHEME, AutoAwqObjective
from ggufkit.awq.native import ModelScales, search_scales
from ggufkit.awq.objectives import GgmlObjective, Objective
from ggufkit.awq.proof import Proof, prove, prove_unchanged, rewritten_layers
from ggufkit.awq.search import QuantizationScheme
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Json
from ggufkit.layers import StreamedModel, borrowed_device, return_freed_memory
from ggufkit.llama.libggml import LibGgml
from ggufkit.texts.calibration import Calibration, load_tokenizer, require_vocabulary


@dataclass(frozen=True)
class AwqOptions:
    """How to scale.

    Args:
        engine: "native" or "autoawq".
        objective: of the native engine: "ggml" (the types that the tensors will get) or "autoawq".
        float32: write float32 instead of the source's dtype.
        device: "auto", "cpu" or "cuda".
        threads: candidates that are quantized at once.
    """

    engine: str = "native"
    objective: str = "ggml"
    float32: bool = False
    device: str = "auto"
    threads: int = 2


@dataclass(frozen=True)
class WorkFiles:
    """What scaling works with beside its input.

    Args:
        library: directory of the toolchain's binaries or shared libraries.
        state: directory for what an interrupted run goes on from; removed at the end.
        log: of AutoAWQ, if it runs.
    """

    library: Path
    state: Path
    log: Path


@dataclass(frozen=True)
class ScaledCheckpoint:
    """A scaled checkpoint, proved equal to its source; `searched` is None where AutoAWQ itself has scaled it."""

    path: Path
    scheme: QuantizationScheme
    proof: Proof
    searched: ModelScales | None

    def notes(self) -> dict[str, Json]:
        """What the manifest says about it."""
        notes = self.proof.notes()
        if self.searched is not None:
            notes["types_scored_together"] = len(self.scheme.types)
            notes["searched_tokens"] = self.searched.n_tokens
            notes["error_ratio"] = self.searched.mean_gain
            notes["folds"] = {n: [f.candidate, f.before, f.after] for n, f in self.searched.found.items()}
            gains = {n: g for f in self.searched.found.values() for n, g in f.tensors.items()}
            notes["tensors"] = {name: gain.rounded() for name, gain in gains.items()}
        return notes


@borrowed_device("searching AWQ scales")
def scale_checkpoint(
    source: Path,
    targets: Sequence[tuple[QuantizationScheme, Path]],
    calibration: Calibration,
    options: AwqOptions,
    files: WorkFiles,
    reporter: Reporter,
) -> list[ScaledCheckpoint]:
    """Scale a checkpoint for each scheme, in one run over the calibration text.

    Args:
        targets: schemes, and the directory that is written for each. Only the native engine's "ggml" objective
            tells schemes apart; with anything else, give one.

    Returns:
        What was written, in the order of `targets`. A checkpoint with its final name has passed the proof.

    Raises:
        UnsupportedArchitecture, CheckpointError, TokenizerError, InputError: an input that cannot be scaled.
        ResourceError: the disk is full.
        ToolError: AutoAWQ failed, or the result is not the same function.
        DeviceMemoryError: the GPU's memory ran out; the same call on another device goes on there.
    """
    model = StreamedModel(source, options.device)
    require_vocabulary(load_tokenizer(source), model.n_vocab, calibration.samples)
    return_freed_memory()
    dtype = torch.float32 if options.float32 else None
    if options.engine == "autoawq":
        made = scale_with_autoawq(model, calibration, files.state, files.log, reporter)
        results: list[tuple[Rewrites, ModelScales | None]] = [(made.rewrites, None)] * len(targets)
    else:
        objective = _objective(options, [scheme for scheme, _ in targets], files.library)
        found = search_scales(model, calibration, objective, files.state, reporter)
        searched = [found.get(scheme.name) or found[SCHEME] for scheme, _ in targets]
        results = [(plan_folds(model, s.scales, dtype), s) for s in searched]
    scaled = []
    for (scheme, path), (rewrites, searched_for) in zip(targets, results, strict=True):
        with publishing(source, path) as unfinished:
            write_checkpoint(source, unfinished, rewrites, reporter, dtype=dtype)
            written = StreamedModel(unfinished, model.device)
            proof = (
                prove(model, rewritten_layers(model, rewrites), written, calibration.held_out, reporter)
                if rewrites
                else prove_unchanged(model, written)
            )
        scaled.append(ScaledCheckpoint(path, scheme, proof, searched_for))
    shutil.rmtree(files.state, ignore_errors=True)
    return scaled


def _objective(options: AwqOptions, schemes: Sequence[QuantizationScheme], library: Path) -> Objective:
    if options.objective == "autoawq":
        return AutoAwqObjective()
    return GgmlObjective(schemes, LibGgml(library), options.threads)
