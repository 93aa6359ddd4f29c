"""What a build runs when, on what, and how long each of it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ggufkit.core import durations
from ggufkit.core.concurrency import makers_at_once
from ggufkit.core.durations import Estimate, total
from ggufkit.core.methods import AWQ, GPTQ
from ggufkit.core.records import F16, Checkpoint
from ggufkit.llama import evaluates, quants
from ggufkit.llama.gguf import GgufHeader
from ggufkit.measure import metrics
from ggufkit.pipeline import overridden, pace
from ggufkit.pipeline.foreseen import is_measured
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.outlook import estimate
from ggufkit.pipeline.pieces import Piece, pieces
from ggufkit.pipeline.resources import PlannedStep


def timed(job: Job, base: GgufHeader) -> tuple[tuple[PlannedStep, ...], Estimate]:
    """All steps with the seconds that are left of each, and those of the whole.

    Where like work was never done here, the machine is tried for two seconds.
    """
    todo = _possible(pieces(job), base)
    known = durations.known()
    if any(known.estimate(piece.work) is None for piece in todo):
        pace.probe(job.session, (quants.main_tensor_type(t.name) for _, t in job.targets))
        known = durations.known()
    speed = pace.known_pace(job.session, known)
    found = [(piece.stage, estimate(piece, known, speed)) for piece in todo]
    by_stage = {stage: total([e for s, e in found if s == stage]) for stage, _ in found}
    whole = total([e for _, e in found])
    shown = tuple(
        replace(s, seconds=round(by_stage[s.stage].seconds, 1)) if s.stage in by_stage else s
        for s in steps(job, base)
    )
    return shown, replace(whole, seconds=whole.seconds - _beside(job, by_stage))


def _possible(todo: Sequence[Piece], base: GgufHeader) -> list[Piece]:
    """Without what an encoder does not do."""
    speaks = evaluates.generates(base)
    return [piece for piece in todo if speaks or piece.stage not in ("speak", "tasks")]


def _beside(job: Job, by_stage: dict[str, Estimate]) -> float:
    """On a GPU files are evaluated while the CPU makes the next: the shorter of both takes no time."""
    if job.tools.backend == "cpu" or not {"quantize", "evaluate"} <= by_stage.keys():
        return 0.0
    return min(by_stage["quantize"].seconds, by_stage["evaluate"].seconds)


def steps(job: Job, base: GgufHeader) -> Iterator[PlannedStep]:
    """What runs when, and on what."""
    yield from _making(job)
    yield from _measuring(job, base)


def _device(job: Job) -> str:
    return "CPU" if job.tools.backend == "cpu" else f"GPU ({job.tools.backend})"


def _making(job: Job) -> Iterator[PlannedStep]:
    makers = makers_at_once(job.session.threads)
    if isinstance(job.model, Checkpoint):
        held = job.model.quantized
        note = f"of a checkpoint in {held}" if held is not None else ""
        yield PlannedStep("convert", f"convert to {job.base_type}", "CPU", note)
    if job.part is not None:
        yield PlannedStep("mmproj", "what reads images or sound, tried with the base", "CPU")
    if any(v.awq for v, _ in job.targets):
        labels = ", ".join(s.label for s in job.scalings if s.method == AWQ.name)
        yield PlannedStep("awq", f"AWQ scales: {labels}", "CPU or GPU", "one run for all")
    for method in dict.fromkeys(v.before for v, _ in job.targets if v.before is not None and v.before != AWQ):
        yield PlannedStep(f"method {method.name}", method.title, "", "on the checkpoint")
    if job.measures or any(v.imatrix for v, _ in job.targets):
        yield PlannedStep("imatrix", "importance matrix of each base", _device(job))
    if job.measures:
        measured = ", ".join(t.name for t in job.types if is_measured(t))
        note = "for each base; kept for other sizes"
        yield PlannedStep("choose", f"types by measurement: {measured}", _device(job), note)
    if rounded := dict.fromkeys(t.name for v, t in job.targets if v.after is None):
        uses = "CPU" if makers == 1 else f"CPU, {makers} at once"
        yield PlannedStep("quantize", f"quantize: {', '.join(rounded)}", uses, overridden.shown(job.overrides))
    if any(v.refined for v, _ in job.targets):
        yield PlannedStep("refine", "refine", "GPU or CPU", "one file after the other")
    for method in dict.fromkeys(v.after for v, _ in job.targets if v.after is not None and v.after != GPTQ):
        yield PlannedStep(f"method {method.name}", method.title, "", "one file after the other")


def _measuring(job: Job, base: GgufHeader) -> Iterator[PlannedStep]:
    how = job.request.evaluation
    if job.text is not None:
        what = "KL divergence and perplexity" if how.kld else "perplexity"
        what = "cosine similarity of embeddings" if evaluates.embeds(base) else what
        note = ["as files are there; several at once where the GPU's memory holds them"] * (
            job.tools.backend != "cpu"
        )
        note += [_further(job)] if how.depths and not evaluates.embeds(base) else []
        yield PlannedStep("evaluate", what, _device(job), "; ".join(note))
    if how.smoke and evaluates.generates(base):
        yield PlannedStep("speak", "a reply of each file", _device(job))
    if job.task_specs and evaluates.generates(base):
        yield PlannedStep("tasks", f"tasks: {', '.join(one.name for one in job.task_specs)}", _device(job))
    for name in how.metrics:
        yield PlannedStep(
            f"metric {name}", metrics.find(name).title or name, "", f"a metric of {metrics.find(name).package}"
        )
    if how.bench:
        deep = f"; behind {_tokens(how.depths)}, too" if how.depths and evaluates.generates(base) else ""
        yield PlannedStep("bench", "speed", _device(job), f"alone, one file after the other{deep}")
    yield PlannedStep("report", "tables and report", "CPU")


def _further(job: Job) -> str:
    """In which contexts and with which KV caches."""
    caches = [kind for kind in job.request.evaluation.kv_types if kind != F16]
    also = f", KV cache in {', '.join([F16, *caches])}" if caches else ""
    return f"contexts of {_tokens(job.request.evaluation.contexts)}{also}"


def _tokens(counts: Sequence[int]) -> str:
    return " and ".join(f"{n:,}" for n in counts) + " tokens"
