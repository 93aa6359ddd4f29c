"""Step: how far files are from their base, by llama-perplexity's KL divergence.

One base pass gives the base's perplexity and its predictions; one pass for each file compares with them and
gives that file's perplexity, too. The predictions travel by a temporary file or by named pipes, see
`logits.strategy`; the statistics are the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.errors import InputError, ResourceError
from ggufkit.core.inputs import unchanged
from ggufkit.core.manifest import read_manifest
from ggufkit.core.records import F16, GgufFile, Json
from ggufkit.llama import logs, memory, scoring_tool
from ggufkit.llama.gguf import read_header
from ggufkit.llama.kld import FEWEST_VALUES, Divergence, scored
from ggufkit.measure import paired, perplexity, shares, token_scores
from ggufkit.measure.evaluation import EvalNotes, Evaluation
from ggufkit.measure.logits import sample, strategy
from ggufkit.measure.logits.evaluate import evaluate, strategy_for
from ggufkit.measure.logits.passes import BasePass, FilePass, Pass
from ggufkit.measure.logits.precision import PILOT, chunks_needed
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.measurements import Figure, measured, next_number, place, save
from ggufkit.measure.paired import Scores, Tokens
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, staleness

STEP, VERSION = "divergence", 1
Run = tuple[Path, str]
"""A file as it is run: see `GgufFile.run`."""
_ALONG = "measured along with the others"
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


def result_path(gguf: GgufFile, session: Session) -> Path:
    """The file that holds a GGUF's KL divergence."""
    return place(gguf, STEP, session.workspace)


def recipe(gguf: GgufFile, base: GgufFile, evaluation: Evaluation) -> Recipe:
    """What decides a file's KL divergence."""
    inputs = {"gguf": str(gguf.sha256), "base": str(base.sha256), "corpus": evaluation.corpus.sha256}
    reads = (gguf.as_input(), base.as_input(), evaluation.corpus.as_input())
    return Recipe(STEP, VERSION, inputs, evaluation.params(gguf), evaluation.session.tools.identity, reads)


def measure_all(
    base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, transport: Transport
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
    if evaluation.kept is not None:
        evaluation.kept.make_room(str(base.sha256))
    options = evaluation.options
    if options.n_chunks is not None and scored(options.n_ctx, options.n_chunks) < FEWEST_VALUES:
        evaluation.session.reporter.warn(
            f"{options.n_chunks} chunks of {options.n_ctx} tokens are too few for KL divergence: "
            "only perplexity is measured."
        )
        return perplexity.measure_all((base, *files), evaluation)
    work = _Work(base, tuple(files), _fitted(base, files, evaluation, transport), transport)
    stale = work.stale()
    if stale or work.is_ahead():
        return work.results(work.keeping_scores().measure(stale))
    return work.results({})


def _require_one_vocabulary(base: GgufFile, files: Sequence[GgufFile]) -> None:
    """Their predictions are compared token by token; llama-perplexity aborts where there are more or fewer."""
    wanted = memory.n_vocab(read_header(base.path))
    for file in files:
        found = memory.n_vocab(read_header(file.path))
        if found != wanted:
            message = f"{file.path} has {found} tokens, its base {base.path} has {wanted}."
            raise InputError(message, hint="Give with --base the file that it was made from.")


def at_once(base: GgufFile, n_files: int, evaluation: Evaluation, transport: Transport) -> int:
    """How many files at least will share one base pass, whatever their sizes: all, or so many."""
    chosen = strategy_for(base, (base,) * n_files, evaluation, transport)
    return chosen.at_once if chosen.by_pipes else n_files


def _fitted(base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation, transport: Transport) -> Evaluation:
    """The evaluation with as many chunks as are possible: fewer only where there are no named pipes."""
    chosen = strategy_for(base, files, evaluation, transport)
    if chosen.name != strategy.FEWER:
        return evaluation
    if scored(evaluation.options.n_ctx, chosen.n_chunks) < FEWEST_VALUES:
        hint = "Give a larger --scratch-limit, free some disk, or measure perplexity alone with --no-kld."
        raise ResourceError(f"Base logits do not fit: {chosen.why}.", hint=hint)
    evaluation.session.reporter.warn(f"Only {chosen.n_chunks} chunks are evaluated: {chosen.why}.")
    return evaluation.with_chunks(chosen.n_chunks)


@dataclass(frozen=True)
class _Work:
    """One base, the files to compare with it, and how."""

    base: GgufFile
    files: tuple[GgufFile, ...]
    evaluation: Evaluation
    transport: Transport

    @property
    def session(self) -> Session:
        return self.evaluation.session

    def stale(self) -> list[GgufFile]:
        """The files that must be measured (again)."""
        if self.session.force:
            return list(self.files)
        return [f for f in self.files if staleness(self._recipe(f), result_path(f, self.session)) is not None]

    def is_ahead(self) -> bool:
        """Whether the base is evaluated for files that come later, and its logits are kept for them."""
        evaluation = self.evaluation
        if self.files or evaluation.kept is None or evaluation.options.precision:
            return False
        path = perplexity.result_path(self.base, self.session)
        return self.session.force or staleness(perplexity.recipe(self.base, evaluation), path) is not None

    def measure(self, stale: Sequence[GgufFile]) -> dict[Run, Result]:
        """Measure files, and their base along with them; each is published as soon as it is done."""
        chosen = strategy_for(self.base, stale, self.evaluation, self.transport)
        n_ctx, at_once = self.evaluation.options.n_ctx, 2 if chosen.by_pipes else 1
        shares.require_memory(self.base, n_ctx, self.session, at_once=at_once)
        reads = dict.fromkeys(one for file in stale for one in self._recipe(file).reads)
        with unchanged(list(reads)) as require:
            if self.evaluation.options.precision:
                return self._publish_all(*self._evaluate_precisely(stale), require)
            with contextlib.closing(evaluate(self.base, stale, self.evaluation, self.transport)) as found:
                return self._publish_all(self.evaluation, found, require)

    def keeping_scores(self) -> _Work:
        """The same by a program that writes what each token gave, where there can be one."""
        scorer = scoring_tool.find(self.session.tools, self.session.reporter)
        return replace(self, evaluation=replace(self.evaluation, scorer=scorer))

    def results(self, done: Mapping[Run, Result]) -> list[Result]:
        """Every result, the base's first. A base that was measured by no pass of this command is measured now.

        Args:
            done: what was measured now.
        """
        base = done.get(self.base.run) or self._measure_base(again=self.session.force and not done)
        return [base, *(done.get(f.run) or self._keep(f) for f in self.files)]

    def _recipe(self, file: GgufFile) -> Recipe:
        return recipe(file, self.base, self.evaluation)

    def _evaluate_precisely(self, stale: Sequence[GgufFile]) -> tuple[Evaluation, list[Pass]]:
        """Measure a small sample of the text, tell from it what is enough for all files, measure exactly that.

        All files get the same sample, or they could not be compared with each other. Files that were measured
        before set the first one, and are measured again only when a new file needs more.
        """
        options = self.evaluation.options
        before = [size for f in self.files if f not in stale if (size := self._sample_bytes(f))]
        n_bytes, todo = max(before, default=PILOT * options.n_ctx * _GUESSED_TOKEN), list(stale)
        while True:
            evaluation = self._sampled(n_bytes)
            found = list(evaluate(self.base, todo, evaluation, self.transport))
            of_files = [one for one in found if isinstance(one, FilePass) and self._decides(one.file)]
            more = _more_needed([one.result for one in of_files], evaluation) if of_files else None
            if more is None:
                return evaluation, found
            n_bytes, todo = more, list(self.files)

    def _decides(self, file: GgufFile) -> bool:
        """Whether a file has a say in how much is enough: a cache loses so little that a part of it takes too long."""
        return file.kv_type == F16 or all(f.kv_type != F16 for f in self.files)

    def _sampled(self, n_bytes: int) -> Evaluation:
        """The evaluation of so many bytes from all over the corpus; of the corpus itself when that is most of it."""
        corpus, private = self.evaluation.corpus, self.session.workspace.private
        if n_bytes > _MOST * corpus.n_bytes:
            return replace(self.evaluation, sample=corpus, sample_bytes=n_bytes)
        private.mkdir(parents=True, exist_ok=True)
        text = sample.spread(corpus, n_bytes, private / "sample.txt")
        return replace(self.evaluation, sample=text, sample_bytes=n_bytes)

    def _sample_bytes(self, file: GgufFile) -> int:
        """The size of the sample that a file was measured on, 0 if it was not."""
        made = read_manifest(result_path(file, self.session))
        return DivergenceNotes.from_manifest(made).sample_bytes if made is not None else 0

    def _measure_base(self, *, again: bool) -> Result:
        size = max(map(self._sample_bytes, self.files), default=0) if self.evaluation.options.precision else 0
        evaluation = self._sampled(size) if size else self.evaluation
        return perplexity.measure(self.base, replace(evaluation, session=replace(self.session, force=again)))

    def _keep(self, file: GgufFile) -> Result:
        return self.session.ensure(self._recipe(file), result_path(file, self.session), lambda _: Made())

    def _publish_all(
        self, evaluation: Evaluation, found: Iterable[Pass], require: Callable[[], None]
    ) -> dict[Run, Result]:
        done = dict[Run, Result]()
        for one in found:
            require()
            done[one.file.run] = self._publish(one, evaluation)
        return done

    def _publish(self, one: Pass, evaluation: Evaluation) -> Result:
        if isinstance(one, BasePass):
            return self._publish_base(one, evaluation)
        path = result_path(one.file, self.session)

        def write(partial: Path) -> Made:
            return _write(partial, one, self.base, evaluation)

        return self.session.ensure(self._recipe(one.file), path, write, force=True, why=_ALONG)

    def _publish_base(self, one: BasePass, evaluation: Evaluation) -> Result:
        path, own = perplexity.result_path(self.base, self.session), str(self.base.sha256)

        def write(partial: Path) -> Made:
            return perplexity.write(partial, self.base, one.run, one.estimate, evaluation, own)

        again = evaluation.kept is None  # else another evaluation of the same files may have told it already
        return self.session.ensure(
            perplexity.recipe(self.base, self.evaluation), path, write, force=again, why=_ALONG
        )


def _more_needed(results: Sequence[Divergence], evaluation: Evaluation) -> int | None:
    """Bytes of text to evaluate instead of these; None when they are enough, or are all there are."""
    options, reporter, n = evaluation.options, evaluation.session.reporter, results[0].n_chunks
    precision = options.precision or 0.0
    needed = chunks_needed(results, precision)
    if needed <= n:
        return None
    if evaluation.text is evaluation.corpus or n == options.n_chunks:
        reporter.warn(f"All {n} chunks do not reach a precision of {precision:.2%}.")
        return None
    reporter.info(f"A precision of {precision:.2%} takes about {needed} chunks, not {n}.")
    return int(needed * evaluation.text.n_bytes / n)


def _write(partial: Path, one: FilePass, base: GgufFile, evaluation: Evaluation) -> Made:
    offload.tell(one.file, logs.parse_placement(one.run), evaluation.session)
    where = evaluation.conditions(one.run, one.result.n_ctx, one.result.n_chunks, str(base.sha256))
    where = replace(where, kv_type=one.file.kv_type)
    kept = token_scores.path_of(result_path(one.file, evaluation.session))
    token_scores.save(kept, str(one.file.sha256), _scores(one, token_scores.tokens_of(where)))
    save(partial, measured(str(one.file.sha256), values_of(one.result, one.run.duration_s), where))
    number = next_number(result_path(one.file, evaluation.session))
    notes = DivergenceNotes(
        round(one.run.duration_s, 3), evaluation.corpus.name, evaluation.sample_bytes, number=number
    )
    return Made([one.run], notes.to_notes())


def _scores(one: FilePass, tokens: Tokens) -> Scores:
    """What each token gave; what each chunk did, to the digits that are printed, where the tool writes no more."""
    if one.scores is None:
        return paired.from_rows(one.result.rows, tokens)
    return Scores(tokens, one.scores.kld.astype(float), one.scores.ln_ratio.astype(float))


def values_of(d: Divergence, seconds: float) -> dict[str, Figure]:
    """The measurements of a comparison that took so many seconds, by metric name."""
    values: dict[str, Figure] = {
        "ppl": _known(d.ppl),
        "ppl_base": (d.ppl_base[0], None),
        "ln_ppl_ratio": _known(d.ln_ppl_ratio),
        "kld_mean": _known(d.kld),
        "same_top_p": _known(d.same_top_p),
        "rms_dp": _known(d.rms_dp),
        "eval_tps": (d.n_chunks * d.n_ctx / seconds, None),
    }
    return values | {name: (d.kld_percentiles[p], None) for name, p in _PERCENTILES.items()}


def _known(value: tuple[float, float]) -> Figure:
    """A value whose error may not be a number: the tool prints 0/0 for a file that equals its base."""
    return value[0], value[1] if math.isfinite(value[1]) else None
