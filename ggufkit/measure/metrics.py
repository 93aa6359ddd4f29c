"""TABLE of metrics: a row here and a parser make a new column."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Args:
        name: the results column; its error's column follows from `stderr_column`.
        unit: "" for dimensionless.
        lower_is_better: None where neither is.
        in_table: whether `results.csv` has it; the others are only in the reports.
    """

    name: str
    unit: str
    title: str
    lower_is_better: bool | None
    stderr_column: str | None = None
    in_table: bool = True


METRICS: tuple[Metric, ...] = (
    Metric("ppl", "", "perplexity", True, "ppl_stderr"),
    Metric("ppl_base", "", "perplexity of the base", None),
    Metric("ln_ppl_ratio", "", "ln(PPL/PPL of the base)", True, "ln_ppl_ratio_stderr"),
    Metric("kld_mean", "nats", "mean KL divergence", True, "kld_stderr"),
    Metric("kld_min", "nats", "minimum KL divergence", True, in_table=False),
    Metric("kld_p001", "nats", "0.1st percentile of KL divergence", True, in_table=False),
    Metric("kld_p01", "nats", "1st percentile of KL divergence", True, in_table=False),
    Metric("kld_p05", "nats", "5th percentile of KL divergence", True, in_table=False),
    Metric("kld_p10", "nats", "10th percentile of KL divergence", True, in_table=False),
    Metric("kld_median", "nats", "median KL divergence", True),
    Metric("kld_p90", "nats", "90th percentile of KL divergence", True, in_table=False),
    Metric("kld_p95", "nats", "95th percentile of KL divergence", True, in_table=False),
    Metric("kld_p99", "nats", "99th percentile of KL divergence", True),
    Metric("kld_p999", "nats", "99.9th percentile of KL divergence", True, in_table=False),
    Metric("kld_max", "nats", "maximum KL divergence", True),
    Metric("same_top_p", "fraction", "same most likely token", False, "same_top_p_stderr"),
    Metric("rms_dp", "fraction", "RMS change of the true token's probability", True, "rms_dp_stderr"),
    Metric("pp_tps", "tokens/s", "prompt processing (pp512)", False, "pp_tps_stddev"),
    Metric("tg_tps", "tokens/s", "generation (tg128)", False, "tg_tps_stddev"),
    Metric("eval_tps", "tokens/s", "tokens evaluated per second of wall time", False),
)

BY_NAME = {metric.name: metric for metric in METRICS}
