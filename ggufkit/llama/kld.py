"""What `llama-perplexity --kl-divergence` prints -> a record. Pure functions of text.

The running rows (one a chunk) and the closing statistics say the same thing twice. Both are read and must agree:
a truncated or interleaved output is refused, never read as another number.
Source: `tools/perplexity/perplexity.cpp`, `kl_divergence`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ggufkit.core.errors import ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.llama.logs import are_counted, explain_missing, model_of, plain

Mean = tuple[float, float]
"""A mean and its standard error."""

_SPECIAL = r"-?(?:nan|inf)"
_ROW = re.compile(
    r"(?m)^ {0,3}(\d{1,9}) {4}"
    + " {4}".join(
        rf" *(-?\d+\.\d{{{digits}}}|{_SPECIAL}) ± +(-?\d+\.\d{{{digits}}}|{_SPECIAL}){unit}"
        for digits, unit in ((4, ""), (5, ""), (5, ""), (3, " %"), (3, " %"))
    )
    + r"$"
)
_NOT_FINITE = re.compile(r"(?m)^Mean    KLD: +-?(?:nan|inf)")
_COMPUTING = re.compile(r"kl_divergence: computing over (\d{1,9}) chunks, n_ctx=(\d{1,9}),")
PERCENTILES = {
    "Minimum": 0.0, " 0.1%": 0.001, " 1.0%": 0.01, " 5.0%": 0.05, "10.0%": 0.1, "Median": 0.5,
    "90.0%": 0.9, "95.0%": 0.95, "99.0%": 0.99, "99.9%": 0.999, "Maximum": 1.0,
}  # fmt: skip


FEWEST_VALUES = 100
"""The tool prints no statistics on fewer scored tokens than these."""


def scored(n_ctx: int, n_chunks: int) -> int:
    """How many tokens are scored: the second half of each chunk, but its last."""
    return n_chunks * (n_ctx - 1 - n_ctx // 2)


@dataclass(frozen=True)
class Row:
    """The running statistics after `chunk` chunks; each a mean and its standard error.

    `ppl` and `ln_ppl_ratio` are dimensionless, `kld` is in nats, `rms_dp` and `same_top_p` are fractions.
    """

    chunk: int
    ppl: Mean
    ln_ppl_ratio: Mean
    kld: Mean
    rms_dp: Mean
    same_top_p: Mean


@dataclass(frozen=True)
class Divergence:
    """The statistics over `n_chunks` chunks of `n_ctx` tokens, each with its standard error where it has one.

    `kld_percentiles` maps a fraction of the tokens (0 is the minimum, 1 the maximum) to nats.
    """

    n_chunks: int
    n_ctx: int
    ppl: Mean
    ppl_base: Mean
    ln_ppl_ratio: Mean
    kld: Mean
    kld_percentiles: Mapping[float, float]
    rms_dp: Mean
    same_top_p: Mean
    rows: tuple[Row, ...]


def parse_divergence(output: ToolOutput) -> Divergence:
    """Read the statistics of a KL divergence pass.

    Raises:
        ToolOutputError: statistics are missing (the tool can exit 0 without them), contradict the running rows,
            or are not finite; the chunk is named then.
    """
    text = plain(output.stderr) + "\n" + plain(output.stdout)
    rows = parse_rows(text)
    _require_finite(rows, output)
    if _NOT_FINITE.search(text):
        raise _not_finite("", output)
    computing = _COMPUTING.findall(text)
    if len(computing) != 1:
        raise _missing(text, output)
    n_chunks, n_ctx = (int(x) for x in computing[0])
    if scored(n_ctx, n_chunks) < FEWEST_VALUES:
        raise _too_few(n_ctx, n_chunks, output)
    ppl, base = _pair(text, "Mean PPL(Q)                   "), _pair(text, "Mean PPL(base)                ")
    ratio, kld = _pair(text, "Mean ln(PPL(Q)/PPL(base))     "), _pair(text, "Mean    KLD")
    percentiles = {p: v for title, p in PERCENTILES.items() if (v := _single(text, title)) is not None}
    if ppl is None or base is None or ratio is None or kld is None or len(percentiles) < len(PERCENTILES):
        raise _missing(text, output)
    if not are_counted([row.chunk for row in rows], n_chunks):
        raise _contradiction(output)
    # The last row repeats, digit for digit, the two statistics that are printed last and most often lost.
    last = rows[-1]
    result = Divergence(
        n_chunks, n_ctx, ppl, base, ratio, kld, percentiles, last.rms_dp, last.same_top_p, tuple(rows)
    )
    if not _consistent(result):
        raise _contradiction(output)
    return result


def parse_rows(text: str) -> list[Row]:
    """The running rows in plain text, as far as they were printed."""
    return [_row(match) for match in _ROW.findall(text)]


def _row(groups: tuple[str, ...]) -> Row:
    v = [float(x) for x in groups[1:]]
    fractions = [(v[i] / 100, v[i + 1] / 100) for i in (6, 8)]
    return Row(int(groups[0]), (v[0], v[1]), (v[2], v[3]), (v[4], v[5]), *fractions)


def lost_statistics(output: ToolOutput) -> bool:
    """Whether the pass ended well but its end was not printed, as happens to short passes and under load."""
    text = plain(output.stderr) + "\n" + plain(output.stdout)
    told = _NOT_FINITE.search(text) or re.search(r"(?i)failed|error", text)
    return output.returncode == 0 and _missing_statistics(text) and told is None


def _missing_statistics(text: str) -> bool:
    """Whether there is a pass in the text, of enough tokens, without all of its statistics."""
    computing = _COMPUTING.search(text)
    if computing is None:
        return True
    n_chunks, n_ctx = (int(x) for x in computing.groups())
    whole = len(parse_rows(text)) == n_chunks and _single(text, "Minimum") is not None
    return scored(n_ctx, n_chunks) >= FEWEST_VALUES and not whole


def _pair(text: str, title: str) -> Mean | None:
    found = re.findall(rf"(?m)^{re.escape(title)}: +(-?\d+\.\d{{6}}) ± +(\d+\.\d{{6}}|{_SPECIAL})$", text)
    return (float(found[0][0]), float(found[0][1])) if len(found) == 1 else None


def _single(text: str, title: str) -> float | None:
    found = re.findall(rf"(?m)^{re.escape(title)} +KLD: +(-?\d+\.\d{{6}})$", text)
    return float(found[0]) if len(found) == 1 else None


def _require_finite(rows: list[Row], output: ToolOutput) -> None:
    for row in rows:
        # An error of 0/0 is printed for a file that equals its base; only the means must be numbers.
        if not all(math.isfinite(mean) for mean, _ in (row.ppl, row.ln_ppl_ratio, row.kld)):
            raise _not_finite(f" at chunk {row.chunk}: {row.ppl[0]}, KL divergence {row.kld[0]}", output)


def _not_finite(where: str, output: ToolOutput) -> ToolOutputError:
    return ToolOutputError(
        f"{model_of(output)} has no finite perplexity{where}.",
        hint="The file or the backend is broken for this text: try --backend cpu, or a BF16 base.",
        log=output.log,
    )


def _consistent(d: Divergence) -> bool:
    """Whether what was read agrees with itself, to the digits that are printed."""
    last, ordered = d.rows[-1], [d.kld_percentiles[p] for p in sorted(d.kld_percentiles)]
    repeated = ((d.ppl, last.ppl, 4), (d.ln_ppl_ratio, last.ln_ppl_ratio, 5), (d.kld, last.kld, 5))
    return (
        all(_same(a[i], b[i], 0.51 * 10**-digits) for a, b, digits in repeated for i in (0, 1))
        and min(d.ppl[0], d.ppl_base[0]) > 0
        and abs(math.log(d.ppl[0]) - math.log(d.ppl_base[0]) - d.ln_ppl_ratio[0]) <= 2e-6
        and ordered == sorted(ordered)
        and d.kld[0] <= ordered[-1]
    )


def _same(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance or (math.isnan(a) and math.isnan(b))


def _missing(text: str, output: ToolOutput) -> ToolOutputError:
    return ToolOutputError(
        f"llama-perplexity gave no KL divergence statistics: {explain_missing(text)}", log=output.log
    )


def _too_few(n_ctx: int, n_chunks: int, output: ToolOutput) -> ToolOutputError:
    return ToolOutputError(
        f"{n_chunks} chunks of {n_ctx} tokens are too few for KL divergence statistics, "
        f"which take {FEWEST_VALUES} scored tokens.",
        hint="Evaluate more --chunks, give a longer --corpus, or measure perplexity alone with --no-kld.",
        log=output.log,
    )


def _contradiction(output: ToolOutput) -> ToolOutputError:
    return ToolOutputError("llama-perplexity's statistics do not follow from its chunks.", log=output.log)
