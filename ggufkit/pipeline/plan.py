"""The plan of a whole build: what it would make, and whether this machine has room for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ggufkit.core import machine, variants
from ggufkit.core.concurrency import worker_pool
from ggufkit.core.errors import InputError
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import F16, Checkpoint, GgufFile, QuantType
from ggufkit.core.units import size
from ggufkit.core.variants import Scaling, Variant
from ggufkit.llama import evaluates, importance, kv_cache, memory, mtp, quants
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.measure import evaluation, length
from ggufkit.measure.conditions import Setting
from ggufkit.modelfile import chat_texts
from ggufkit.models import dequantized
from ggufkit.pipeline import chosen, fitting, foreseen, overridden, oversized, resources, stages
from ggufkit.pipeline.artifacts import outputs
from ggufkit.pipeline.foreseen import Matrix, given, is_measured
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.lookup import prepare
from ggufkit.pipeline.resources import Plan, PlannedFile, PlannedPart, Planner
from ggufkit.recipes.effort import COMPARED
from ggufkit.report import results
from ggufkit.request import BuildRequest
from ggufkit.steps import convert, division, imatrix, import_gguf, offload, quantize, tensor_types
from ggufkit.steps.imatrix import require_fits
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.texts import calibration_text


def plan(request: BuildRequest, reporter: Reporter | None = None) -> Plan:
    """What a build would make and need. Nothing is written to the output directory."""
    with planned(request, reporter) as (_, whole):
        return whole


@contextlib.contextmanager
def planned(
    request: BuildRequest, reporter: Reporter | None = None, only: frozenset[tuple[str, str]] | None = None
) -> Iterator[tuple[Job, Plan]]:
    """The same with the job, whose model may be an outline that is there until the end.

    Args:
        only: as for `prepare`.
    """
    with tempfile.TemporaryDirectory(prefix="ggufkit-plan-") as temporary:
        outlines = Path(temporary) / "outline"
        outlines.mkdir()
        job = prepare(request, reporter or SilentReporter(), outlines, only)
        to_fetch = sum(file.stat().st_size for file in outlines.glob("*.safetensors"))
        base = _skeleton(job, Path(temporary))
        job = fitting.add(job, read_header(base))
        require_settings(job)
        part = _planned_part(job)
        extra = read_header(base).size_bytes + _out_of_sight(job, base) + (job.part.n_bytes if job.part else 0)
        _warn_of_paging(job, base, machine.free_memory())
        warn_of_context(job, base)
        whole = _plan(job, base, outputs(job), extra_disk=extra)
        steps, takes = stages.timed(job, read_header(base))
        yield job, replace(
            whole, steps=steps, seconds=takes.seconds, seconds_factor=takes.factor, mmproj=part,
            remarks=_remarks(job, whole), mtp=_of_mtp(job, base), download_bytes=to_fetch,
        )  # fmt: skip


def _planned_part(job: Job) -> PlannedPart | None:
    part = job.part
    if part is None:
        return None
    return PlannedPart(part.output.name, part.out_type.upper(), part.n_bytes or part.output.stat().st_size)


def _of_mtp(job: Job, base: Path) -> str:
    """What becomes of layers that predict further tokens; "" where they get no type of their own."""
    quantized = any(not quants.is_float(kind.name) for _, kind in job.targets)
    return mtp.remark(read_header(base)) if quantized and not job.overrides.pure else ""


def _remarks(job: Job, whole: Plan) -> tuple[str, ...]:
    """What is odd about the files, with what is known of their losses from an earlier build."""
    try:
        rows = results.collect(job.out)
    except InputError:
        rows = []
    return tuple(oversized.remarks(whole.files, rows))


def _skeleton(job: Job, directory: Path) -> Path:
    """A base that a dry run can read: the user's file, the finished one, or one with a hole for data."""
    if isinstance(job.model, GgufFile):
        return job.model.path
    if job.base_output.is_file():
        return job.base_output
    return convert.skeleton(job.model, directory / job.base_output.name, job.request.conversion, job.session)


def require_disk_for_base(job: Job) -> None:
    """Before the base is made or copied: room for it, and for outputs as large as their names say.

    Raises:
        ResourceError: there is not.
    """
    if job.base_output.exists():
        return
    if isinstance(job.model, Checkpoint):
        n_bytes = job.model.n_params * (4 if job.base_type == "F32" else 2)
    else:
        n_bytes = 0 if import_gguf.can_clone(job.model, job.session) else job.model.size_bytes
    outputs = sum(_promised_bytes(job, kind) for _, kind in job.targets)
    beside = job.part.n_bytes if job.part is not None else 0
    beside += n_bytes if job.request.parts.split is not None else 0
    Plan((), n_bytes + outputs + beside, machine.free_disk(job.out), 0, 1).require(job.out)


def _promised_bytes(job: Job, kind: QuantType) -> int:
    """The size of an output as its name says it; 0 where it says none."""
    if kind.target is not None and kind.target.kind == "size":
        return int(kind.target.number)
    return int(job.model.n_params * (quants.nominal_bpw(kind) or 0) / 8)


def with_fitting(job: Job) -> Job:
    """The job with the type that --fits asks for; its size follows from the shape of the base, made or not."""
    if job.request.report.fits is None:
        return job
    with tempfile.TemporaryDirectory(prefix="ggufkit-plan-") as temporary:
        whole = fitting.add(job, read_header(_skeleton(job, Path(temporary))))
    if not whole.measures or whole.calibration is not None:
        return whole
    how = job.request.calibration
    parts = calibration_text.resolve(how.text, how.field, job.reporter)
    return replace(whole, calibration=chat_texts.calibration(parts, job.model, job.reporter))


def require_matrices(job: Job) -> None:
    """Before hours are spent on a conversion: a matrix for each type that this model's shape cannot have without; the
    user's own is this model's; and what the tools are told besides types fits it.

    Raises:
        InputError: there is none, it is another's, or it does not.
    """
    own = job.request.calibration.imatrix
    without = [t for v, t in job.targets if not v.imatrix and _may_need_matrix(job, v, t)]
    if own is None and not without and job.overrides == overridden.NONE:
        return
    with tempfile.TemporaryDirectory(prefix="ggufkit-plan-") as temporary:
        base = _skeleton(job, Path(temporary))
        header = read_header(base)
        if job.overrides != overridden.NONE:
            for kind in dict.fromkeys(t for _, t in job.targets if not is_measured(t)):
                quantize.plan(job.tools, base, kind, _how(job, header, kind, None))
        for kind in without:
            quantize.require_matrix(job.tools, base, kind, _how(job, header, kind, None), _way_to_matrix(job))
        if own is not None:
            require_fits(own, header)
            weighed = [t for v, t in job.targets if v.imatrix and v.before is None and not is_measured(t)]
            for kind in dict.fromkeys(weighed):
                quantize.require_matrix(job.tools, base, kind, _how(job, header, kind, own))


def _how(job: Job, base: GgufHeader, kind: QuantType, matrix: Path | None) -> QuantizeOptions:
    told = overridden.of_kind(job.overrides, kind)
    return given(base, kind, QuantizeOptions(matrix, job.request.source.allow_requantize, overrides=told))


def _may_need_matrix(job: Job, variant: Variant, kind: QuantType) -> bool:
    """Whether a file may be impossible without a matrix, as far as is known without its plan."""
    is_given = kind.target is not None and not kind.target.is_measured
    is_given = is_given or overridden.of_kind(job.overrides, kind) != overridden.NONE
    return kind.name in quants.NEEDS_IMATRIX or (is_given and not job.output(variant, kind.name).exists())


def require_layers(job: Job) -> None:
    """Before hours are spent on what is refined afterwards: the checkpoint can be run layer by layer.

    Raises:
        UnsupportedArchitecture: it cannot.
    """
    missing = any(v.refined and not job.output(v, t.name).exists() for v, t in job.targets)
    if missing and isinstance(job.model, Checkpoint):
        from ggufkit.layers import StreamedModel

        StreamedModel(dequantized.floats(job.model, job.reporter).path, "cpu").require_layout()


def require_settings(job: Job) -> None:
    """Before hours are spent: the model can have each type of KV cache that is asked for, the texts are long enough for
    each context, and the files can be had in parts as large as they may be.

    Raises:
        UsageError: it cannot.
        CorpusError: it is not.
    """
    how, split = job.request.evaluation, job.request.parts.split
    caches = dict.fromkeys([*how.kv_types, job.request.report.fits_kv])
    contexts = [(text, how.contexts[: 1 if i else None]) for i, text in enumerate(job.texts)]
    in_doubt = [(text, its) for text, its in contexts if not length.is_ample(text, its)]
    if set(caches) == {F16} and not in_doubt and split is None:
        return
    with tempfile.TemporaryDirectory(prefix="ggufkit-plan-") as temporary:
        base = _skeleton(job, Path(temporary))
        if split is not None:
            division.require_possible(read_header(base), split, [kind.name for _, kind in job.targets])
        for kind in caches:
            kv_cache.require_possible(read_header(base), kind, job.name)
        for text, its in in_doubt if not evaluates.embeds(read_header(base)) else ():
            length.require_two_contexts(base, text, its, job.session)


def require_room(job: Job, base: Path) -> Sequence[PlannedFile]:
    """With the base there: the exact plan of what is still to be made, of which there is room.

    Raises:
        ResourceError: too little disk or memory.
    """
    missing = [target for target in outputs(job) if not target[2].exists()]
    if not missing:
        return ()
    whole = _plan(job, base, missing, extra_disk=_out_of_sight(job, base))
    whole.require(job.out)
    _warn_of_paging(job, base, whole.ram_free)
    return whole.files


def _warn_of_paging(job: Job, base: Path, free: int) -> None:
    """The base is evaluated, too: memory-mapped, so that it works even if it does not fit, but at the disk's pace."""
    header, measured = read_header(base), job.request.evaluation
    needed = memory.evaluation_ram(header, header.size_bytes, max(measured.contexts))
    if needed > free + offload.usable(job.session) and (measured.quality or measured.bench):
        job.reporter.warn(
            f"{job.base_output.name} needs {size(needed)} of memory to be measured, {size(free)} are free: it will be "
            "read from disk again and again. --no-eval and --no-bench leave that out."
        )


def warn_of_context(job: Job, base: Path) -> None:
    """Whether the evaluation goes beyond the context that the model was trained on, or its text is one of chats."""
    if job.request.evaluation.quality and not evaluates.embeds(read_header(base)):
        evaluation.warn_of_context(base, job.request.evaluation.contexts, job.reporter)
        for text in job.texts:
            evaluation.warn_of_special_tokens(base, text, job.reporter)


def _out_of_sight(job: Job, base: Path) -> int:
    """Bytes of what is kept besides results: scaled checkpoints, their bases, files that are refined, and how far."""
    results = {path for _, _, path in outputs(job)}
    bases = [p for s in job.scalings if (p := job.scaled_base_output(s)) not in results and not p.exists()]
    n_bytes = len(bases) * read_header(base).size_bytes
    if isinstance(job.model, Checkpoint):
        width = 4 * job.model.n_params if job.request.scaling.dtype == "float32" else job.model.tensor_bytes
        n_bytes += sum(width for s in job.scalings if not job.scaled_checkpoint(s).exists())
    header = read_header(base)
    changed = [(v, t) for v, t in job.targets if v.after is not None and not job.output(v, t.name).exists()]
    planner = Planner(job.tools, header, job.known_types, max(job.request.evaluation.contexts), job.overrides)
    sizes = [planner.file(kind, "", variant.name).size_bytes for variant, kind in changed]
    shown = [(variants.unrefined(v), t) in job.targets and not (is_measured(t) and v.refined) for v, t in changed]
    n_bytes += sum(n for n, is_result in zip(sizes, shown, strict=True) if not is_result)
    kept = [n + (_refining(job, header) if v.refined else 0) for n, (v, _) in zip(sizes, changed, strict=True)]
    return n_bytes + max([_measuring(job, planner), *kept])


def _measuring(job: Job, planner: Planner) -> int:
    """Bytes of what types are measured with, while it lasts: the base in parts, each once coarse, and what is compared."""
    missing = [(v, t) for v, t in job.targets if is_measured(t) and not job.output(v, t.name).exists()]
    if not missing:
        return 0
    largest = max(planner.file(kind, "", "").size_bytes for _, kind in missing)
    n_bytes = 2 * planner.base.size_bytes + COMPARED * largest
    # For what will be refined, coarse tensors are refined, and make up parts of their own.
    return n_bytes + (2 * planner.base.size_bytes + 2 * largest if any(v.refined for v, _ in missing) else 0)


def _refining(job: Job, base: GgufHeader) -> int:
    """Bytes of hidden states that a refinement keeps besides finished matrices; see `refine_gguf`."""
    tokens = 512 * job.request.calibration.samples
    return 4 * (8 * base.hparam("embedding_length") + base.hparam("feed_forward_length")) * tokens


def _plan(job: Job, base: Path, targets: list[tuple[Variant, QuantType, Path]], extra_disk: int) -> Plan:
    header = read_header(base)
    if any(v.imatrix for v, _, _ in targets) and job.request.calibration.imatrix is None:
        evaluates.require_generates(base, imatrix.VAIN, imatrix.WITHOUT, name=job.base_output.name)
    if any(is_measured(t) for _, t, _ in targets):
        chosen.require_measurable(base, job.base_output.name)
    quantize.require_base(header, allow_requantize=job.request.source.allow_requantize)
    for name in {t.name for _, t, _ in targets} if not job.request.source.allow_requantize else ():
        tensor_types.refuse_floats_of_carried(header, name)
    planner = Planner(job.tools, header, job.known_types, max(job.request.evaluation.contexts), job.overrides)
    with foreseen.stand_in() as stand_in, worker_pool(job.session.threads) as pool:
        coming = [pool.submit(partial(_plan_one, job, planner, stand_in, target)) for target in targets]
        files = [future.result() for future in coming]
    ram = resources.quantize_ram(header) if files else 0
    scratch = _scratch(job, header) if files else 0
    on_gpus = offload.usable(job.session)
    return resources.whole_plan(
        files,
        job.out,
        extra_disk + scratch + _dividing(job, header, files),
        ram,
        on_gpus,
        evaluate=job.request.evaluation.quality,
    )


def _dividing(job: Job, base: GgufHeader, files: Sequence[PlannedFile]) -> int:
    """Bytes of the largest file that is in parts and whole for a while; they are divided one after the other."""
    limit = job.request.parts.split
    if limit is None:
        return 0
    whole = [] if base.parts else [base.size_bytes]
    return max((n for n in [*whole, *(file.size_bytes for file in files)] if n > limit), default=0)


def _scratch(job: Job, base: GgufHeader) -> int:
    """The most disk that base logits will take: a file if it fits the limit, next to nothing by pipes."""
    how = job.request.evaluation
    if job.text is None or not how.kld or evaluates.embeds(base):
        return 0
    needed = [_logits(base, setting) for setting in job.settings]
    return max([0, *(n_bytes for n_bytes in needed if n_bytes <= how.scratch_limit)])


def _logits(base: GgufHeader, setting: Setting) -> int:
    """Bytes of a base's logits, at most."""
    fixed, per_chunk = memory.base_logits(base, setting.n_ctx)
    possible = setting.text.n_bytes // setting.n_ctx + 1  # a token is a byte at least
    return fixed + per_chunk * min(setting.n_chunks or possible, possible)


def _plan_one(job: Job, planner: Planner, stand_in: Path, target: tuple[Variant, QuantType, Path]) -> PlannedFile:
    variant, kind, path = target
    weighed = variant.imatrix and not quants.is_float(kind.name)
    matrix = _matrix(job, stand_in, job.scaling_of(variant, kind)) if weighed else None
    file = planner.file(kind, path.name, variant.name, matrix)
    if file.needs_imatrix and not variant.imatrix:
        raise quantize.needs_imatrix(kind, _way_to_matrix(job))
    return file


def _matrix(job: Job, stand_in: Path, scaling: Scaling | None) -> Matrix:
    """The importance matrix that a file will be weighed by, as its metadata will name it."""
    own = job.request.calibration.imatrix
    if own is not None and scaling is None:
        return Matrix(stand_in, own, importance.dataset(own))
    text = job.calibration.path.name if job.calibration is not None else ""
    return Matrix(stand_in, job.matrix_output(scaling), text)


def _way_to_matrix(job: Job) -> str:
    given = any(variant.imatrix for variant in job.variants)
    return "Leave it out, or the variants without a matrix." if given else "Use --variants imatrix."
