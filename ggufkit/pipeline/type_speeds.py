"""How fast this machine generates with each type of tensors: llama-bench on a base of which all tensors have it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.manifest import write_atomically
from ggufkit.core.records import GgufFile, Tensor
from ggufkit.measure.bench import BenchOptions, speeds
from ggufkit.recipes import allowed
from ggufkit.recipes.probes import ProbeKit
from ggufkit.steps.session import Session

_TIMED = BenchOptions(n_prompt=0, n_gen=32, repetitions=3)
_ELSE = "Q8_0"


@dataclass(frozen=True)
class TypeSpeeds:
    """Measures what a weight costs in each type, and keeps that beside the files that it times.

    Args:
        kit: makes these files, in a directory of their own; each is gone when it was timed.
        tensors: whose type may change.
    """

    base: GgufFile
    kit: ProbeKit
    tensors: Sequence[Tensor]
    session: Session

    def seconds_per_weight(self, types: Sequence[str]) -> Mapping[str, float]:
        """Of one token's generation, for each type that fits a tensor; the rest of the model counts in all alike.

        Raises:
            ToolError: llama-bench failed or gave no speeds.
        """
        wanted = dict.fromkeys((_ELSE, *types))
        fitting = {kind: sum(t.n_elements for t in self.tensors if allowed.fits(t, kind)) for kind in wanted}
        seconds = self._measured([kind for kind in wanted if fitting[kind]])
        all_weights = sum(t.n_elements for t in self.tensors)
        other = seconds[_ELSE] / all_weights
        return {kind: (s - (all_weights - fitting[kind]) * other) / fitting[kind] for kind, s in seconds.items()}

    def _measured(self, types: Sequence[str]) -> dict[str, float]:
        """Seconds of a token with all tensors in a type that fits it, the others in Q8_0."""
        known = self._known()
        todo = [kind for kind in types if kind not in known]
        if todo:
            with self.session.reporter.step("Tokens per second in each type") as progress:
                for done, kind in enumerate(todo):
                    progress.update(done, len(todo), "types")
                    known[kind] = self._time(kind)
                    write_atomically(self._file, json.dumps(known))
        return {kind: known[kind] for kind in types}

    def _time(self, kind: str) -> float:
        path = self.kit.probe({t.name: kind if allowed.fits(t, kind) else _ELSE for t in self.tensors})
        try:
            whole = GgufFile(path, self.kit.n_bytes(path), self.base.architecture, "", self.base.n_params, 0, {})
            (speed,) = speeds(whole, _TIMED, self.session)
            return 1 / speed.tps
        finally:
            self.kit.clear()

    def _known(self) -> dict[str, float]:
        try:
            kept: dict[str, float] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept

    @property
    def _file(self) -> Path:
        where = f"{machine.describe()}, {self.session.tools.backend}, {self.session.threads} threads"
        return self.kit.directory / f"speeds-{hashlib.sha256(where.encode()).hexdigest()[:12]}.json"
