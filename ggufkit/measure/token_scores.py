"""What each token gave, on disk beside a measurement: a line of JSON that says of what, then numbers of 4 bytes.

They are no part of a result: where they are not there, differences are told with the errors of both sides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core.errors import InputError
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.manifest import PARTIAL
from ggufkit.core.records import Conditions, Measurement, ResultRow
from ggufkit.measure.paired import Scores, Tokens, of_chunks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_VALUES = 1 << 18
"""Of one kind: 2 MiB for both. Of more tokens than these, means of chunks are kept."""
_LONGEST_HEAD = 1 << 12
_AGREE = 2e-6


@dataclass(frozen=True)
class _Head:
    """What the numbers are of: KL divergences, then logarithms of ratios, of each chunk."""

    file_sha256: str
    tokens: Tokens
    digit: float


def path_of(result: Path) -> Path:
    """Where the scores of a file of measurements are."""
    return result.with_suffix(".scores")


def tokens_of(where: Conditions) -> Tokens:
    """Which tokens a measurement was made on."""
    return Tokens(str(where.corpus_sha256), where.n_ctx or 0, where.n_chunks or 0, str(where.base_sha256))


def save(path: Path, file_sha256: str, scores: Scores) -> None:
    """Write the scores of a file of that hash."""
    import numpy as np

    kept = scores if scores.kld.size <= _MOST_VALUES else of_chunks(scores)
    head = json.dumps(asdict(_Head(file_sha256, kept.tokens, kept.digit)))
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(head.encode() + b"\n" + np.stack([kept.kld, kept.ln_ratio]).astype("<f4").tobytes())
    partial.replace(path)


def load(path: Path, file_sha256: str) -> Scores | None:
    """The scores of a file of that hash; None where there are none, or not what `save` writes."""
    limit = _LONGEST_HEAD + 2 * 4 * _MOST_VALUES
    if not path.is_file() or path.stat().st_size > limit:
        return None
    first, _, data = path.read_bytes().partition(b"\n")
    try:
        head = parse_json(first, _Head, str(path), hint="Measure again.")
    except InputError:
        return None
    values = _numbers(data, head.tokens.n_chunks)
    if head.file_sha256 != file_sha256 or values is None:
        return None
    return Scores(head.tokens, values[0], values[1], head.digit)


def _numbers(data: bytes, n_chunks: int) -> NDArray[np.float64] | None:
    import numpy as np

    if n_chunks < 1 or not data or len(data) % (2 * 4 * n_chunks):
        return None
    values = np.frombuffer(data, "<f4").reshape(2, n_chunks, -1).astype(np.float64)
    return values if np.isfinite(values).all() else None


def of_measurements(found: Sequence[Measurement], path: Path) -> Scores | None:
    """The scores behind a file's measurements: those in `path`, if they are of the same tokens and have the same mean.

    As means of chunks, which is what differences need.
    """
    divergence = next((m for m in found if m.metric == "kld_mean"), None)
    scores = load(path, divergence.file_sha256) if divergence is not None else None
    if divergence is None or scores is None or scores.tokens != tokens_of(divergence.conditions):
        return None
    return of_chunks(scores) if _has_mean(scores, divergence.value) else None


def of_row(row: ResultRow, path: Path) -> Scores | None:
    """The same of a row of results, whose base its own table does not tell: scores that are of one another's base are told
    apart by their tokens."""
    scores = load(path, row.sha256) if row.sha256 is not None and row.kld_mean is not None else None
    if scores is None or row.kld_mean is None:
        return None
    own = scores.tokens.corpus_sha256, scores.tokens.n_ctx, scores.tokens.n_chunks
    if own != (row.corpus_sha256, row.n_ctx, row.n_chunks) or not _has_mean(scores, row.kld_mean):
        return None
    return of_chunks(scores)


def _has_mean(scores: Scores, value: float) -> bool:
    tolerance = scores.digit or _AGREE
    return abs(float(scores.kld.mean()) - value) <= tolerance + _AGREE * abs(value)
