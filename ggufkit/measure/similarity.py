"""Step: how much the embeddings of a quantized file are those of its base, by llama-embedding."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.errors import CorpusError, ToolOutputError
from ggufkit.core.expected import timed
from ggufkit.core.manifest import Params
from ggufkit.core.part_names import stem_of
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.records import GgufFile
from ggufkit.llama import argv, embedding_tool, evaluates
from ggufkit.llama.argv import Compute
from ggufkit.llama.embeddings import ROOM, Vector, cosine, require_finite
from ggufkit.llama.gguf import read_header
from ggufkit.measure.evaluation import EvalNotes, EvalParams, Evaluation
from ggufkit.measure.measurements import Figure, measured, next_number, save
from ggufkit.steps import offload
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "similarity", 1
PASSAGES = 128
"""Passages of the text that are compared, unless the user asks for another number of chunks."""

_LONGEST, _SHORTEST = 400, 40  # bytes, which are tokens at most: an encoder cannot go beyond its context
_SPECIAL = 8


def measure_all(base: GgufFile, files: Sequence[GgufFile], evaluation: Evaluation) -> list[Result]:
    """Measure how similar the embeddings of files are to their base's unless that is done already.

    Raises:
        CorpusError: the text has too few passages.
        ToolchainError: there is no llama-embedding, and it cannot be compiled.
        GgufError: an embedding is not finite.
        ToolError: llama-embedding failed, or printed something else.
    """
    compared = _Compared(base, evaluation)
    return [_measure(gguf, compared) for gguf in files]


def passages(text: str, count: int, longest: int = _LONGEST) -> list[str]:
    """Lines from all over a text, as long as something is said in them, cut to `longest` bytes."""
    lines = [line for raw in text.splitlines() if len((line := " ".join(raw.split())).encode()) >= _SHORTEST]
    chosen = [lines[i * len(lines) // count] for i in range(count)] if len(lines) > count else lines
    return [line.encode()[:longest].decode(errors="ignore").rstrip() for line in chosen]


class _Compared:
    """What files are compared with: the base's embeddings, computed once and only when they are asked for."""

    def __init__(self, base: GgufFile, evaluation: Evaluation) -> None:
        self.base = base
        self.evaluation = evaluation
        header = read_header(base.path)
        self.longest = min(_LONGEST, max((header.hparam("context_length") or ROOM) - _SPECIAL, 1))
        self.pooling = None if evaluates.is_pooled(header) else "mean"

    @cached_property
    def texts(self) -> list[str]:
        """The passages."""
        corpus, count = self.evaluation.corpus, self.evaluation.options.n_chunks or PASSAGES
        found = passages(corpus.path.read_text(encoding="utf-8"), count, self.longest)
        if len(found) < 2:
            message = (
                f"{corpus.name} has fewer than two lines of {_SHORTEST} characters, whose embeddings are compared."
            )
            raise CorpusError(message, hint="Give a longer text with --corpus.")
        return found

    @cached_property
    def vectors(self) -> list[Vector]:
        """The base's embeddings."""
        return self.embed(self.base)[1]

    def embed(self, gguf: GgufFile) -> tuple[ToolOutput, list[Vector]]:
        """The embeddings of a file, one for each passage."""
        session = self.evaluation.session
        program = embedding_tool.find(session.tools, session.reporter)

        return offload.with_fewer(
            lambda ngl: require_finite(lambda: self._run(program, gguf, ngl), gguf.path.name),
            self.evaluation.options.ngl,
            gguf,
            session,
        )

    def _run(self, program: Path, gguf: GgufFile, ngl: int | None) -> ToolOutput:
        session = self.evaluation.session
        texts = session.workspace.scratch / f"{stem_of(gguf.path)}.passages.txt"
        texts.parent.mkdir(parents=True, exist_ok=True)
        texts.write_text("\n".join(self.texts), encoding="utf-8")
        compute = Compute(session.tools.backend, ngl, session.threads, ROOM, ROOM)
        command = argv.embedding(program, gguf.path, texts, compute, ROOM, pooling=self.pooling)
        try:
            work = session.work("embed", gguf.n_params * len(self.texts))
            with timed(session.reporter, f"Embeddings of {gguf.path.name}", work):
                where = Surroundings(offload.environment())
                run = process.run(
                    command, log=session.workspace.log(f"embed-{stem_of(gguf.path)}"), surroundings=where
                )
                failures.require_success(run, f"computing embeddings of {gguf.path.name}")
        finally:
            texts.unlink()
        return run


def _measure(gguf: GgufFile, compared: _Compared) -> Result:
    evaluation, base = compared.evaluation, compared.base
    session, corpus, how = evaluation.session, evaluation.corpus, evaluation.options
    params: Params = EvalParams(ROOM, how.n_chunks or PASSAGES, how.ngl, session.tools.backend)
    inputs = {"gguf": str(gguf.sha256), "base": str(base.sha256), "corpus": corpus.sha256}
    reads = (gguf.as_input(), base.as_input(), corpus.as_input())
    recipe = Recipe(STEP, VERSION, inputs, params.to_params(), session.tools.identity, reads)
    output = session.workspace.measurements / f"{stem_of(gguf.path)}.{STEP}.json"

    def make(partial: Path) -> Made:
        wanted = compared.vectors
        run, vectors = compared.embed(gguf)
        if not len(vectors) == len(wanted) == len(compared.texts):
            message = f"llama-embedding gave {len(vectors)} embeddings of {len(compared.texts)} texts."
            raise ToolOutputError(message, hint="See the log.", log=run.log)
        found = [cosine(one, other) for one, other in zip(vectors, wanted, strict=True)]
        error = statistics.stdev(found) / math.sqrt(len(found))
        values: dict[str, Figure] = {
            "cosine_mean": (statistics.fmean(found), error),
            "cosine_min": (min(found), None),
        }
        where = evaluation.conditions(run, ROOM, len(compared.texts), base.sha256)
        save(partial, measured(str(gguf.sha256), values, where))
        notes = EvalNotes(round(run.duration_s, 3), corpus.name, number=next_number(output))
        return Made([run], notes.to_notes())

    return session.ensure(recipe, output, make)
