"""Step: how far files are from their base, by llama-perplexity's KL divergence.

One base pass gives the base's perplexity and its predictions; one pass for each file compares with them and
gives that file's perplexity, too. The predictions travel by a temporary file or by named pipes, see
`logits.strategy`; the statistics are the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import DeviceMemoryError, InputError, ResourceError, ToolOutputError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.records import GgufFile, Json
from ggufkit.llama import logs, memory
from ggufkit.llama.gguf import read_header
from ggufkit.llama.kld import FEWEST_VALUES, Divergence, scored
from ggufkit.measure import perplexity
from ggufkit.measure.logits import passes, pipes, sample, strategy
from ggufkit.measure.logits.passes import BasePass, FilePass, OnBase, OnFile
from ggufkit.measure.logits.precision import PILOT, chunks_needed
from ggufkit.measure.logits.strategy import Need, Route
from ggufkit.measure.measurements import Value, measured, save
from ggufkit.measure.perplexity import EvalNotes, EvalOptions
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, staleness
from ggufkit.texts.corpus import Corpus

STEP, VERSION = "divergence", 1
_ALONG = "measured along with the others"
_DISK_RESERVE = 256 << 20
_GUESSED_TOKEN = 4
_MOST = 0.6
_PERCENTILES = {
    "kld_min": 0.0, "kld_p001": 0.001, "kld_p01": 0.01, "kld_p05": 0.05, "kld_p10": 0.1, "kld_median": 0.5,
    "kld_p90": 0.9, "kld_p95": 0.95, "kld_p99": 0.99, "kld_p999": 0.999, "kld_max": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class DivergenceNotes(EvalNotes):
    """What is known of a file's divergence; `sample_bytes` of the text were evaluated, 0 and missing for all of it."""

    sample_bytes: int = 0

    def to_notes(self) -> dict[str, Json]:
        """What is there of it."""
        return {key: value for key, value in super().to_notes().items() if key != "sample_bytes" or value}


@dataclass(frozen=True)
class Comparison:
    """How files are compared with the base.

    Args:
        scratch_limit: bytes of disk that base logits may take at any moment.
        strategy: one of `strategy.STRATEGIES`, None to choose.
        at_once: the most files to evaluate beside the base, None for as many as memory holds.
    """

    scratch_limit: int
    strategy: str | None = None
    at_once: int | None = None


def result_path(gguf: GgufFile, session: Session) -> Path:
    """The file that holds a GGUF's KL divergence."""
    return session.workspace.measurements / f"{gguf.path.stem}.divergence.json"


def recipe(gguf: GgufFile, base: GgufFile, corpus: Corpus, options: EvalOptions, session: Session) -> Recipe:
    """What decides a file's KL divergence."""
    inputs = {"gguf": str(gguf.sha256), "base": str(base.sha256), "corpus": corpus.sha256}
    return Recipe(STEP, VERSION, inputs, options.params(session), session.tools.identity)


def measure_all(
    base: GgufFile,
    files: Sequence[GgufFile],
    corpus: Corpus,
    options: EvalOptions,
    comparison: Comparison,
    session: Session,
) -> list[Result]:
    """Measure the base's perplexity and each file's divergence from it, unless that is done already.

    Returns:
        One result for the base, then one for each file: files of measurements.

    Raises:
        InputError: a file has another vocabulary than the base.
        CorpusError: the text has fewer than two chunks.
        ToolError: a tool failed, died, or gave no finite statistics.
        ResourceError: not even the fewest chunks fit the scratch limit.
    """
    _require_one_vocabulary(base, files)
    if options.n_chunks is not None and scored(options.n_ctx, options.n_chunks) < FEWEST_VALUES:
        session.reporter.warn(
            f"{options.n_chunks} chunks of {options.n_ctx} tokens are too few for KL divergence: "
            "only perplexity is measured."
        )
        return perplexity.measure_all((base, *files), corpus, options, session)
    work = _Work(base, tuple(files), corpus, corpus, options, comparison, session).fitted()
    stale = work.stale()
    if stale and options.precision:
        work.run_precisely(stale)
    elif stale:
        work.run(stale)
    return work.collect()


def _require_one_vocabulary(base: GgufFile, files: Sequence[GgufFile]) -> None:
    """Their predictions are compared token by token; llama-perplexity aborts where there are more or fewer."""
    wanted = memory.n_vocab(read_header(base.path))
    for file in files:
        found = memory.n_vocab(read_header(file.path))
        if found != wanted:
            message = f"{file.path} has {found} tokens, its base {base.path} has {wanted}."
            raise InputError(message, hint="Give with --base the file that it was made from.")


def at_once(
    base: GgufFile, n_files: int, corpus: Corpus, options: EvalOptions, how: Comparison, session: Session
) -> int:
    """How many files at least will share one base pass, whatever their sizes: all, or so many."""
    work = _Work(base, (base,) * n_files, corpus, corpus, options, how, session)
    chosen = work._route(work.files, options.n_chunks)
    return chosen.at_once if chosen.strategy in (strategy.PIPE, strategy.FAN_OUT) else n_files


@dataclass(frozen=True)
class _Work:
    """One base, the files to compare with it, and how. `text` is evaluated: the corpus, or a sample of it."""

    base: GgufFile
    files: tuple[GgufFile, ...]
    corpus: Corpus
    text: Corpus
    options: EvalOptions
    comparison: Comparison
    session: Session
    sample_bytes: int = 0
    results: dict[Path, Result] = field(default_factory=dict)

    def fitted(self) -> _Work:
        """The same with as many chunks as can be evaluated: fewer only where there are no named pipes."""
        chosen, n_ctx = self._route(self.files, self.options.n_chunks), self.options.n_ctx
        if chosen.strategy != strategy.FEWER:
            return self
        if scored(n_ctx, chosen.n_chunks) < FEWEST_VALUES:
            hint = "Give a larger --scratch-limit, free some disk, or measure perplexity alone with --no-kld."
            raise ResourceError(f"Base logits do not fit: {chosen.why}.", hint=hint)
        self.session.reporter.warn(f"Only {chosen.n_chunks} chunks are evaluated: {chosen.why}.")
        return replace(self, options=replace(self.options, n_chunks=chosen.n_chunks))

    def _recipe(self, file: GgufFile) -> Recipe:
        return recipe(file, self.base, self.corpus, self.options, self.session)

    def stale(self) -> list[GgufFile]:
        """The files that must be measured (again)."""
        if self.session.force:
            return list(self.files)
        return [f for f in self.files if staleness(self._recipe(f), result_path(f, self.session)) is not None]

    def run(self, stale: Sequence[GgufFile]) -> None:
        """Measure files and publish each as soon as it is done."""
        self._evaluate(stale, self.options.n_chunks, self._publish, self._publish_base)

    def run_precisely(self, stale: Sequence[GgufFile]) -> None:
        """Measure a small sample of the text, tell from it what is enough for all files, measure exactly that.

        All files get the same sample, or they could not be compared with each other. Files that were measured
        before set the first one, and are measured again only when a new file needs more.
        """
        before = [size for f in self.files if f not in stale if (size := self._sample_bytes(f))]
        n_bytes, todo = max(before, default=PILOT * self.options.n_ctx * _GUESSED_TOKEN), list(stale)
        while True:
            work = replace(self, text=self._sample(n_bytes), sample_bytes=n_bytes)
            done: list[tuple[GgufFile, FilePass]] = []
            bases: list[BasePass] = []
            work._evaluate(todo, self.options.n_chunks, lambda *one: done.append(one), bases.append)  # noqa: B023
            more = work._more_needed([one.result for _, one in done])
            if more is None:
                break
            n_bytes, todo = more, list(self.files)
        for file, one in done:
            work._publish(file, one)
        if bases:
            work._publish_base(bases[-1])

    def _more_needed(self, results: Sequence[Divergence]) -> int | None:
        """Bytes of text to evaluate instead of these; None when they are enough, or are all there are."""
        precision, n = self.options.precision or 0.0, results[0].n_chunks
        needed = chunks_needed(results, precision)
        if needed <= n:
            return None
        if self.text is self.corpus or n == self.options.n_chunks:
            self.session.reporter.warn(f"All {n} chunks do not reach a precision of {precision:.2%}.")
            return None
        self.session.reporter.info(f"A precision of {precision:.2%} takes about {needed} chunks, not {n}.")
        return int(needed * self.text.n_bytes / n)

    def _sample(self, n_bytes: int) -> Corpus:
        """So many bytes from all over the corpus; the corpus itself when that is most of it."""
        if n_bytes > _MOST * self.corpus.n_bytes:
            return self.corpus
        self.session.workspace.private.mkdir(parents=True, exist_ok=True)
        return sample.spread(self.corpus, n_bytes, self.session.workspace.private / "sample.txt")

    def _sample_bytes(self, file: GgufFile) -> int:
        """The size of the sample that a file was measured on, 0 if it was not."""
        made = read_manifest(result_path(file, self.session))
        return DivergenceNotes.from_manifest(made).sample_bytes if made is not None else 0

    def collect(self) -> list[Result]:
        """Every result, the base's first. A base that was measured by no pass of this command is measured now."""
        base = self.results.get(self.base.path) or self._measure_base()
        return [base, *(self.results.get(f.path) or self._keep(f) for f in self.files)]

    def _measure_base(self) -> Result:
        size = max((self._sample_bytes(f) for f in self.files), default=0) if self.options.precision else 0
        text = self._sample(size) if size else self.corpus
        session = replace(self.session, force=self.session.force and not self.results)
        return perplexity.measure(self.base, self.corpus, self.options, session, text)

    def _evaluate(self, todo: Sequence[GgufFile], n_chunks: int | None, on_file: OnFile, on_base: OnBase) -> None:
        chosen = self._route(todo, n_chunks)
        self.session.reporter.info(f"KL divergence by {chosen.strategy}: {chosen.why}.")
        done: set[Path] = set()

        def note(file: GgufFile, one: FilePass) -> None:
            on_file(file, one)
            done.add(file.path)

        def run(ngl: int | None) -> None:
            self._pass(chosen, [f for f in todo if f.path not in done], ngl, n_chunks, note, on_base)

        if chosen.at_once > 1:
            try:
                run(self.options.ngl)
                return
            except DeviceMemoryError as error:
                self.session.reporter.warn(f"{error.message} One file at a time is evaluated beside the base.")
                offload.keep_log(error, "together")
                chosen = replace(chosen, strategy=strategy.PIPE, at_once=1)
        offload.with_fewer(run, self.options.ngl, self.base, self.session)

    def _pass(
        self,
        chosen: Route,
        todo: Sequence[GgufFile],
        ngl: int | None,
        n_chunks: int | None,
        on_file: OnFile,
        on_base: OnBase,
    ) -> None:
        """Evaluate by one strategy; statistics that the tool lost are measured again."""
        run = passes.by_pipes if chosen.strategy in (strategy.PIPE, strategy.FAN_OUT) else passes.by_file
        how, left, calm = replace(self.options, n_chunks=n_chunks, ngl=ngl), list(todo), False
        for _ in range(perplexity.ATTEMPTS):
            lost, started = [], time.monotonic()
            for group in _groups(left, chosen):
                lost += run(self.base, group, self.text, how, self.session, on_file, on_base, calm=calm)
            if not lost:
                return
            calm, left = perplexity.calm(time.monotonic() - started, self.session), lost
            self.session.reporter.info(f"The statistics of {_names(left)} were lost. Trying once more.")
        raise ToolOutputError(
            f"llama-perplexity gave no KL divergence statistics for {_names(left)}.",
            hint="Repeat the command on a quieter machine; what was finished is kept.",
            log=self.session.workspace.log(f"divergence-{left[0].path.stem}"),
        )

    def _route(self, todo: Sequence[GgufFile], n_chunks: int | None) -> Route:
        header, scratch, n_ctx = read_header(self.base.path), self.session.workspace.scratch, self.options.n_ctx
        fixed, per_chunk = memory.base_logits(header, n_ctx)
        possible = self.text.n_bytes // n_ctx + 1  # a token is a byte at least
        free = max(0, machine.free_disk(scratch) - _DISK_RESERVE)
        need = Need(
            fixed, per_chunk, min(n_chunks or possible, possible), min(self.comparison.scratch_limit, free),
            perplexity.memory_needed(self.base, n_ctx), [perplexity.memory_needed(f, n_ctx) for f in todo],
            machine.free_memory(), pipes.supported(scratch),
            [gpu.memory_free for gpu in offload.gpus(self.session)], memory.ram_beside_gpu(header, n_ctx),
        )  # fmt: skip
        chosen = strategy.choose(need, self.comparison.strategy)
        return replace(chosen, at_once=min(chosen.at_once, self.comparison.at_once or chosen.at_once))

    def _keep(self, file: GgufFile) -> Result:
        return self.session.ensure(self._recipe(file), result_path(file, self.session), lambda _: Made())

    def _publish(self, file: GgufFile, done: FilePass) -> None:
        self.results[file.path] = self.session.ensure(
            self._recipe(file),
            result_path(file, self.session),
            lambda partial: self._write(partial, file, done),
            force=True,
            why=_ALONG,
        )

    def _write(self, partial: Path, file: GgufFile, done: FilePass) -> Made:
        d, base = done.result, str(self.base.sha256)
        offload.tell(file, logs.parse_placement(done.run), self.session)
        where = perplexity.conditions(done.run, self.session, self.text, d.n_ctx, d.n_chunks, base)
        save(partial, measured(str(file.sha256), _values(d, done.run.duration_s), where))
        notes = DivergenceNotes(round(done.run.duration_s, 3), self.corpus.name, self.sample_bytes)
        return Made([done.run], notes.to_notes())

    def _publish_base(self, done: BasePass) -> None:
        session, own = self.session, str(self.base.sha256)
        self.results[self.base.path] = session.ensure(
            perplexity.recipe(self.base, self.corpus, self.options, session),
            perplexity.result_path(self.base, session),
            lambda to: perplexity.write(to, self.base, done.run, done.estimate, self.text, session, own),
            force=True,
            why=_ALONG,
        )


def _groups(files: Sequence[GgufFile], chosen: Route) -> list[Sequence[GgufFile]]:
    """The files that share one base pass."""
    if chosen.strategy in (strategy.FILE, strategy.FEWER):
        return [files]
    return [files[i : i + chosen.at_once] for i in range(0, len(files), chosen.at_once)]


def _names(files: Sequence[GgufFile]) -> str:
    return ", ".join(file.path.name for file in files)


def _values(d: Divergence, seconds: float) -> dict[str, Value]:
    """The measurements of a pass, by metric name."""
    values: dict[str, Value] = {
        "ppl": _known(d.ppl),
        "ppl_base": (d.ppl_base[0], None),
        "ln_ppl_ratio": _known(d.ln_ppl_ratio),
        "kld_mean": _known(d.kld),
        "same_top_p": _known(d.same_top_p),
        "rms_dp": _known(d.rms_dp),
        "eval_tps": (d.n_chunks * d.n_ctx / seconds, None),
    }
    return values | {name: (d.kld_percentiles[p], None) for name, p in _PERCENTILES.items()}


def _known(value: tuple[float, float]) -> Value:
    """A value whose error may not be a number: the tool prints 0/0 for a file that equals its base."""
    return value[0], value[1] if math.isfinite(value[1]) else None
