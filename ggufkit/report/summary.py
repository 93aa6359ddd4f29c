"""What both reports say, before it is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ggufkit.core.records import ResultRow
from ggufkit.report import anchors, compare
from ggufkit.report.anchors import Published
from ggufkit.report.caches import Further, further
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.compare import Group, Sample
from ggufkit.report.conditions import Measured
from ggufkit.report.data import Entry, text_of
from ggufkit.report.decisive import Decisive, decisive
from ggufkit.report.projectors import Told as Projector
from ggufkit.report.recipes import Told, told
from ggufkit.report.recommend import Advice, advise
from ggufkit.report.reproduce import commands
from ggufkit.report.tasks import TaskTable, tables_of
from ggufkit.report.timeline import Span
from ggufkit.report.unevenness import Texts, several
from ggufkit.report.verdict import Verdict, in_short, verdicts
from ggufkit.version import __version__

_SAME_PPL = 1e-4
"""Relative difference of perplexities that is not worth a word."""


@dataclass(frozen=True)
class Summary:
    """A report's content.

    Args:
        entries: the files, in the order of the table; those of one content once.
        quality, speed: those of them that may be compared with each other.
        apart: why others may not, by file name.
        advice: «which one should I take?», of those in `quality`.
        verdicts: what the variants are worth, type by type.
        facts: conditions of the measurements, as label and value.
        spans: the steps of the last build, for its timeline.
        recipes: the files whose tensors have types by a recipe.
        footnotes: what else is to be known of the table.
        further: what was measured in other contexts and with other KV caches.
        tasks: what the files scored in tasks.
        texts: what was measured on other texts, too.
        decisive: the figures to choose by, where more was measured than the table of results holds; else None.
    """

    name: str
    entries: tuple[Entry, ...]
    quality: tuple[Entry, ...]
    speed: tuple[Entry, ...]
    apart: dict[str, str]
    advice: Advice
    verdicts: tuple[Verdict, ...]
    budget: MemoryBudget
    known: Published | None
    published: frozenset[str]
    facts: tuple[tuple[str, str], ...]
    command: str
    spans: tuple[Span, ...] = ()
    recipes: tuple[Told, ...] = ()
    footnotes: tuple[str, ...] = ()
    further: Further = field(default_factory=Further)
    tasks: tuple[TaskTable, ...] = ()
    texts: Texts = field(default_factory=Texts)
    decisive: Decisive | None = None

    @property
    def front(self) -> frozenset[str]:
        """File names on the Pareto front."""
        return self.advice.front

    @property
    def verdict(self) -> tuple[str, ...]:
        """All verdicts in three lines at most."""
        return in_short(self.verdicts)

    @property
    def taken(self) -> str:
        """Name of the file to take, "" where nothing fits the memory."""
        return self.advice.pick.entry.row.file if self.advice.pick is not None else ""

    @property
    def warnings(self) -> list[str]:
        """What to mind before one takes a file: those that are good on one text alone, and KV caches that do harm."""
        return [*self.texts.first(self.taken), *self.further.warnings]

    @property
    def answer(self) -> str:
        """The file to take, in a sentence."""
        return self.advice.answer


def summarize(
    entries: Sequence[Entry],
    budget: MemoryBudget,
    spans: Sequence[Span] = (),
    measured: Sequence[Measured] = (),
    beside: Sequence[Projector] = (),
) -> Summary:
    """Everything that a report says of these files.

    Args:
        spans: the steps that made them.
        measured: all that was measured of them, under whatever conditions.
        beside: what reads images or sound for them.
    """
    entries = [replace(e, footprint=e.footprint.with_cache(budget.kv_type)) for e in entries]
    every, entries = entries, [e for e in entries if not e.same_as]
    samples = [Sample("", e) for e in entries]
    quality = compare.groups(samples, compare.quality_facts)
    speed = compare.groups(samples, compare.speed_facts)
    together = _first(quality) or tuple(entries)
    more, tasks, texts = further(measured), tables_of([e.row for e in entries]), several(measured)
    is_more = bool(more.lines or tasks or texts.files)
    return Summary(
        name=entries[0].row.name or "Results",
        entries=tuple(entries),
        quality=together,
        speed=_first(speed),
        apart=_apart(quality, "quality") | _apart(speed, "speed"),
        advice=advise([*together, *(e for e in entries if e.is_reference and e not in together)], budget),
        verdicts=verdicts(
            [e.row for e in together if e.row.is_gguf], {e.row.file: e.scores for e in together if e.scores}
        ),
        budget=budget,
        known=anchors.published_for(entries),
        published=frozenset(e.row.file for e in entries if e.row.is_gguf and anchors.comparable(e)),
        facts=tuple(_facts(entries, together, _first(speed))),
        command=commands(every),
        spans=tuple(spans),
        recipes=told(entries, together),
        footnotes=(
            *_footnotes(together),
            *_twins(every),
            *_quantized(every),
            *(one.sentence for one in beside),
            *dict.fromkeys(e.scaling for e in entries if e.scaling),
        ),
        further=more,
        tasks=tasks,
        texts=texts,
        decisive=decisive(entries, texts, budget) if is_more else None,
    )


def _first(groups: Sequence[Group]) -> tuple[Entry, ...]:
    return tuple(s.entry for s in groups[0].samples) if groups else ()


def _apart(groups: Sequence[Group], what: str) -> dict[str, str]:
    return {
        s.entry.row.file: f"{what} measured with {', '.join(group.reasons)}"
        for group in groups[1:]
        for s in group.samples
    }


def _facts(entries: Sequence[Entry], quality: Sequence[Entry], speed: Sequence[Entry]) -> list[tuple[str, str]]:
    facts = []
    measured = next((e for e in quality if e.quality is not None), None)
    if measured is not None and measured.quality is not None:
        q = measured.quality
        facts += [("Text", text_of(measured)), ("Evaluated", _evaluated(measured))]
        facts += [("Quality on", f"{q.device} ({q.backend})")]
    base = next((e for e in entries if e.is_base), None)
    if base is not None:
        facts.append(("Compared with", f"{base.row.file}, sha256 {str(base.row.sha256)[:16]}…"))
    facts += _calibration(entries)
    if speed and speed[0].speed is not None:
        s = speed[0].speed
        facts.append(("Speed on", f"{s.machine}; {s.device}; {s.backend}, {s.threads} threads"))
    facts += [("Questions of", said) for said in dict.fromkeys(map(_questions, entries)) if said]
    commits = sorted({commit for e in entries for commit in _commits(e.row)})
    return [*facts, ("llama.cpp", ", ".join(commits) or "–"), ("ggufkit", __version__)]


def _questions(entry: Entry) -> str:
    """Which tasks a file was asked, and how their questions were drawn; "" for none."""
    options = entry.settings.options
    tasks, count = options.get("--tasks"), options.get("--tasks-samples")
    drawn = "all" if count == "all" else f"{count} of each at most, drawn with seed {options.get('--seed')}"
    return f"{tasks}; {drawn}" if tasks else ""


def _commits(row: ResultRow) -> set[str]:
    """Of the tools that measured a file."""
    return {row.llama_cpp_commit or "", *(score.llama_cpp_commit for score in row.tasks)} - {""}


def _footnotes(entries: Sequence[Entry]) -> list[str]:
    """Where the two passes of the base tell two perplexities."""
    found = ((e.row.ppl_base, e.ppl_base_saved) for e in entries if e.row.ln_ppl_ratio is not None)
    own, saved = next(((own, saved) for own, saved in found if own and saved), (None, None))
    if own is None or saved is None or abs(saved / own - 1) < _SAME_PPL:
        return []
    return [
        f"ln(PPL/base) is of the base's own perplexity, {own:.4f}. By the logits that llama.cpp saves of it, clipped, it "
        f"would be {saved:.4f}; KLD and same top are by those."
    ]


def _quantized(entries: Sequence[Entry]) -> list[str]:
    """What the base is, where the checkpoint held no floats."""
    return [
        f"Made from a checkpoint in {held}: the base has its numbers as floats, and losses are from that base, not from the "
        "model that was quantized to them."
        for held in dict.fromkeys(e.quantized for e in entries if e.quantized)
    ]


def _twins(entries: Sequence[Entry]) -> list[str]:
    """Files that are not shown, for another one holds the same."""
    return [f"{e.row.file} holds the same tensors as {e.same_as}, which is shown." for e in entries if e.same_as]


def _calibration(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What was calibrated on which text: one line for each use."""
    found = dict.fromkeys(fact for e in entries for fact in e.calibration)
    labels = dict.fromkeys(label for label, _ in found)
    return [(label, "; ".join(value for name, value in found if name == label)) for label in labels]


def _evaluated(entry: Entry) -> str:
    row, extent = entry.row, entry.extent
    if row.cosine_mean is not None:
        return f"embeddings of {row.n_chunks} passages from all over the text"
    if extent.whole:
        part = "all of the text"
    elif extent.precision is not None:
        part = f"spread over the text, for a relative error of {extent.precision:.3g} in mean KL divergence"
    else:
        part = "from the start of the text"
    return f"{row.n_chunks} chunks of {row.n_ctx} tokens, {part}"
