"""Step: a quantized GGUF -> the same file with better roundings."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core import machine
from ggufkit.core.errors import DeviceMemoryError, InputError
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import read_manifest
from ggufkit.core.part_names import stem_of
from ggufkit.core.records import Checkpoint, GgufFile, Json
from ggufkit.llama.gguf import EMBEDDING, output_of, read_header
from ggufkit.models.files import files_of, fingerprint
from ggufkit.recipes.allowed import FAST_ON_CPU, REFINABLE
from ggufkit.refine.options import RefineOptions
from ggufkit.steps import division, offload
from ggufkit.steps.load_check import settle_and_require_computes
from ggufkit.steps.notes import TypedNotes
from ggufkit.steps.quantize import QuantizeNotes, QuantizeParams
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, staleness
from ggufkit.texts.calibration import Calibration

if TYPE_CHECKING:
    from ggufkit.refine.engine import RefineInputs, RefineResult

STEP, VERSION = "refine", 1
_OF_ONE = 80
"""Bytes of memory that refining one file takes for each column of its widest input, squared; see `refine_gguf`."""
_LATER_TYPES = {*REFINABLE} - {*FAST_ON_CPU}
"""Types whose tensors stayed as they were in earlier versions: files that have some are refined again."""


@dataclass(frozen=True)
class RefineNotes(TypedNotes):
    """What is known of a refined file; of its calibration see `CalibrationNotes`.

    Args:
        n_fallback: as the unrefined file has it, and its target.
        refined: how many tensors were.
        untouched: why others were not, or not as a whole, by tensor.
        device: "cpu" or "cuda".
        overrides: what the unrefined file was quantized with besides its type; missing in the manifest where nothing was.
        distilled: KL divergence on held-out calibration text `before` and `after`, the `stderr` of their difference, and the
            `steps` that led there, 0 where nothing was kept; missing where that was not asked for.
    """

    n_fallback: int | None = None
    refined: int = 0
    untouched: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    peak_ram_bytes: int = 0
    overrides: Mapping[str, Json] = field(default_factory=dict)
    distilled: Mapping[str, float] = field(default_factory=dict)

    def to_notes(self) -> dict[str, Json]:
        """What is there of it."""
        rare = ("overrides", "distilled")
        return {key: value for key, value in super().to_notes().items() if key not in rare or value}


@dataclass(frozen=True)
class RefiningOptions:
    """How to refine, and what the result is called by.

    Args:
        variant, type, name: of the result, as tables show them.
    """

    how: RefineOptions = field(default_factory=RefineOptions)
    variant: str = "gptq"
    type: str = ""
    name: str = ""


@dataclass(frozen=True)
class Refinable:
    """A quantized file, and what it takes to refine it.

    Args:
        base: the F32, F16 or BF16 GGUF that `quantized` was made from.
        checkpoint: what `base` was converted from.
        calibration: the text that it is refined for.
    """

    quantized: GgufFile
    base: GgufFile
    checkpoint: Checkpoint
    calibration: Calibration


@dataclass(frozen=True)
class Wanted:
    """A file that is wanted refined, and where it goes."""

    file: Refinable
    output: Path

    def state(self, session: Session) -> Path:
        """Where an interrupted refinement is kept."""
        return session.workspace.private / f"refine-{stem_of(self.output)}"

    @property
    def read(self) -> RefineInputs:
        """The same in the engine's words."""
        from ggufkit.refine.engine import RefineInputs

        file = self.file
        return RefineInputs(file.quantized.path, file.base.path, file.checkpoint.path, file.calibration)


def refine(
    file: Refinable, output: Path, options: RefiningOptions, session: Session, beside: Sequence[Wanted] = ()
) -> Result:
    """Refine a quantized file to `output` unless that is done already.

    Args:
        beside: others of the same base, to be refined in the same way soon: the layers of those that are not there yet are
            refined with this one's, in one pass over the original. To finish them takes seconds then.

    Raises:
        InputError: `output` is one of the inputs.
        GgufError, CheckpointError: the files do not belong together.
        ResourceError: a disk is full; what was finished is kept for the next run.
    """
    wanted = Wanted(file, output)
    recipe = _recipe(wanted, options, session)
    todo = [wanted, *(w for w in beside if _is_stale(w, options, session))]
    # What is half done tells nothing of how long the whole takes.
    is_whole = not wanted.state(session).exists()
    work = session.work("refine", len(todo) * file.quantized.n_params * file.calibration.n_tokens)
    return session.ensure(
        recipe, output, lambda partial: _refine(todo, partial, options, session), work=work if is_whole else None
    )


def _is_stale(wanted: Wanted, options: RefiningOptions, session: Session) -> bool:
    recipe = _recipe(wanted, options, session)
    return session.force or staleness(recipe, division.there(wanted.output)) is not None


def _recipe(wanted: Wanted, options: RefiningOptions, session: Session) -> Recipe:
    file, output = wanted.file, wanted.output
    if output.exists() and any(output.samefile(f.path) for f in (file.quantized, file.base)):
        raise InputError(f"{output} is an input: it must stay as it is.", hint="Choose another --out.")
    params = params_of(options.how)
    if options.how.include_output and output_of(read_header(file.base.path)) == EMBEDDING:
        params |= {"embedding": True}
    if further := _LATER_TYPES & {tensor.type for tensor in read_header(file.quantized.path).tensors}:
        params |= {"further_types": ", ".join(sorted(further))}
    inputs = {
        "quantized": str(file.quantized.sha256),
        "base": str(file.base.sha256),
        "checkpoint": fingerprint(file.checkpoint.path, session.reporter),
        "calibration_tokens": file.calibration.tokens_sha256,
    }
    reads = (
        file.quantized.as_input(),
        file.base.as_input(),
        Input(file.checkpoint.path, inputs["checkpoint"], files_of),
    )
    return Recipe(STEP, VERSION, inputs, params, reads=reads)


def params_of(how: RefineOptions) -> dict[str, Json]:
    """What decides the result, as a recipe has it; of what earlier versions had not, only what is asked for."""
    params: dict[str, Json] = asdict(how)
    del params["device"]
    if not how.distill:
        del params["distill"]
    return params


def _refine(todo: Sequence[Wanted], partial: Path, options: RefiningOptions, session: Session) -> Made:
    """Refine the first, and the layers of the others."""
    from ggufkit.refine.engine import refine_gguf

    first = todo[0]

    def run(device: str) -> RefineResult:
        how = replace(options.how, device=device)
        _refine_together(todo, how, session)
        return refine_gguf(first.read, partial, how, reporter=session.reporter, state_dir=first.state(session))

    report = offload.else_on_cpu(run, options.how.device, session)
    _tell(report, session)
    settle_and_require_computes(partial, session)
    found = read_manifest(first.file.quantized.path)
    unrefined = QuantizeNotes.from_manifest(found) if found is not None else QuantizeNotes()
    notes = RefineNotes(
        options.name,
        options.variant,
        options.type,
        n_fallback=unrefined.n_fallback,
        refined=report.n_refined,
        untouched=dict(report.untouched),
        device=report.device,
        peak_ram_bytes=report.peak_ram_bytes,
        target=unrefined.target,
        overrides=QuantizeParams.from_manifest(found).overrides if found is not None else {},
        distilled=_distilled(report) if options.how.distill else {},
    )
    return Made(notes=notes.to_notes() | first.file.calibration.notes.to_notes())


def _refine_together(todo: Sequence[Wanted], how: RefineOptions, session: Session) -> None:
    """Refine the layers of all files for which there is room; the others are refined when their turn comes."""
    from ggufkit.refine.engine import refine_layers_together

    fitting = _fitting(todo, session)
    if len(fitting) > 1:
        with contextlib.suppress(DeviceMemoryError):
            files = {wanted.state(session): wanted.read for wanted in fitting}
            refine_layers_together(files, how, session.reporter)


def _fitting(todo: Sequence[Wanted], session: Session) -> Sequence[Wanted]:
    """The first file, and as many more as disk and memory hold what each further one takes; see `refine_layers_together`."""
    file = todo[0].file
    base, held_out = read_header(file.base.path), file.calibration.held_out.size
    width, inner = base.hparam("embedding_length"), base.hparam("feed_forward_length")
    n_tokens = file.calibration.samples.size + held_out
    disk = file.quantized.size_bytes + 4 * (4 * width + inner) * n_tokens
    memory = 12 * inner**2 + 8 * inner * held_out
    by_disk = machine.free_disk(session.workspace.private) // disk - 1
    by_memory = (machine.free_memory() - _OF_ONE * inner**2) // memory
    return todo[: 1 + max(0, min(by_disk, by_memory))]


def _distilled(report: RefineResult) -> dict[str, float]:
    found = report.tuning
    if found is None:
        return {}
    steps = found.steps if found.kept else 0
    return {"before": found.before, "after": found.after, "stderr": found.stderr, "steps": steps}


def _tell(report: RefineResult, session: Session) -> None:
    session.reporter.info(
        f"Refined {report.n_refined} tensors in {report.seconds:.0f} s on {report.device}; "
        f"{len(report.untouched)} stay as they were, wholly or in part."
    )
    if (found := report.tuning) is not None and found.blocks:
        session.reporter.info(
            f"Distilled in {found.steps} steps: KL divergence on held-out calibration text {found.before:.5f}, "
            f"then {found.after:.5f} ± {found.stderr:.5f}."
        )


def type_of(path: Path) -> str:
    """What a file was made as, by its manifest ("like-Q4_K_M"), else by its own metadata ("Q4_K_M"), else by its tensors."""
    from gguf.constants import LlamaFileType

    made = read_manifest(path)
    if made is not None and (label := QuantizeNotes.from_manifest(made).type):
        return label
    header = read_header(path)
    value = header.metadata.get("general.file_type")
    try:
        name = str(LlamaFileType(int(str(value))).name)
    except ValueError:
        return "REFINED"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")
