"""What some types of a base's tensors lose on a text: each combination is measured once, and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ggufkit.core.errors import CorpusError
from ggufkit.core.manifest import write_atomically
from ggufkit.core.progress import Progress, Reporter, SilentReporter
from ggufkit.core.records import GgufFile
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits.evaluate import evaluate
from ggufkit.measure.logits.passes import FilePass
from ggufkit.measure.logits.strategy import Transport
from ggufkit.recipes.probes import ProbeKit, probe_name
from ggufkit.recipes.sensitivity import Types
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts.corpus import Corpus

_SCRATCH_BYTES = 8 << 30


@dataclass(frozen=True)
class Found:
    """A measured mean KL divergence and its standard error, in nats, and the seconds of the pass."""

    kld: float
    stderr: float
    seconds: float


class Probing:
    """Measures combinations of types on a text, and keeps what it found beside the probes.

    Args:
        base: what is compared with.
        n_chunks: of `n_ctx` tokens from the start of each text.
        session: whose private directory holds logs and logits.
    """

    def __init__(self, base: GgufFile, kit: ProbeKit, n_ctx: int, n_chunks: int, session: Session) -> None:
        self.base, self.kit = base, kit
        self._options = EvalOptions(n_ctx, n_chunks)
        self._session = session
        self.n_measured = 0
        """Evaluations that this command has made."""

    def measure(self, combinations: Sequence[Types], text: Corpus, doing: str) -> list[Found]:
        """What each combination loses on a text, in their order.

        Args:
            doing: what it is for, as the beginning of a sentence.

        Raises:
            CorpusError: the text has fewer than two chunks.
            ToolError: llama-perplexity failed, or gave no finite statistics.
        """
        wanted = {probe_name(types): types for types in combinations}
        todo = {name: types for name, types in wanted.items() if self._kept(name, text) is None}
        if todo:
            try:
                with self._session.reporter.step(doing) as progress:
                    self._measure(todo, text, progress)
            except CorpusError as error:
                error.hint = "Give a longer text with --calibration."
                raise
        return [self._known(probe_name(types), text) for types in combinations]

    def _measure(self, todo: dict[str, Types], text: Corpus, progress: Progress) -> None:
        progress.update(0, len(todo), "evaluations")
        files = [self._file(types) for types in todo.values()]
        names = dict(zip((file.path for file in files), todo, strict=True))
        evaluation = Evaluation(text, self._options, self._quiet())
        done = 0
        for one in evaluate(self.base, files, evaluation, Transport(_SCRATCH_BYTES)):
            if isinstance(one, FilePass):
                self._keep(names[one.file.path], text, Found(*one.result.kld, round(one.run.duration_s, 3)))
                done += 1
                self.n_measured += 1
                progress.update(done, len(todo), "evaluations")

    def _file(self, types: Types) -> GgufFile:
        path = self.kit.probe(types)
        return GgufFile(path, self.kit.n_bytes(path), self.base.architecture, "", self.base.n_params, 0, {})

    def _quiet(self) -> Session:
        """The session of the tools: warnings are heard, single passes are not; logs stay out of sight."""
        heard = _Warnings(self._session.reporter)
        return replace(self._session, reporter=heard, workspace=Workspace(self.kit.directory))

    def _place(self, name: str, text: Corpus) -> Path:
        how = f"{text.sha256[:12]}-{self._options.n_ctx}x{self._options.n_chunks}-{self._session.tools.backend}"
        return self.kit.directory / "evaluations" / f"{name}-{how}.json"

    def _kept(self, name: str, text: Corpus) -> Found | None:
        try:
            return Found(**json.loads(self._place(name, text).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _known(self, name: str, text: Corpus) -> Found:
        found = self._kept(name, text)
        if found is None:
            raise AssertionError("unreachable")
        return found

    def _keep(self, name: str, text: Corpus, found: Found) -> None:
        path = self._place(name, text)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(found)))


class _Warnings(SilentReporter):
    """Passes warnings on, once each."""

    def __init__(self, to: Reporter) -> None:
        super().__init__()
        self._to = to

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            super().warn(text)
            self._to.warn(text)
