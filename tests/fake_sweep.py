"""What a sweep found, invented: rows of models of one family, each method with its share of the plain file's loss."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ggufkit.core.records import ResultRow
from ggufkit.measure.paired import Scores, Tokens
from ggufkit.report.swept import Swept

TEXT, COMMIT = "ab" * 32, "0c1e57098bba43ac"
LOSSES = {
    "Q8_0": (8.5, 0.0004),
    "Q5_K_M": (5.7, 0.006),
    "Q4_K_M": (4.9, 0.019),
    "Q4_0": (4.6, 0.031),
    "Q2_K": (3.2, 0.24),
}
SHARES = {"plain": 1.0, "awq": 1.04, "imatrix": 0.84, "awq+imatrix": 0.83, "gptq": 0.6}
N_CHUNKS = 60


def base(name: str = "m") -> ResultRow:
    """What all others are held against."""
    return _row(name, "plain", "F16", 16.0, ppl=30.0, ppl_base=30.0)


def row(
    variant: str, kind: str, kld: float | None, bpw: float | None = None, name: str = "m", error: float = 0.01
) -> ResultRow:
    """A file that loses so much, with that share of it as its error."""
    measured = {} if kld is None else {
        "ppl": 30.0, "ppl_base": 30.0, "kld_mean": kld, "kld_stderr": error * kld, "same_top_p": max(1 - kld**0.6, 0.05),
    }  # fmt: skip
    return _row(name, variant, kind, bpw or LOSSES[kind][0], **measured)


def _row(name: str, variant: str, kind: str, bpw: float, **measured: Any) -> ResultRow:
    infix = "" if variant == "plain" else variant.replace("+", "-") + "-"
    file = f"{name}-{infix}{kind}.gguf"
    return ResultRow(
        name, variant, kind, file, int(bpw * 1e6), 8_000_000, bpw, n_ctx=512, n_chunks=N_CHUNKS, corpus_sha256=TEXT,
        llama_cpp_commit=COMMIT, sha256=hashlib.sha256(file.encode()).hexdigest(), kv_type="f16", **measured,
    )  # fmt: skip


def cell(model: str, scale: float = 1.0, shares: Mapping[str, float] = SHARES, profile: str = "") -> Swept:
    """All types of all methods."""
    rows = [
        row(v, kind, scale * s * kld, name=model) for v, s in shares.items() for kind, (_, kld) in LOSSES.items()
    ]
    return Swept(model, profile, (base(model), *rows))


def family(n: int = 2) -> list[Swept]:
    """Models of several sizes, of which the larger ones lose less."""
    return [cell(f"acme-{2**i}b", 1.0 / (1 + i)) for i in range(n)]


def scores(of: ResultRow, tokens: str = "ff" * 32, noise: Sequence[float] = ()) -> Scores:
    """What each chunk gave of a file that loses most where all files do."""
    hard = np.linspace(0.5, 1.5, N_CHUNKS) if not len(noise) else np.asarray(noise)
    kld = (of.kld_mean or 0.0) * hard[:, None] / hard.mean()
    return Scores(Tokens(TEXT, 512, N_CHUNKS, tokens), kld, kld / 2)
