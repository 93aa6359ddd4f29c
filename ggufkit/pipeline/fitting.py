"""The file that fits a memory: what its KV cache and compute buffers leave is its size."""

from __future__ import annotations

from dataclasses import replace

from ggufkit.core.errors import UsageError
from ggufkit.core.records import QuantType
from ggufkit.llama import evaluates, targets
from ggufkit.llama.gguf import GgufHeader
from ggufkit.pipeline.job import Job
from ggufkit.report.choose import amount, context
from ggufkit.report.data import footprint

_DIGITS = 4
"""Of the size in its label: less than a thousandth is given away."""


def add(job: Job, base: GgufHeader) -> Job:
    """The job, and one type more where --fits asks for it: the size that the memory leaves to a file's weights.

    Raises:
        UsageError: it leaves nothing.
    """
    memory, n_ctx, kv_type = job.request.report.fits, job.request.report.fits_ctx, job.request.report.fits_kv
    if memory is None:
        return job
    needs = footprint(base).with_cache(kv_type)
    left = memory - needs.kv(n_ctx) - needs.compute(n_ctx)
    if left <= 0:
        raise UsageError(
            f"With a context of {context(n_ctx, kv_type)}, {amount(needs.kv(n_ctx))} of KV cache and "
            f"{amount(needs.compute(n_ctx))} of compute buffers leave nothing of {amount(memory)} for weights.",
            hint="Shorten the context with --fits-ctx, take a smaller cache with --fits-kv, or give more memory.",
        )
    if not evaluates.generates(base):
        job.reporter.info(
            "No file is made for --fits: of an encoder no types are measured. The best of --types is named."
        )
        return job
    if left >= base.size_bytes:
        job.reporter.info(f"All of {job.base_output.name} fits {amount(memory)}: no file is made for --fits.")
        return job
    target = targets.size_target(_rounded(left))
    kind = QuantType(target.label, "", target)
    if kind in job.types:
        return job
    only = None if job.only is None else job.only | {(variant.name, kind.name) for variant in job.variants}
    return replace(job, types=(*job.types, kind), only=only)


def _rounded(n_bytes: int) -> int:
    """Down to a size that is written in few digits."""
    unit = max(u for u in (1, 1 << 10, 1 << 20, 1 << 30) if u <= n_bytes)
    parts = int(10 ** max(0, _DIGITS - len(str(n_bytes // unit))))
    return n_bytes * parts // unit * unit // parts
