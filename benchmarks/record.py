"""Benchmark records: `benchmarks/results/<what>-<date>.json`, one run each, raw tools and ggufkit side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from ggufkit.core import machine, process
from ggufkit.core.errors import ToolError
from ggufkit.core.process import Surroundings
from ggufkit.core.records import Toolchain

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One thing timed: wall seconds of the raw commands and of ggufkit, and what it was."""

    name: str
    raw_s: float
    ggufkit_s: float

    @property
    def ratio(self) -> float:
        """ggufkit over raw."""
        return self.ggufkit_s / self.raw_s


def save(what: str, tools: Toolchain, device: str, rows: Sequence[Row], notes: dict[str, object]) -> Path:
    """Write a record of `rows`; `ratio` is over their sums."""
    raw, ours = sum(r.raw_s for r in rows), sum(r.ggufkit_s for r in rows)
    record = {
        "what": what,
        "machine": machine.describe(),
        "backend": tools.backend,
        "device": device,
        "commit": commit(),
        "llama_cpp_commit": tools.commit,
        "raw_s": round(raw, 2),
        "ggufkit_s": round(ours, 2),
        "ratio": round(ours / raw, 4),
        "rows": [{**asdict(r), "ratio": round(r.ratio, 4)} for r in rows],
        **notes,
    }
    return write(what, record)


def write(what: str, record: Mapping[str, object]) -> Path:
    """Write a record under its name and today's date."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{what}-{date.today().isoformat()}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def commit() -> str:
    """The commit of this checkout, with a mark if files were changed."""
    here, status = Surroundings(cwd=ROOT), ["git", "status", "--porcelain", "--untracked-files=no"]
    try:
        head = process.run(["git", "rev-parse", "--short=12", "HEAD"], surroundings=here).stdout.strip()
        changed = process.run(status, surroundings=here).stdout.strip()
    except ToolError:
        return "unknown"
    return (head + ("+" if changed else "")) or "unknown"
