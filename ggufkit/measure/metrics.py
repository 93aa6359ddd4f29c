"""TABLE of metrics: a row here and a parser make a new column."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Args:
        name: the results column; its error's column follows from `stderr_column`.
        unit: "" for dimensionless.
        in_table: whether `results.csv` has it; the others are only in the reports.
    """

    name: str
    unit: str
    title: str
    stderr_column: str | None = None
    in_table: bool = True


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
