"""Step: how fast a GGUF runs, by llama-bench. Never measured beside other work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import failures, machine, process
from ggufkit.core.manifest import Params
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import OneOfMany
from ggufkit.core.records import F16, Conditions, GgufFile, Json
from ggufkit.llama import argv, evaluates, logs
from ggufkit.llama.argv import Compute
from ggufkit.llama.gguf import read_header
from ggufkit.llama.logs import Speed
from ggufkit.llama.progress_lines import repetitions_done
from ggufkit.measure.measurements import Figure, measured, place, save
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "bench", 1
NOISY = 0.05
_BUSY = "The machine is busy, speeds varied between repetitions: {}. Repeat on a quiet one, or raise --bench-reps."


@dataclass(frozen=True)
class BenchParams(Params):
    """What decides a file's speed besides the file and the tools.

    `depth` is missing where the context is empty at first, `kv_type` where the KV cache is F16.
    """

    n_prompt: int = 512
    n_gen: int = 128
    ngl: int | None = None
    repetitions: int = 5
    threads: int | None = None
    machine: str = ""
    backend: str = "cpu"
    depth: int = 0
    kv_type: str = F16

    def to_params(self) -> dict[str, Json]:
        """What is there of it."""
        usual = {"depth": 0, "kv_type": F16}
        return {key: value for key, value in super().to_params().items() if (key, value) not in usual.items()}


@dataclass(frozen=True)
class BenchOptions:
    """What is timed: tokens of prompt and of generation, how often, and behind how many tokens."""

    n_prompt: int = 512
    n_gen: int = 128
    repetitions: int = 5
    ngl: int | None = None
    depth: int = 0

    def at_depth(self, session: Session) -> Session:
        """The session that keeps what is timed behind so many tokens apart."""
        name = f"depth-{self.depth}" if self.depth else ""
        return replace(session, workspace=replace(session.workspace, setting=name))


def bench(gguf: GgufFile, options: BenchOptions, session: Session) -> Result:
    """Measure a file's speed unless that is done already on this machine with these threads.

    Raises:
        ToolError: llama-bench failed or gave no speeds.
    """
    options, session = _possible(gguf, options), options.at_depth(session)
    params = BenchParams(
        options.n_prompt, options.n_gen, options.ngl, options.repetitions,
        session.threads, machine.describe(), session.tools.backend, options.depth, gguf.kv_type,
    )  # fmt: skip
    inputs = {"gguf": str(gguf.sha256)}
    recipe = Recipe(STEP, VERSION, inputs, params.to_params(), session.tools.identity, (gguf.as_input(),))
    return session.ensure(
        recipe,
        place(gguf, STEP, session.workspace),
        lambda partial: _bench(gguf, options, session, partial),
        work=session.work("bench", gguf.n_params * (options.repetitions + 1), how(gguf.kv_type, options.depth)),
    )


def how(kv_type: str, depth: int) -> str:
    """What takes a time of its own: each KV cache, and each depth."""
    return f"{depth} {kv_type}" if depth or kv_type != F16 else ""


def _possible(gguf: GgufFile, options: BenchOptions) -> BenchOptions:
    """An encoder generates nothing, and reads no more tokens than it has positions."""
    header = read_header(gguf.path)
    if evaluates.generates(header):
        return options
    return replace(
        options, n_gen=0, n_prompt=min(options.n_prompt, header.hparam("context_length") or options.n_prompt)
    )


def speeds(gguf: GgufFile, options: BenchOptions, session: Session) -> tuple[Speed, ...]:
    """Measure a file's speed, and keep nothing.

    Raises:
        ToolError: llama-bench failed or gave no speeds.
    """
    return logs.parse_bench(_timed(gguf, options, session))


def _timed(gguf: GgufFile, options: BenchOptions, session: Session) -> ToolOutput:
    return offload.with_fewer(lambda ngl: _run(gguf, options, session, ngl), options.ngl, gguf, session)


def _bench(gguf: GgufFile, options: BenchOptions, session: Session, partial: Path) -> Made:
    run = _timed(gguf, options, session)
    found = logs.parse_bench(run)
    values: dict[str, Figure] = {"pp_tps" if s.n_prompt else "tg_tps": _value(s, options) for s in found}
    where = replace(_conditions(found[0], session), kv_type=gguf.kv_type, depth=options.depth)
    save(partial, measured(str(gguf.sha256), values, where))
    _warn_if_noisy(gguf, found, session)
    return Made([run])


def _value(speed: Speed, options: BenchOptions) -> Figure:
    """A single repetition has no deviation."""
    return speed.tps, speed.tps_stddev if options.repetitions > 1 else None


def _run(gguf: GgufFile, options: BenchOptions, session: Session, ngl: int | None) -> ToolOutput:
    compute = Compute(session.tools.backend, ngl, session.threads, kv_type=gguf.kv_type)
    timing = argv.Timing(options.n_prompt, options.n_gen, options.repetitions, options.depth)
    command = argv.bench(session.tools, gguf.path, compute, timing)
    behind = f" behind {options.depth:,} tokens" if options.depth else ""
    with session.reporter.step(f"Speed of {gguf.run_name}{behind}") as progress:

        def watch(_stream: str, text: str) -> None:
            if (done := repetitions_done(text)) is not None:
                progress.update(*done, "repetitions")

        log = session.workspace.log(f"bench-{gguf.run_stem}")
        run = process.run([*command, "--progress"], log=log, on_text=watch)
        _require_success(run, f"timing {gguf.path.name}", ngl, session)
    if run.paused_s:
        session.reporter.info(f"{gguf.path.name}: a pause fell into the timing. Once more.")
        return _run(gguf, options, session, ngl)
    return run


def _require_success(run: ToolOutput, doing: str, ngl: int | None, session: Session) -> None:
    """llama-bench keeps llama.cpp's messages to itself: what does not load, on a GPU, did not fit as far as one can tell."""
    on_gpu = session.tools.backend != "cpu" and ngl != 0
    if run.returncode > 0 and on_gpu and logs.not_loaded(run.text):
        raise failures.full_gpu(run, doing)
    failures.require_success(run, doing)


def _conditions(speed: Speed, session: Session) -> Conditions:
    on_gpu = bool(speed.gpu_info) and session.tools.backend != "cpu" and speed.ngl != 0
    return Conditions(
        backend=session.tools.backend if on_gpu else "cpu",
        device=speed.gpu_info if on_gpu else (speed.cpu_info or machine.cpu_name()),
        ngl=speed.ngl if on_gpu and speed.ngl > 0 else None,
        threads=speed.n_threads,
        machine=machine.describe(),
        llama_cpp_commit=session.tools.commit,
    )


def _warn_if_noisy(gguf: GgufFile, speeds: tuple[Speed, ...], session: Session) -> None:
    noisy = {
        f"pp{s.n_prompt}" if s.n_prompt else f"tg{s.n_gen}": s.tps_stddev / s.tps
        for s in speeds
        if s.tps_stddev > NOISY * s.tps
    }
    if noisy:
        varied = " and ".join(f"{test} by {share:.0%}" for test, share in noisy.items())
        session.reporter.warn(OneOfMany(_BUSY, f"{gguf.path.name} ({varied})"))
