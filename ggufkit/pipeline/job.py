"""A build request with everything looked up, before anything is written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit import report
from ggufkit.core import extras, machine, variants
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile, Toolchain
from ggufkit.core.variants import Variant
from ggufkit.llama import quants, toolchain
from ggufkit.llama.logs import QuantType
from ggufkit.models import lora, sources
from ggufkit.models.sources import SourceOptions
from ggufkit.steps import convert, import_gguf, quantize
from ggufkit.steps.awq import ScalingOptions
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.imatrix import read_imatrix
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts import calibration_text, corpus
from ggufkit.texts.corpus import Corpus

DEFAULT_CALIBRATION = "wikitext2-train"
DEFAULT_TYPES = ("q4_k_m", "q5_k_m", "q8_0", "f16")
GIB = 1 << 30


@dataclass(frozen=True)
class BuildRequest:
    """What `ggufkit build` is asked for; the defaults are the contract's.

    Args:
        model: alias, hub id, checkpoint directory or .gguf file.
        out: the output directory, default `./<name>`, or `./<name>-gguf` where that is the checkpoint.
        smoke: let each file speak, and refuse garbage that the base does not speak.
        source: the hub to ask: auto, hf or modelscope.
        allow_pickle: accept weights in *.bin where there are no safetensors.
        lora: directory of a LoRA adapter that is merged into the checkpoint first.
        calibration: path or name of the text for importance matrices, AWQ and GPTQ: `calibration_samples`
            samples of 512 tokens, drawn with `seed` where they are drawn.
        calibration_field: where that text is JSON or JSONL, the name of the field that holds it.
        awq_engine, awq_objective, awq_dtype, awq_per_type: as in `scaling.ScalingOptions`.
        imatrix: an importance matrix of the user's own, instead of one computed from `calibration`.
        corpus: path or name of the evaluation text.
        n_chunks: chunks of `n_ctx` tokens to evaluate, None for all.
        scratch_limit: bytes of disk that base logits may take at any moment.
        precision: relative standard error of mean KL divergence that is enough, None for all of `n_chunks`.
        fits, fits_ctx: bytes of memory, and tokens of context, that the report names the best file for.
    """

    model: str
    out: Path | None = None
    types: tuple[str, ...] = DEFAULT_TYPES
    variants: tuple[str, ...] = ("plain",)
    base_type: str = "f16"
    calibration: str = DEFAULT_CALIBRATION
    calibration_samples: int = 128
    calibration_field: str = "text"
    seed: int = 42
    awq_engine: str = "native"
    awq_objective: str = "ggml"
    awq_dtype: str = "source"
    awq_per_type: bool = False
    imatrix: Path | None = None
    corpus: str = "wikitext2"
    n_ctx: int = 512
    n_chunks: int | None = None
    evaluate: bool = True
    bench: bool = True
    bench_reps: int = 5
    kld: bool = True
    scratch_limit: int = 8 * GIB
    precision: float | None = None
    fits: int | None = None
    fits_ctx: int = 4096
    backend: str = "auto"
    ngl: int | None = None
    threads: int = field(default_factory=machine.physical_cores)
    smoke: bool = False
    source: str = "auto"
    allow_pickle: bool = False
    lora: Path | None = None
    pre: str | None = None
    allow_token_mismatch: bool = False
    allow_requantize: bool = False
    force_toolchain: bool = False
    force: bool = False
    explain: bool = False

    def __post_init__(self) -> None:
        """From Python, a path may be given as a string, and a string as a path."""
        for name in ("out", "imatrix", "lora"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path).expanduser())
        for name in ("model", "calibration", "corpus"):
            object.__setattr__(self, name, str(getattr(self, name)))

    @property
    def scaling_options(self) -> ScalingOptions:
        """How AWQ scales are searched."""
        return ScalingOptions(self.awq_engine, self.awq_objective, self.awq_dtype, self.awq_per_type)


@dataclass(frozen=True)
class Job:
    """A request with everything looked up: the model on disk, the tools, the types and variants of the tables."""

    request: BuildRequest
    model: Checkpoint | GgufFile
    name: str
    out: Path
    types: tuple[QuantType, ...]
    known_types: tuple[QuantType, ...]
    variants: tuple[Variant, ...]
    text: Corpus | None
    calibration: Corpus | None
    tools: Toolchain
    reporter: Reporter

    @property
    def base_type(self) -> str:
        """The type of the base: what is asked for, or what the user's file is."""
        return self.model.type if isinstance(self.model, GgufFile) else self.request.base_type.upper()

    @property
    def targets(self) -> list[tuple[Variant, QuantType]]:
        """Which type is made for which variant; the base itself is not made again."""
        wanted = [
            (v, t) for v in self.variants for t in self.types if v.has_float_types or not quants.is_float(t.name)
        ]
        wanted = [(v, t) for v, t in wanted if v.imatrix or t not in self.for_matrices_only]
        return [(v, t) for v, t in wanted if not (v.name == "plain" and t.name == self.base_type)]

    @property
    def for_matrices_only(self) -> list[QuantType]:
        """Types that are useless without a matrix, where one of the variants has one: the others leave them out."""
        with_matrix = any(v.imatrix for v in self.variants)
        return [t for t in self.types if with_matrix and t.name in quants.NEEDS_IMATRIX]

    def output(self, variant: Variant, type_name: str) -> Path:
        """Where a result goes."""
        return self.out / variants.file_name(self.name, variant, type_name)

    @property
    def base_output(self) -> Path:
        """Where the base goes."""
        return self.output(variants.BY_NAME["plain"], self.base_type)

    def scaling_of(self, variant: Variant, kind: QuantType) -> str:
        """Which scaled checkpoint a result is made from, "" for none: "awq", "awq+imatrix", "awq-Q4_0"."""
        if not variant.awq:
            return ""
        how = self.request.scaling_options
        if quants.is_float(kind.name) or (how.engine, how.objective) != ("native", "ggml"):
            return "awq"
        label = "awq+imatrix" if variant.imatrix else "awq"
        return f"{label}-{kind.name}" if how.per_type else label

    @property
    def scalings(self) -> list[str]:
        """All scaled checkpoints that the results are made from."""
        return list(dict.fromkeys(s for v, t in self.targets if (s := self.scaling_of(v, t))))

    def types_of_scaling(self, scaling: str) -> list[QuantType]:
        """The quantized types that a scaled checkpoint is for; Q4_K_M where only floats are asked for."""
        kinds = [t for v, t in self.targets if self.scaling_of(v, t) == scaling and not quants.is_float(t.name)]
        usual = [t for t in self.known_types if t.name == "Q4_K_M"]
        return list(dict.fromkeys(kinds)) or [t for t in self.types if not quants.is_float(t.name)] or usual

    def scaled_base_output(self, scaling: str) -> Path:
        """Where the base of a scaled checkpoint goes: among the results if it is asked for, else out of sight."""
        awq = variants.BY_NAME["awq"]
        wanted = scaling == "awq" and any(v == awq and t.name == self.base_type for v, t in self.targets)
        if wanted:
            return self.output(awq, self.base_type)
        return self.session.workspace.private / f"{self.name}-{scaling.replace('+', '-')}-{self.base_type}.gguf"

    @property
    def calibration_text(self) -> Corpus:
        """The text to calibrate on. Raises UsageError where no variant needs any."""
        if self.calibration is None:
            raise UsageError("This variant needs calibration text.", hint="Give one with --calibration.")
        return self.calibration

    @property
    def convert_options(self) -> ConvertOptions:
        """How this job converts checkpoints."""
        request = self.request
        return ConvertOptions(
            request.base_type, request.pre, request.allow_token_mismatch, request.force_toolchain
        )

    @property
    def session(self) -> Session:
        """What the steps of this job share."""
        request = self.request
        workspace = Workspace(self.out)
        return Session(self.tools, workspace, self.reporter, request.threads, request.force, request.explain)


def prepare(request: BuildRequest, reporter: Reporter, outlines: Path | None = None) -> Job:
    """Look everything up and refuse what cannot work, before anything is written; before a model is downloaded, all
    that does not depend on it.

    Args:
        outlines: an empty directory, for a plan: it needs neither a hub's weights nor the named texts.
    """
    chosen = variants.resolve(request.variants)
    _require_possible(request)
    tools = _tools_at_once(request, reporter)
    if tools is not None:
        quants.resolve(request.types, quantize.known_types(tools))
    text, calibration = _texts(chosen, request, reporter, planned=outlines is not None)
    model = _model(request, reporter, outlines)
    name = model.name if isinstance(model, Checkpoint) else sources.name_of(model.path)
    out = (request.out or _beside(name, model)).expanduser()
    refuse_inside(out, model)
    _refuse_others(out, name)
    if not request.force:
        report.require_writable(out)
    _require_checkpoint(chosen, model)
    tools = tools or toolchain.find(request.backend, reporter)
    known = quantize.known_types(tools)
    kinds = quants.resolve(request.types, known)
    job = Job(request, model, name, out, kinds, known, chosen, text, calibration, tools, reporter)
    _tell_left_out(job)
    return job


def _tell_left_out(job: Job) -> None:
    without = [v.name for v in job.variants if not v.imatrix]
    if without and job.for_matrices_only:
        kinds = ", ".join(t.name for t in job.for_matrices_only)
        job.reporter.info(f"Not made as {' or '.join(without)}, for want of an importance matrix: {kinds}.")


def _require_possible(request: BuildRequest) -> None:
    """Raise InputError for what the request alone, and the files that it names, show to be in vain."""
    if (unused := unused_option(request)) is not None:
        raise InputError(unused.message, hint=unused.hint)
    if request.imatrix is not None:
        read_imatrix(request.imatrix)
    sources.require_readable(request.model, request.source)
    extras.require(*_extras_of(request))
    name = sources.name_on_hub(request.model, request.source) if request.lora is None else None
    out = request.out or (Path(name) if name else None)
    if out is not None:
        _require_writable(out.expanduser())
        if not request.force:
            report.require_writable(out.expanduser())
    if out is not None and name is not None:
        _refuse_others(out.expanduser(), name)


def _extras_of(request: BuildRequest) -> list[str]:
    """What must be installed beyond the light core: nothing for a GGUF, whose scaling or refining is refused later."""
    path = sources.local(request.model, request.source)
    if path is not None and path.is_file():
        return []
    chosen = variants.resolve(request.variants)
    wanted = {
        "awq": any(v.awq for v in chosen),
        "refine": any(v.refined for v in chosen),
        "lora": bool(request.lora),
    }
    return ["convert", *(name for name, needed in wanted.items() if needed)]


def _require_writable(out: Path) -> None:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        hint = "Choose a directory that you can write with --out."
        raise InputError(f"{out} cannot be written.", hint=hint)


def _tools_at_once(request: BuildRequest, reporter: Reporter) -> Toolchain | None:
    """The toolchain; None where building it can wait for what is wrong with a model on this disk."""
    known = toolchain.locate(request.backend)
    if sources.is_local(request.model) and (known is None or known.origin == "path"):
        return None
    return toolchain.find(request.backend, reporter)


def _texts(
    chosen: tuple[Variant, ...], request: BuildRequest, reporter: Reporter, *, planned: bool
) -> tuple[Corpus | None, Corpus | None]:
    """The evaluation text and the calibration text, None where none is needed; a plan needs the former's size."""
    text = calibration = None
    if request.evaluate:
        text = (corpus.expected(request.corpus) if planned else None) or corpus.resolve(request.corpus, reporter)
    if _calibrated(chosen, request) and not (planned and request.calibration == DEFAULT_CALIBRATION):
        calibration = calibration_text.resolve(request.calibration, request.calibration_field, reporter)
    return text, calibration


def unused_option(request: BuildRequest) -> UsageError | None:
    """The error for a matrix or a calibration text that none of the variants uses.

    A user's own matrix serves the unscaled weights only: for scaled ones it is always computed.
    """
    chosen = variants.resolve(request.variants)
    names = ", ".join(v.name for v in chosen)
    if request.imatrix is not None and not any(v.imatrix and not v.awq for v in chosen):
        return UsageError(f"--imatrix is not used by --variants {names}.", hint="Use --variants imatrix.")
    if request.calibration == DEFAULT_CALIBRATION or _calibrated(chosen, request):
        return None
    hint = (
        "Use --variants imatrix." if request.imatrix is None else "Leave one of --calibration and --imatrix out."
    )
    return UsageError(f"--calibration is not used by --variants {names}.", hint=hint)


def _beside(name: str, model: Checkpoint | GgufFile) -> Path:
    """Where results go by default: ./<name>, or ./<name>-gguf where that is the checkpoint itself."""
    out = Path(name)
    inside = isinstance(model, Checkpoint) and out.resolve().is_relative_to(model.path.resolve())
    return Path(f"{name}-gguf") if inside else out


def _model(request: BuildRequest, reporter: Reporter, outlines: Path | None) -> Checkpoint | GgufFile:
    outlines = outlines if request.lora is None else None
    found = sources.resolve(request.model, SourceOptions(request.source, request.allow_pickle), reporter, outlines)
    if request.lora is None:
        return found
    if isinstance(found, GgufFile):
        raise InputError(
            f"{request.model} is a GGUF already.", hint="Give --lora with the checkpoint of its base."
        )
    return lora.merge(found, request.lora, reporter)


def _calibrated(chosen: tuple[Variant, ...], request: BuildRequest) -> bool:
    """Whether any variant needs calibration text: all do but plain, and an importance matrix that is given."""
    return any(v.awq or v.refined or (v.imatrix and request.imatrix is None) for v in chosen)


def _require_checkpoint(chosen: tuple[Variant, ...], model: Checkpoint | GgufFile) -> None:
    """AWQ and GPTQ run the checkpoint itself.

    Raises:
        InputError: the model is a GGUF.
        UnsupportedArchitecture: AWQ has no fold table for it.
    """
    needing = [v.name for v in chosen if v.awq or v.refined]
    if needing and isinstance(model, GgufFile):
        hint = "Give its directory or its id instead of the .gguf file."
        raise InputError(f"The variant {needing[0]} needs the Hugging Face checkpoint.", hint=hint)
    if isinstance(model, Checkpoint) and any(v.awq for v in chosen):
        require_folds(model)


def require_folds(checkpoint: Checkpoint) -> None:
    """AWQ needs to know how norms and projections fit together: raise UnsupportedArchitecture where it does not."""
    from ggufkit.awq.archs import folds_of

    folds_of(checkpoint.architecture)


def refuse_inside(out: Path, model: Checkpoint | GgufFile) -> None:
    """Raise InputError where results would go into the checkpoint that they are made from."""
    if isinstance(model, Checkpoint) and out.resolve().is_relative_to(model.path.resolve()):
        message = f"The output directory {out} lies inside the checkpoint {model.path}."
        raise InputError(message, hint="Choose another --out.")


def _refuse_others(out: Path, name: str) -> None:
    """Raise InputError where another model's base is: tables, report and Modelfiles are one model's."""
    found = [m for gguf in sorted(out.glob("*.gguf")) if (m := read_manifest(gguf)) is not None]
    bases = [m for m in found if m.step in (convert.STEP, import_gguf.STEP) and m.notes.get("variant") == "plain"]
    others = [str(m.notes["name"]) for m in bases if m.notes.get("name", name) != name]
    if others:
        message = f"{out} holds the results of {others[0]}; those of {name} would mix with them."
        raise InputError(message, hint="Choose another --out; `ggufkit compare` shows directories side by side.")
