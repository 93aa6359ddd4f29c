"""What `benchmarks.peers` made and measured: rows, kept as CSV and shown as Markdown, and what they say. Pure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO

from benchmarks.peer_steps import PEER

ALIKE = 0.02
"""Sizes that differ by less are compared: a matrix alone decides whether an embedding has one type or another."""
MATRIX, REFINED, BOTH = "imatrix", "gptq", "awq+gptq"


@dataclass(frozen=True)
class Row:
    """A file: what it took from the checkpoint on, and how far it is from the base; that is None until it is measured.

    Args:
        peak_mb: of the largest process on the way.
        kld, same_top_p: mean KL divergence in nats, share of tokens with the base's first choice.
    """

    type: str
    method: str
    size_bytes: int
    seconds: float
    processor_s: float
    peak_mb: float
    kld: float | None = None
    kld_stderr: float | None = None
    same_top_p: float | None = None


_HEAD = (
    "type", "method", "bytes", "mean KLD", "of imatrix", "of auto-round", "same top", "seconds", "processor s", "peak MB",
)  # fmt: skip


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, empty where nothing is known."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown; ratios are of KL divergences of one type."""
    body = [_line(_cells(row, rows)) for row in rows]
    return "\n".join([_line(_HEAD), _line(["---"] * 2 + ["---:"] * (len(_HEAD) - 2)), *body])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    matrix, peer = _find(rows, row.type, MATRIX), best(rows, row.type, _is_peer)
    kld = "" if row.kld is None else f"{row.kld:.6f} ± {row.kld_stderr or 0.0:.6f}"
    same = "" if row.same_top_p is None else f"{row.same_top_p:.2%}"
    ratios = (_ratio(row, matrix), _ratio(row, peer))
    took = (f"{row.seconds:.0f}", f"{row.processor_s:.0f}", f"{row.peak_mb:.0f}")
    return row.type, row.method, f"{row.size_bytes:,}", kld, *ratios, same, *took


def _ratio(row: Row, other: Row | None) -> str:
    ratio = _over(row, other)
    return "" if ratio is None else f"{ratio:.3f}"


def _over(row: Row | None, other: Row | None) -> float | None:
    if row is None or other is None or row.kld is None or not other.kld:
        return None
    return row.kld / other.kld


def _is_peer(row: Row) -> bool:
    return row.method.startswith(PEER)


def _is_ours(row: Row) -> bool:
    return not _is_peer(row)


def best(rows: Iterable[Row], kind: str, among: Callable[[Row], bool]) -> Row | None:
    """The row of a type with the least divergence, None where none is measured."""
    measured = [(row.kld, row) for row in rows if row.type == kind and row.kld is not None and among(row)]
    return min(measured, key=lambda one: one[0])[1] if measured else None


def _find(rows: Iterable[Row], kind: str, method: str) -> Row | None:
    return next((row for row in rows if (row.type, row.method) == (kind, method)), None)


def verdict(rows: Sequence[Row]) -> str:
    """What the rows say, a line for each type: ours against auto-round's best, and what AWQ adds to refinement."""
    return "\n".join(_said(rows, kind) for kind in dict.fromkeys(row.type for row in rows))


def _said(rows: Sequence[Row], kind: str) -> str:
    said = list[str]()
    ours, peer = best(rows, kind, _is_ours), best(rows, kind, _is_peer)
    if ours is not None and peer is not None:
        share, time = _over(ours, peer), ours.seconds / peer.seconds
        said.append(f"{ours.method} has {share:.3f} of {peer.method}'s divergence in {time:.2f} of its time")
        if abs(more := peer.size_bytes / ours.size_bytes - 1) > ALIKE:
            said.append(f"{peer.method}'s file has {more:+.1%} bytes, so this compares no methods")
    quicker = None if peer is None else best(rows, kind, lambda row: _is_ours(row) and row.seconds <= peer.seconds)
    if quicker is not None and quicker != ours:
        said.append(f"{quicker.method}, the best in at most its time, {_over(quicker, peer):.3f}")
    both, refined, matrix = (_find(rows, kind, method) for method in (BOTH, REFINED, MATRIX))
    for other in (matrix, refined):
        share = _over(both, other)
        said += [f"{BOTH} has {share:.3f} of {other.method}'s"] if share is not None and other is not None else []
    return f"{kind}: {'; '.join(said) or 'nothing to compare'}."
