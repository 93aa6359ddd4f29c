"""Which results may stand side by side, and why others may not. Pure but for reading the result directories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.progress import Reporter
from ggufkit.report import results
from ggufkit.report.data import Entry, load_entries


@dataclass(frozen=True)
class Sample:
    """An entry and the directory that it comes from."""

    origin: str
    entry: Entry


@dataclass(frozen=True)
class Group:
    """Samples that may be compared with each other, and how they differ from the first, larger group."""

    samples: tuple[Sample, ...]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Groups for quality and for speed, the largest first; `remarks` are what to keep in mind within a group."""

    quality: tuple[Group, ...]
    speed: tuple[Group, ...]
    remarks: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether any two directories have something in common."""
        return any(len({s.origin for s in g.samples}) > 1 for g in [*self.quality, *self.speed])


Facts = dict[str, object]
"""What must agree, in words: what it is, and its value."""


def quality_facts(entry: Entry) -> Facts | None:
    """What quality depends on; None if it was not measured."""
    q = entry.quality
    if q is None or (entry.row.ppl is None and entry.row.cosine_mean is None):
        return None
    base = str(entry.row.sha256) if entry.is_base else q.base_sha256
    return {"text": q.corpus_sha256, "context": q.n_ctx, "number of chunks": q.n_chunks, "base": base}


def speed_facts(entry: Entry) -> Facts | None:
    """What speed depends on; None if it was not measured."""
    s = entry.speed
    return None if s is None else {"machine": s.machine, "backend": s.backend, "number of threads": s.threads}


def groups(samples: Sequence[Sample], facts: Callable[[Entry], Facts | None]) -> tuple[Group, ...]:
    """Samples with the same facts together; the largest group first, the others with their reasons."""
    by_facts: dict[tuple[tuple[str, object], ...], list[Sample]] = {}
    for sample in samples:
        found = facts(sample.entry)
        if found is not None:
            by_facts.setdefault(tuple(found.items()), []).append(sample)
    ordered = sorted(by_facts.items(), key=lambda item: _rank(item[1]))
    first = dict(ordered[0][0]) if ordered else {}
    return tuple(Group(tuple(members), _reasons(dict(key), first)) for key, members in ordered)


def _rank(samples: Sequence[Sample]) -> tuple[int, int, int]:
    """Those of most directories first, then those with most GGUFs."""
    n_ggufs = sum(s.entry.row.is_gguf for s in samples)
    return -len({s.origin for s in samples}), -n_ggufs, -len(samples)


def _reasons(facts: Facts, first: Facts) -> tuple[str, ...]:
    return tuple(_reason(name, value, first[name]) for name, value in facts.items() if value != first[name])


def _reason(name: str, value: object, wanted: object) -> str:
    if value is None or wanted is None:
        return f"{'no' if value is None else 'a'} {name}, unlike the others"
    return f"another {name}: {_short(value)}, not {_short(wanted)}"


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def compare(samples: Sequence[Sample]) -> Comparison:
    """Group samples by what their numbers depend on."""
    return Comparison(groups(samples, quality_facts), groups(samples, speed_facts), _remarks(samples))


def _remarks(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Differences that move perplexity in its fourth decimal: worth knowing, no reason to refuse."""
    seen = [s.entry.quality for s in samples if s.entry.quality is not None]
    remarks = []
    for what, values in (
        ("llama.cpp commits", {q.llama_cpp_commit for q in seen}),
        ("backends", {q.backend for q in seen}),
    ):
        if len(values) > 1:
            remarks.append(
                f"Measured with several {what}: {', '.join(sorted(values))}. PPL can differ in the fourth decimal."
            )
    return tuple(remarks)


def load(directories: Sequence[Path], reporter: Reporter | None = None) -> list[Sample]:
    """All entries of result directories; `reporter` is warned of what cannot be read.

    Raises:
        InputError: a directory holds no results, or a part of one is missing, or another's.
    """
    names = _names(directories)
    for directory in directories:
        results.require_whole_sets(directory)
    return [
        Sample(name, entry)
        for name, directory in zip(names, directories, strict=True)
        for entry in load_entries(results.collect(directory, reporter), directory)
    ]


def _names(directories: Sequence[Path]) -> list[str]:
    """The directories' own names, or as much of their paths as tells them apart."""
    short = [directory.resolve().name for directory in directories]
    return short if len(set(short)) == len(short) else [str(directory) for directory in directories]
