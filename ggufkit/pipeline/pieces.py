"""The work of a build in pieces: what is yet to be made, and what its time is told from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2
from pathlib import Path

from ggufkit.core import variants
from ggufkit.core.concurrency import makers_at_once
from ggufkit.core.durations import Work
from ggufkit.core.errors import GgufkitError
from ggufkit.core.methods import AWQ
from ggufkit.core.part_names import stem_of
from ggufkit.core.records import F16, Checkpoint, GgufFile, QuantType
from ggufkit.core.variants import Scaling, Variant
from ggufkit.llama import evaluates, memory, quants
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.measure import bench, plugged, similarity
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.chat import SMOKE_TOKENS
from ggufkit.measure.conditions import Setting
from ggufkit.measure.logits.precision import PILOT
from ggufkit.measure.measurements import place_of
from ggufkit.measure.tasks import answers
from ggufkit.models.checkpoint import read_config
from ggufkit.pipeline.foreseen import is_measured
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.pace import Cost
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.steps import quantize

BYTES_PER_TOKEN_OF_VOCABULARY = 0.257
"""Bytes of English that a token takes, for each bit of a number of the vocabulary: 3.85 with 32,000 tokens, 4.4 with
152,000, on WikiText-2."""
_USUAL_VOCABULARY, _SAMPLE_TOKENS = 128_000, 512
TABLE = "results.csv"
"""Stands for all that a report is."""
_PRECISION_OF_PILOT = 0.05
"""What the first chunks usually give."""
_USUAL_QUESTIONS, _QUESTION_BYTES, _TOKENS_PER_BYTE = 2000, 500, 0.25
"""Of a task, and of a question with all its answers."""
_PROBED_TOKENS, _SOLVING_TOKENS = 300_000, 20_000
"""Tokens whose passes cost as much as measuring for a recipe, and as rounding column by column, on a small model."""


@dataclass(frozen=True)
class Piece:
    """Something that is yet to be made.

    Args:
        stage: the step of the plan that it belongs to.
        output: the result that ends it.
        work: what it takes, while `at_once` of them are made at once.
        cost: what that comes to, for a guess where no like work was done here.
    """

    stage: str
    output: Path
    work: Work
    cost: Cost
    at_once: int = 1


def pieces(job: Job) -> list[Piece]:
    """All that a build has yet to make, in its order."""
    return [p for p in _Pieces(job).all() if job.session.force or not p.output.exists()]


@dataclass(frozen=True)
class _Pieces:
    job: Job

    def all(self) -> Iterator[Piece]:
        """Made already or not; each once."""
        yield from self._bases()
        yield from dict.fromkeys(piece for target in self.job.targets for piece in self._made(*target))
        yield from self._measured()
        report = self.job.session.work("report", 1 + len(self.job.targets))
        yield Piece("report", self.job.out / TABLE, report, Cost(2))

    @property
    def _n_params(self) -> int:
        return self.job.model.n_params

    @property
    def _tokens(self) -> int:
        """Of calibration."""
        return _SAMPLE_TOKENS * self.job.request.calibration.samples

    def _bases(self) -> Iterator[Piece]:
        job = self.job
        if isinstance(job.model, GgufFile):
            size = job.model.size_bytes
            yield Piece("convert", job.base_output, job.session.work("import", size), Cost(0.5, n_bytes=4 * size))
            return
        convert, cost = job.session.work("convert", self._n_params), Cost(5, n_bytes=40 * self._n_params)
        yield Piece("convert", job.base_output, convert, cost)
        if job.part is not None:
            yield Piece("mmproj", job.part.output, job.session.work("mmproj", self._n_params), Cost(8))
        search = job.session.work("awq", self._n_params * self._tokens, job.request.scaling.engine)
        for scaling in job.scalings:
            if scaling.method != AWQ.name:
                step, change = (
                    f"method {scaling.method}",
                    job.session.work("method", self._n_params, scaling.method),
                )
                yield Piece(step, job.scaled_checkpoint(scaling), change, cost)
                yield Piece(step, job.scaled_base_output(scaling), convert, cost)
                continue
            grid = Cost(8, self._operations(4 * self._tokens), weights=10 * self._n_params, type="Q4_K")
            yield Piece("awq", job.scaled_checkpoint(scaling), search, grid)
            yield Piece("awq", job.scaled_base_output(scaling), convert, cost)

    def _operations(self, n_tokens: int) -> float:
        """Of so many tokens on their way through the model."""
        return 2.0 * self._n_params * n_tokens

    def _made(self, variant: Variant, kind: QuantType) -> Iterator[Piece]:
        """A file, and what it needs besides a base."""
        job, scaling, output = self.job, self.job.scaling_of(variant, kind), self.job.output(variant, kind.name)
        if scaling is not None and job.scaled_base_output(scaling) == output:
            return
        if (is_measured(kind) or (variant.imatrix and not quants.is_float(kind.name))) and self._computes(scaling):
            work = job.session.work("imatrix", self._n_params * self._tokens)
            yield Piece("imatrix", job.matrix_output(scaling), work, Cost(1, self._operations(self._tokens)))
        rounded = output
        if variant.after is not None:
            plainer = variants.unrefined(variant)
            shown = (plainer, kind) in job.targets and not (is_measured(kind) and variant.refined)
            name = variants.file_name(job.name, plainer, kind.name)
            rounded = job.output(plainer, kind.name) if shown else job.session.workspace.private / name
        if is_measured(kind):
            choose = job.session.work("choose", self._n_params, job.request.recipes.effort)
            yield Piece("choose", recipe_path(rounded), choose, Cost(10, self._operations(_PROBED_TOKENS)))
        how = quantize.work_of(self._n_params, kind, job.session, weighed=variant.imatrix)
        rounding = Cost(0.5, 0, 4 * self._n_params, self._n_params, quants.main_tensor_type(kind.name))
        yield Piece("quantize", rounded, how, rounding, makers_at_once(job.session.threads))
        if variant.refined:
            cost = Cost(3, self._operations(4 * self._tokens + _SOLVING_TOKENS))
            yield Piece("refine", output, job.session.work("refine", self._n_params * self._tokens), cost)
        elif variant.after is not None:
            change = job.session.work("method", self._n_params, variant.after.name)
            yield Piece(f"method {variant.after.name}", output, change, Cost(1, n_bytes=self._n_params))

    def _computes(self, scaling: Scaling | None) -> bool:
        return scaling is not None or self.job.request.calibration.imatrix is None

    def _measured(self) -> Iterator[Piece]:
        job, base = self.job, _header(self.job)
        files = [job.base_output, *(job.output(v, t.name) for v, t in job.targets)]
        where, measured = job.session.workspace.measurements, job.request.evaluation
        yield from self._compared(files, embeds=base is not None and evaluates.embeds(base))
        if measured.smoke and (base is None or evaluates.generates(base)):
            work, cost = job.session.work("speak", self._n_params), Cost(2.5, 0, 2 * SMOKE_TOKENS * self._n_params)
            yield from (Piece("speak", where / f"{stem_of(file)}.speak.json", work, cost) for file in files)
        if base is None or evaluates.generates(base):
            yield from self._asked(files)
        for name in measured.metrics:
            work, cost = job.session.work("metric", self._n_params, name), Cost(1, n_bytes=4 * self._n_params)
            measurements = [where / f"{stem_of(file)}.{plugged.KIND}{name}.json" for file in files]
            yield from (Piece(f"metric {name}", file, work, cost) for file in measurements)
        if measured.bench:
            yield from self._timed(files, deep=base is None or evaluates.generates(base))

    def _compared(self, files: Sequence[Path], *, embeds: bool) -> Iterator[Piece]:
        """Quality, in each setting with each KV cache; of embeddings in one."""
        job, how = self.job, similarity.STEP if embeds else evaluated(self.job)
        for setting in job.settings[:1] if embeds else job.settings:
            n_tokens, workspace = self._n_evaluated(setting), setting.session(job.session).workspace
            work = job.session.work("evaluate", self._n_params * n_tokens, how)
            cost = Cost(1, self._operations(n_tokens))
            runs = [] if embeds else [(path, kind) for kind in setting.kv_types if kind != F16 for path in files]
            for path, kv_type in [*((path, F16) for path in files[1 if embeds else 0 :]), *runs]:
                is_base = how == "divergence" and (path, kv_type) == (job.base_output, F16)
                output = place_of(path, kv_type, "perplexity" if is_base else how, workspace)
                yield Piece("evaluate", output, work, cost)

    def _timed(self, files: Sequence[Path], *, deep: bool) -> Iterator[Piece]:
        """Speed, and that behind the tokens of each context with each KV cache."""
        job, how, timed = self.job, self.job.request.evaluation, BenchOptions()
        runs = how.bench_reps + 1
        caches = dict.fromkeys([F16, *how.kv_types])
        for depth, kv_type in [(0, F16), *((depth, kind) for depth in how.depths if deep for kind in caches)]:
            work = job.session.work("bench", self._n_params * runs, bench.how(kv_type, depth))
            n_read = runs * timed.n_prompt + depth
            cost = Cost(0.5, self._operations(n_read), runs * timed.n_gen * self._n_params)
            workspace = replace(timed, depth=depth).at_depth(job.session).workspace
            yield from (
                Piece("bench", place_of(path, kv_type, bench.STEP, workspace), work, cost) for path in files
            )

    def _n_evaluated(self, setting: Setting) -> int:
        """Tokens of the text that are evaluated, as far as the size of the vocabulary tells."""
        precision = self.job.request.evaluation.precision
        possible = int(setting.text.n_bytes / (BYTES_PER_TOKEN_OF_VOCABULARY * self._bits_of_vocabulary))
        wanted = setting.n_chunks if setting.n_chunks is not None else possible
        if precision is not None:
            wanted = min(wanted, int(PILOT * (1 + (_PRECISION_OF_PILOT / precision) ** 2)))
        return min(setting.n_ctx * wanted, possible)

    def _asked(self, files: Sequence[Path]) -> Iterator[Piece]:
        """Answers of all files; how long questions are is only known where they are there."""
        job, session = self.job, self.job.session
        usual = (job.request.evaluation.tasks_samples or _USUAL_QUESTIONS) * _QUESTION_BYTES
        known = {data.name: sum(question.n_bytes for question in data.questions) for data in job.tasks}
        for one in job.task_specs:
            n_bytes = known.get(one.name, usual)
            work = session.work("tasks", self._n_params * n_bytes, one.name)
            cost = Cost(1, self._operations(int(n_bytes * _TOKENS_PER_BYTE)))
            outputs = [answers.result_path(file, one.name, session) for file in files]
            yield from (Piece("tasks", output, work, cost) for output in outputs)

    @cached_property
    def _bits_of_vocabulary(self) -> float:
        return log2(n_vocab(self.job))


def evaluated(job: Job) -> str:
    """What is measured of quality."""
    return "divergence" if job.request.evaluation.kld else "perplexity"


def _header(job: Job) -> GgufHeader | None:
    """Of the base, if there is one already."""
    if isinstance(job.model, GgufFile):
        return read_header(job.model.path)
    try:
        return read_header(job.base_output) if job.base_output.exists() else None
    except GgufkitError:  # it is made anew, or refused, where it is needed
        return None


def n_vocab(job: Job) -> int:
    if isinstance(job.model, Checkpoint):
        try:
            config = read_config(job.model.path)
        except GgufkitError:
            return _USUAL_VOCABULARY
        inner = config.get("text_config")
        given = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else None)
    else:
        given = memory.n_vocab(read_header(job.model.path))
    return given if isinstance(given, int) and given > 1 else _USUAL_VOCABULARY
