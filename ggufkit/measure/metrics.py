"""TABLE of metrics: a row here and a parser make a new column. Installed packages add to it, by `ggufkit.metrics`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from ggufkit.core import plugins
from ggufkit.core.errors import UsageError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import ResultRow

GROUP = "ggufkit.metrics"
"""The entry points by which a package adds its own."""


@dataclass(frozen=True)
class Subject:
    """What a package's metric is given to measure.

    Args:
        gguf, base: the file, and the F32, F16 or BF16 that it comes from; the same where that is measured.
        text: what the build evaluates on, None where it evaluates nothing.
        threads: that may work.
        reporter: where to tell how far it is.
    """

    gguf: Path
    base: Path
    text: Path | None
    threads: int
    reporter: Reporter


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Args:
        name: the results column; its error's column follows from `stderr_column`.
        unit: "" for dimensionless.
        in_table: whether `results.csv` has it; the others are only in the reports.
        measure: of a package's: the value and its standard error, None for what has none; None where there is nothing
            to measure.
        package, version: of which package it is; filled in when it is found.
    """

    name: str
    unit: str
    title: str
    stderr_column: str | None = None
    in_table: bool = True
    measure: Callable[[Subject], tuple[float, float | None] | None] | None = None
    package: str = ""
    version: str = ""


METRICS: tuple[Metric, ...] = (
    Metric("ppl", "", "perplexity", "ppl_stderr"),
    Metric("ppl_base", "", "perplexity of the base"),
    Metric("ln_ppl_ratio", "", "ln(PPL/PPL of the base)", "ln_ppl_ratio_stderr"),
    Metric("kld_mean", "nats", "mean KL divergence", "kld_stderr"),
    Metric("kld_min", "nats", "minimum KL divergence", in_table=False),
    Metric("kld_p001", "nats", "0.1st percentile of KL divergence", in_table=False),
    Metric("kld_p01", "nats", "1st percentile of KL divergence", in_table=False),
    Metric("kld_p05", "nats", "5th percentile of KL divergence", in_table=False),
    Metric("kld_p10", "nats", "10th percentile of KL divergence", in_table=False),
    Metric("kld_median", "nats", "median KL divergence"),
    Metric("kld_p90", "nats", "90th percentile of KL divergence", in_table=False),
    Metric("kld_p95", "nats", "95th percentile of KL divergence", in_table=False),
    Metric("kld_p99", "nats", "99th percentile of KL divergence"),
    Metric("kld_p999", "nats", "99.9th percentile of KL divergence", in_table=False),
    Metric("kld_max", "nats", "maximum KL divergence"),
    Metric("same_top_p", "fraction", "same most likely token", "same_top_p_stderr"),
    Metric("rms_dp", "fraction", "RMS change of the true token's probability", "rms_dp_stderr"),
    Metric("cosine_mean", "", "mean cosine similarity of embeddings with the base's", "cosine_stderr"),
    Metric("cosine_min", "", "least cosine similarity of an embedding with the base's"),
    Metric("pp_tps", "tokens/s", "prompt processing (pp512)", "pp_tps_stddev"),
    Metric("tg_tps", "tokens/s", "generation (tg128)", "tg_tps_stddev"),
    Metric("eval_tps", "tokens/s", "tokens evaluated per second of wall time"),
)

BY_NAME = {metric.name: metric for metric in METRICS}


_TAKEN = (
    {"directory"}
    | {f.name for f in fields(ResultRow)}
    | {column for m in METRICS for column in (m.name, m.stderr_column) if column}
)


def may_be_added(name: str) -> bool:
    """Whether a name is one that a package's metric may have: a measurement on disk may come from anywhere."""
    return re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name) is not None and not {name, f"{name}_stderr"} & _TAKEN


def find(name: str) -> Metric:
    """A package's metric, loaded now.

    Raises:
        UsageError: no package has it.
        InputError: the package is broken, or the name says something else already.
    """
    added = sorted({plugin.name for plugin in plugins.found(GROUP)})
    if name not in added:
        others = f"Choose from {', '.join(added)}." if added else "No package with metrics is installed."
        raise UsageError(f"There is no metric {name!r} to ask for.", hint=others)
    plugins.require_unique(GROUP, name, _TAKEN)
    return _of_package(name)


@cache
def _of_package(name: str) -> Metric:
    plugin = plugins.find(GROUP, name)
    loaded = plugin.load(Metric)
    if loaded.name != name or not may_be_added(name):
        raise plugin.broken(f"it is called {loaded.name!r} there; names are of a-z, 0-9 and _")
    if loaded.measure is None:
        raise plugin.broken("it has no function")
    return replace(loaded, package=plugin.package, version=plugin.version)
