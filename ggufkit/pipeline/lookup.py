"""A build request -> a job: everything is looked up, and what cannot work is refused before anything is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit import report
from ggufkit.core import extras, methods, variants
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.methods import Method
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile, QuantType, Toolchain
from ggufkit.core.variants import Variant
from ggufkit.llama import targets, toolchain
from ggufkit.measure import metrics
from ggufkit.modelfile import chat_texts
from ggufkit.models import dequantized, lora, sources
from ggufkit.pipeline import overridden, senses
from ggufkit.pipeline.job import Job
from ggufkit.request import BuildRequest, CalibrationOptions
from ggufkit.steps import convert, import_gguf, quantize
from ggufkit.steps.imatrix import read_imatrix
from ggufkit.steps.notes import GgufNotes
from ggufkit.texts import calibration_text, corpus
from ggufkit.texts.calibration_text import Part
from ggufkit.texts.corpus import Corpus
from ggufkit.texts.tasks import questions
from ggufkit.texts.tasks.questions import Drawn, TaskData, TaskSpec


@dataclass(frozen=True)
class _Place:
    """Where results go, and whose they are; None where only the model itself tells."""

    name: str | None = None
    out: Path | None = None

    def require_free(self, asked: _Place, *, force: bool) -> None:
        """Raise InputError where something else is there; what was `asked` before is not asked again."""
        if self.out is not None and self.out != asked.out and not force:
            report.require_writable(self.out)
        if self.out is not None and self.name is not None and self != asked:
            _refuse_others(self.out, self.name)


def prepare(
    request: BuildRequest,
    reporter: Reporter,
    outlines: Path | None = None,
    only: frozenset[tuple[str, str]] | None = None,
) -> Job:
    """Look everything up and refuse what cannot work, before anything is written; before a model is downloaded, all
    that does not depend on it.

    Args:
        outlines: an empty directory, for a plan: it needs neither a hub's weights nor the named texts.
        only: pairs of a variant and a type of the request, as they were asked for, that are made; None for all.
    """
    chosen = variants.resolve(request.variants)
    place = _require_possible(request, chosen)
    tools = _tools_at_once(request, reporter)
    types = _types(request, tools) if tools is not None else None
    texts, parts = _texts(chosen, request, reporter, planned=outlines is not None)
    specs = questions.parse(request.evaluation.tasks)
    tasks = _questions(specs, request, reporter) if outlines is None else ()
    model = _model(request, reporter, outlines)
    name = model.name if isinstance(model, Checkpoint) else sources.name_of(model.path)
    out = request.out or _beside(name, model)
    refuse_inside(out, model)
    _Place(name, out).require_free(place, force=request.run.force)
    _require_checkpoint(chosen, model)
    session = request.run.session(out, reporter, tools)
    known, kinds = types or _types(request, session.tools)
    told = request.overrides.resolve()
    text, further, calibration = _rendered(texts, parts, model, reporter, planned=outlines is not None)
    part = senses.part_of(model, name, request.conversion, session)
    job = Job(
        request, model, name, kinds, known, chosen, text, calibration, session, told, specs, tasks, further, part,
        _pairs(only, known),
    )  # fmt: skip
    _tell_left_out(job)
    return job


def _questions(specs: Sequence[TaskSpec], request: BuildRequest, reporter: Reporter) -> tuple[TaskData, ...]:
    drawn = Drawn(request.evaluation.tasks_samples, request.calibration.seed)
    return tuple(questions.resolve(one, drawn, reporter) for one in specs)


def _types(request: BuildRequest, tools: Toolchain) -> tuple[tuple[QuantType, ...], tuple[QuantType, ...]]:
    """All types of the toolchain, and those that are asked for."""
    known = quantize.known_types(tools)
    return known, targets.resolve(request.types, known)


def _pairs(
    only: frozenset[tuple[str, str]] | None, known: tuple[QuantType, ...]
) -> frozenset[tuple[str, str]] | None:
    """Pairs of a variant and a type by the names that files have."""
    if only is None:
        return None
    named = {typed: targets.resolve((typed,), known)[0].name for typed in {typed for _, typed in only}}
    return frozenset((variants.resolve((variant,))[0].name, named[typed]) for variant, typed in only)


def _tell_left_out(job: Job) -> None:
    without = [v.name for v in job.variants if not v.imatrix]
    if without and job.for_matrices_only:
        kinds = ", ".join(t.name for t in job.for_matrices_only)
        job.reporter.info(f"Not made as {' or '.join(without)}, because they need an importance matrix: {kinds}.")
    if twins := job.made_as_plain:
        files = ", ".join(f"{variant.name} {kind.name}" for variant, kind in twins)
        job.reporter.info(
            f"Not made, because an importance matrix changes nothing in it: {files}. Take the plain file."
        )


def _require_possible(request: BuildRequest, chosen: tuple[Variant, ...]) -> _Place:
    """Raise what the request alone, and the files that it names, show to be in vain; tell where results will be."""
    evaluation, source = request.evaluation, request.source
    if evaluation.precision is not None and not (evaluation.quality and evaluation.kld):
        raise UsageError("--precision is about KL divergence.", hint="Leave out --no-kld and --no-eval.")
    if (unused := unused_option(request, chosen)) is not None:
        raise unused
    overridden.require_used(request, chosen)
    if any(v.awq for v in chosen):
        request.scaling.require_possible()
    _require_options(request, chosen)
    if request.calibration.imatrix is not None:
        read_imatrix(request.calibration.imatrix)
    sources.require_readable(request.model, source.hub)
    name = sources.name_on_hub(request.model, source.hub) if source.lora is None else None
    place = _Place(name, request.out or (Path(name) if name else None))
    extras.require(*_extras_of(request, chosen, place.out))
    _require_readable(request, chosen)
    for file in filter(None, map(targets.recipe_file, request.types)):
        if not file.is_file():
            raise InputError(f"{file} is not there.", hint="Give a recipe, or a GGUF whose types are copied.")
    if place.out is not None:
        _require_writable(place.out)
    place.require_free(_Place(), force=request.run.force)
    return place


def _require_readable(request: BuildRequest, chosen: tuple[Variant, ...]) -> None:
    """Raise MissingExtra where what reads a text is not installed."""
    for named in request.evaluation.corpora if request.evaluation.quality else ():
        corpus.require_readable(named)
    questions.require_readable(questions.parse(request.evaluation.tasks))
    if _calibrated(chosen, request) or _may_measure(request):
        calibration_text.require_readable(request.calibration.text)


def _require_options(request: BuildRequest, chosen: tuple[Variant, ...]) -> None:
    """Find what installed packages are asked for.

    Raises:
        UsageError: an option of a variant that is none, or of a method that no variant has; an unknown metric; two methods
            of one name.
        InputError: a package is broken.
    """
    asked: dict[str, Method] = {}
    for method in (method for v in chosen for method in v.methods):
        if asked.setdefault(method.name, method) != method:
            message = f"Two methods are called {method.name}, of {asked[method.name].title} and of {method.title}."
            raise UsageError(message, hint="Ask for the variant of one package at a time.")
    for word in request.methods.variant_option:
        name = methods.pair(word)[0]
        if name not in asked:
            message = f"--variant-option {word} is not used by --variants {', '.join(v.name for v in chosen)}."
            raise UsageError(message, hint=f"Options are those of methods: {', '.join(asked) or 'here none'}.")
    for metric in request.evaluation.metrics:
        metrics.find(metric)
    for method in asked.values():
        methods.options_of(method, request.methods.variant_option)


def _extras_of(request: BuildRequest, chosen: tuple[Variant, ...], out: Path | None) -> list[str]:
    """What must be installed beyond the light core: nothing for a GGUF, whose scaling or refining is refused later."""
    path = sources.local(request.model, request.source.hub)
    measuring = ["recipe"] if _measures(request) else []
    if path is not None and path.is_file():
        return measuring
    wanted = {
        "modelscope": sources.needs_modelscope(request.model, request.source.hub),
        "convert": request.run.force or not _is_converted(out or (_beside_directory(path) if path else None)),
        "awq": any(v.awq for v in chosen),
        "refine": any(v.refined for v in chosen),
        "lora": request.source.lora is not None,
    }
    return [*measuring, *(name for name, needed in wanted.items() if needed)]


def _is_converted(out: Path | None) -> bool:
    """Whether there is a base that may be fresh: if it is not, its step asks for what it needs."""
    found = [read_manifest(gguf) for gguf in out.glob("*.gguf")] if out is not None else []
    return any(manifest is not None and manifest.step == convert.STEP for manifest in found)


def _require_writable(out: Path) -> None:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    reason = "you may not write there" if there.is_dir() else f"{there} is a file"
    if not there.is_dir() or not os.access(there, os.W_OK):
        hint = "Choose a directory that you can write with --out."
        raise InputError(f"{out} cannot be written: {reason}.", hint=hint)


def _tools_at_once(request: BuildRequest, reporter: Reporter) -> Toolchain | None:
    """The toolchain; None where building it can wait for what is wrong with a model on this disk."""
    known = toolchain.locate(request.run.backend)
    if sources.is_local(request.model) and (known is None or known.origin == "path"):
        return None
    return toolchain.find(request.run.backend, reporter)


def _texts(
    chosen: tuple[Variant, ...], request: BuildRequest, reporter: Reporter, *, planned: bool
) -> tuple[tuple[Corpus, ...], tuple[Part, ...]]:
    """The evaluation texts and the calibration texts, none where none is needed; a plan needs the former's sizes.

    Conversations among them are rendered as soon as the model is there.
    """
    texts, parts = tuple[Corpus, ...](), tuple[Part, ...]()
    if request.evaluation.quality:
        texts = tuple(
            (corpus.expected(named) if planned else None) or corpus.resolve(named, reporter)
            for named in request.evaluation.corpora
        )
    how = request.calibration
    needed = _calibrated(chosen, request) or _may_measure(request)
    if needed and not (planned and how.text == CalibrationOptions.text):
        parts = calibration_text.resolve(how.text, how.field, reporter)
    return texts, parts


def _rendered(
    texts: tuple[Corpus, ...],
    parts: tuple[Part, ...],
    model: Checkpoint | GgufFile,
    reporter: Reporter,
    *,
    planned: bool,
) -> tuple[Corpus | None, tuple[Corpus, ...], Corpus | None]:
    """The text of the table, the further ones, and that to calibrate on, as this model reads them.

    A plan, which may have no more than a model's outline, renders nothing.
    """
    if not planned:
        texts = tuple(chat_texts.rendered(text, model, reporter) for text in texts)
        parts = (Part(chat_texts.calibration(parts, model, reporter)),) if parts else ()
    return next(iter(texts), None), texts[1:], parts[0].text if parts else None


def unused_option(request: BuildRequest, chosen: tuple[Variant, ...]) -> UsageError | None:
    """The error for a matrix or a calibration text that none of the variants uses.

    A user's own matrix serves the unscaled weights only: for scaled ones it is always computed. Both have a part in types
    that are chosen by measurement, whatever the variant.
    """
    names, given = ", ".join(v.name for v in chosen), request.calibration
    measured = _measures(request) or request.report.fits is not None
    if given.imatrix is not None and not any((v.imatrix or measured) and v.before is None for v in chosen):
        return UsageError(f"--imatrix is not used by --variants {names}.", hint="Use --variants imatrix.")
    if given.text == CalibrationOptions.text or measured or _calibrated(chosen, request):
        return None
    hint = "Use --variants imatrix." if given.imatrix is None else "Leave one of --calibration and --imatrix out."
    return UsageError(f"--calibration is not used by --variants {names}.", hint=hint)


def _beside(name: str, model: Checkpoint | GgufFile) -> Path:
    """Where results go by default: ./<name>, or ./<name>-gguf where that is the checkpoint itself."""
    return _outside(name, model.path) if isinstance(model, Checkpoint) else Path(name)


def _beside_directory(checkpoint: Path) -> Path:
    """The same, of a checkpoint that is not opened yet."""
    return _outside(sources.name_of_directory(checkpoint.resolve()), checkpoint)


def _outside(name: str, checkpoint: Path) -> Path:
    inside = Path(name).resolve().is_relative_to(checkpoint.resolve())
    return Path(f"{name}-gguf" if inside else name)


def _model(request: BuildRequest, reporter: Reporter, outlines: Path | None) -> Checkpoint | GgufFile:
    adapter = request.source.lora
    found = sources.resolve(request.model, request.source, reporter, outlines if adapter is None else None)
    if adapter is None:
        return dequantized.readable(found, reporter, outlines) if isinstance(found, Checkpoint) else found
    if isinstance(found, GgufFile):
        hint = "Give --lora with the checkpoint of its base."
        raise InputError(f"{request.model} is a GGUF already.", hint=hint)
    return lora.merge(dequantized.floats(found, reporter), adapter, reporter)


def _calibrated(chosen: tuple[Variant, ...], request: BuildRequest) -> bool:
    """Whether calibration text is needed: for all variants but plain, unless an importance matrix is given; and for types
    that are chosen by measurement."""
    own = request.calibration.imatrix is not None
    return _measures(request) or any(v.calibrated or (v.imatrix and not own) for v in chosen)


def _measures(request: BuildRequest) -> bool:
    return any(map(targets.is_measured, request.types))


def _may_measure(request: BuildRequest) -> bool:
    """Whether --fits may need the text that the user named: another one is looked for when it does."""
    return request.report.fits is not None and request.calibration.text != CalibrationOptions.text


def _require_checkpoint(chosen: tuple[Variant, ...], model: Checkpoint | GgufFile) -> None:
    """AWQ and GPTQ run the checkpoint itself.

    Raises:
        InputError: the model is a GGUF.
        UnsupportedArchitecture: AWQ has no fold table for it.
    """
    needing = [v.name for v in chosen if v.needs_checkpoint]
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
    bases = [GgufNotes.from_manifest(m) for m in found if m.step in (convert.STEP, import_gguf.STEP)]
    others = [base.name for base in bases if base.variant == "plain" and base.name not in ("", name)]
    if others:
        message = f"{out} holds the results of {others[0]}; those of {name} would mix with them."
        raise InputError(message, hint="Choose another --out; `ggufkit compare` shows directories side by side.")
