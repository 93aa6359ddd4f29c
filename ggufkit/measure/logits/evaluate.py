"""The base evaluated and files compared with it: by a strategy that the machine has room for, until all figures are there.

What the tool loses under load is evaluated again. Where a GPU's memory runs out, one file at a time is evaluated beside
the base, and then fewer layers are on the GPU.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from ggufkit.core import machine
from ggufkit.core.errors import DeviceMemoryError, ToolOutputError
from ggufkit.core.records import GgufFile
from ggufkit.llama import memory
from ggufkit.llama.gguf import read_header
from ggufkit.measure.evaluation import Evaluation
from ggufkit.measure.logits import passes, pipes, strategy
from ggufkit.measure.logits.passes import FilePass, Pass
from ggufkit.measure.logits.strategy import Need, Strategy, Transport
from ggufkit.measure.shares import memory_needed
from ggufkit.measure.tool import ATTEMPTS, pays_to_pin
from ggufkit.steps import offload

_DISK_RESERVE = 16 << 20


def strategy_for(
    base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, transport: Transport
) -> Strategy:
    """The strategy that this machine has room for now."""
    header, n_ctx, session = read_header(base.path), evaluation.options.n_ctx, evaluation.session
    scratch = session.workspace.scratch
    fixed, per_chunk = memory.base_logits(header, n_ctx)
    possible = evaluation.text.n_bytes // n_ctx + 1  # a token is a byte at least
    need = Need(
        fixed=fixed,
        per_chunk=per_chunk,
        n_chunks=min(evaluation.options.n_chunks or possible, possible),
        scratch=min(transport.scratch_limit, max(0, machine.free_disk(scratch) - _DISK_RESERVE)),
        ram_base=memory_needed(base, n_ctx),
        ram_files=[memory_needed(f, n_ctx) for f in files],
        ram_free=machine.free_memory(),
        pipes=pipes.supported(scratch),
        gpus_free=[gpu.memory_free for gpu in offload.gpus(session)],
        ram_beside=memory.ram_beside_gpu(header, n_ctx),
    )
    return strategy.choose(need, transport.strategy)


def evaluate(
    base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, transport: Transport
) -> Generator[Pass, None, None]:
    """Each pass as soon as it is done: of every file, and of the base at least one unless the tool lost its figures.

    Raises:
        CorpusError: the text has fewer than two chunks.
        ToolError: a tool failed, died, or gave no finite statistics.
    """
    chosen, session = strategy_for(base, files, evaluation, transport), evaluation.session
    session.reporter.info(f"KL divergence by {chosen.name}: {chosen.why}.")
    left = {file.run: file for file in files}

    def run(ngl: int | None) -> Iterator[Pass]:
        for found in _until_whole(base, list(left.values()), evaluation.with_layers(ngl), chosen):
            if isinstance(found, FilePass):
                del left[found.file.run]
            yield found

    if chosen.at_once > 1:
        try:
            yield from run(evaluation.options.ngl)
            return
        except DeviceMemoryError as error:
            session.reporter.warn(f"{error.message} One file at a time is evaluated beside the base.")
            offload.keep_log(error, "together")
            chosen = replace(chosen, name=strategy.PIPE, at_once=1)
    yield from offload.each_with_fewer(run, evaluation.options.ngl, base, session)


def _until_whole(
    base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, chosen: Strategy
) -> Iterator[Pass]:
    """The passes by one strategy; statistics that the tool lost are measured again."""
    run = passes.by_pipes if chosen.by_pipes else passes.by_file
    left, pinned, session = list(files), False, evaluation.session
    for _ in range(ATTEMPTS):
        lost, started = list[GgufFile](), time.monotonic()
        for group in _groups(left, chosen):
            lost += yield from run(base, group, evaluation, pinned=pinned)
        if not lost:
            return
        pinned, left = pays_to_pin(time.monotonic() - started, session), lost
        session.reporter.info(f"The statistics of {_names(left)} were lost. Trying once more.")
    raise ToolOutputError(
        f"llama-perplexity gave no KL divergence statistics for {_names(left)}.",
        hint="Repeat the command on a quieter machine; what was finished is kept.",
        log=session.workspace.log(f"divergence-{left[0].run_stem}"),
    )


def _groups(files: Sequence[GgufFile], chosen: Strategy) -> list[Sequence[GgufFile]]:
    """The files that share one base pass."""
    if not chosen.by_pipes:
        return [files]
    return [files[i : i + chosen.at_once] for i in range(0, len(files), chosen.at_once)]


def _names(files: Sequence[GgufFile]) -> str:
    return ", ".join(file.run_name for file in files)
