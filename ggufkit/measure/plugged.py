"""Step: what a metric of an installed package measures of a GGUF."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import machine, oserrors
from ggufkit.core.errors import GgufkitError, ToolError
from ggufkit.core.manifest import Params
from ggufkit.core.part_names import stem_of
from ggufkit.core.records import Conditions, GgufFile, Measurement
from ggufkit.measure.measurements import save
from ggufkit.measure.metrics import Metric, Subject
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result
from ggufkit.texts.corpus import Corpus

STEP, VERSION = "metric", 1
KIND = "metric-"
"""What the names of these measurements begin with, behind that of the file."""


@dataclass(frozen=True)
class MetricParams(Params):
    """What decides the value besides the files: the metric, and the version of its package."""

    metric: str = ""
    package: str = ""
    package_version: str = ""


def measure(gguf: GgufFile, base: GgufFile, metric: Metric, text: Corpus | None, session: Session) -> Result:
    """Measure one file unless that is done already.

    Raises:
        ToolError: the package's function failed, or gave no number.
    """
    params = MetricParams(metric.name, metric.package, metric.version)
    inputs = {"gguf": str(gguf.sha256), "base": str(base.sha256)}
    reads = [gguf.as_input(), base.as_input()]
    if text is not None:
        inputs, reads = inputs | {"corpus": text.sha256}, [*reads, text.as_input()]
    recipe = Recipe(STEP, VERSION, inputs, params.to_params(), reads=tuple(reads))
    subject = Subject(gguf.path, base.path, text.path if text else None, session.threads, session.reporter)
    where = Conditions(
        "cpu", machine.cpu_name(), None, session.threads, machine.describe(), session.tools.commit,
        base_sha256=str(base.sha256),
    )  # fmt: skip

    def make(partial: Path) -> Made:
        with session.reporter.step(f"{metric.title or metric.name}: {gguf.path.name}"):
            found = _measure(metric, subject)
        values = [] if found is None else [found]
        save(partial, [Measurement(str(gguf.sha256), metric.name, v, e, metric.unit, where) for v, e in values])
        return Made()

    output = session.workspace.measurements / f"{stem_of(gguf.path)}.{KIND}{metric.name}.json"
    return session.ensure(recipe, output, make, work=session.work("metric", gguf.n_params, metric.name))


def _measure(metric: Metric, subject: Subject) -> tuple[float, float | None] | None:
    """The value and its error; whatever the function raises that is no error of ggufkit is one of its package."""
    try:
        found = metric.measure(subject) if metric.measure is not None else None
        value = None if found is None else (float(found[0]), None if found[1] is None else float(found[1]))
    except (Exception, SystemExit) as error:
        if isinstance(error, GgufkitError) or oserrors.is_of_disk(error):
            raise
        raise _failed(metric, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if value is not None and not all(math.isfinite(v) for v in (value[0], value[1] or 0.0)):
        raise _failed(metric, f"{subject.gguf.name} has {value[0]} ± {value[1]}")
    return value


def _failed(metric: Metric, why: str) -> ToolError:
    message = f"{metric.name} of {metric.package} {metric.version} failed: {why}."
    return ToolError(message, hint=f"Report it to {metric.package}'s authors, or leave it out of --metrics.")
