"""Drawings of files as points: what each loses, against its size or its speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ggufkit.core import escape
from ggufkit.core.units import GIB, MIB
from ggufkit.llama import quants
from ggufkit.report import palette, recommend, svg
from ggufkit.report.anchors import Anchor, Published, anchor_for
from ggufkit.report.data import Entry
from ggufkit.report.labels import Label, place
from ggufkit.report.svg import Canvas

_RECIPE_MARKER = "*"
_FEWEST = 2


@dataclass(frozen=True)
class Loss:
    """What is lost, upwards: its label, a file's value and the error of that, and what others published."""

    label: str
    short: str
    value: Callable[[Entry], float | None]
    error: Callable[[Entry], float | None]
    published: Callable[[Anchor], float | None]
    is_logarithmic: bool = True


@dataclass(frozen=True)
class Along:
    """What a loss is drawn against, to the right.

    Args:
        label: what it is, with its unit.
        value, error: a file's, in that unit.
        is_better_more: whether more of it is better, as of speed and not of size.
    """

    label: str
    value: Callable[[Entry], float | None]
    error: Callable[[Entry], float | None] = lambda _: None
    is_better_more: bool = False


KLD = Loss(
    "mean KL divergence (nats)", "KLD", lambda e: e.row.kld_mean, lambda e: e.row.kld_stderr, lambda a: a.kld
)
COSINE = Loss(
    "1 − cosine similarity of embeddings", "1 − cosine",
    lambda e: None if e.row.cosine_mean is None else 1 - e.row.cosine_mean, lambda e: e.row.cosine_stderr, lambda _: None,
)  # fmt: skip
PERPLEXITY = Loss(
    "perplexity", "PPL", lambda e: e.row.ppl, lambda e: e.row.ppl_stderr, lambda a: a.ppl, is_logarithmic=False
)
SPEED = Along(
    "generation, tg128 (tokens/s)", lambda e: e.row.tg_tps, lambda e: e.row.tg_tps_stddev, is_better_more=True
)


def loss_of(entries: Sequence[Entry]) -> Loss:
    """The loss that is known of some files: KL divergence, how far embeddings are, else perplexity."""
    return next((loss for loss in (KLD, COSINE) if any(loss.value(e) for e in entries)), PERPLEXITY)


def size_of(entries: Sequence[Entry]) -> Along:
    """The size of files, in a unit that fits the largest."""
    unit, name = (GIB, "GiB") if any(e.row.size_bytes >= GIB for e in entries) else (MIB, "MiB")
    return Along(f"file size ({name})", lambda e: e.row.size_bytes / unit)


@dataclass(frozen=True)
class Scatter:
    """Files as points.

    Args:
        entries: those that are shown, at least two.
        taken: name of the file that the report recommends, which stands out.
        base: what the perplexity of others is held against, None for a loss that the base itself has none of.
        known: what others published of the model.
    """

    entries: Sequence[Entry]
    loss: Loss
    along: Along
    taken: str = ""
    base: Entry | None = None
    known: Published | None = None

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Of the variants, which their colours and shapes follow."""
        return palette.numbers(e.row.variant for e in self.entries)

    def draw(self, canvas: Canvas, columns: int) -> None:
        """All of it, with a legend of so many columns at most."""
        axes = canvas.axes
        fronts = list(self._fronts())
        for line in fronts:
            self._draw_front(canvas, line)
        self._draw_points(canvas)
        self._draw_ring(canvas)
        self._draw_published(canvas)
        self._set_scales(axes)
        self._draw_base(canvas)
        axes.set_xlabel(self.along.label)
        axes.set_ylabel(self.loss.label)
        canvas.style("both")
        canvas.legend(columns)
        self._write_labels(canvas, [e for line in fronts for e in line.files])

    def _at(self, entry: Entry) -> tuple[float, float]:
        return self.along.value(entry) or 0.0, self.loss.value(entry) or 0.0

    def _fronts(self) -> Iterator[_Front]:
        """The Pareto front; with recipes, that of the recipes and that of the presets for each variant that has both."""
        if self.along.is_better_more:
            yield _Front(_fastest(self.entries, self.loss, self.along))
            return
        with_recipes = dict.fromkeys(e.row.variant for e in self.entries if e.recipe is not None)
        if not with_recipes:
            yield _Front(recommend.pareto(self.entries))
        for variant in with_recipes:
            family, series = [e for e in self.entries if e.row.variant == variant], self.numbers[variant]
            yield _Front(recommend.pareto([e for e in family if e.recipe is not None]), series, (0, ()), None)
            yield _Front(recommend.pareto([e for e in family if e.recipe is None]), series, (0, (2, 3)), None)

    def _draw_front(self, canvas: Canvas, line: _Front) -> None:
        if len(line.files) >= _FEWEST:
            colour = canvas.theme.muted if line.series is None else canvas.series(line.series)
            canvas.axes.plot(*zip(*map(self._at, line.files), strict=True), color=colour, linewidth=1.4,
                             linestyle=line.dashes, label=line.label, zorder=1)  # fmt: skip

    def _draw_points(self, canvas: Canvas) -> None:
        """Every file as a point, and all error bars at once."""
        explained = {_legend(e): e for e in self.entries[::-1]}
        for entry in self.entries:
            self._draw_point(canvas, entry, is_explained=explained[_legend(entry)] is entry)
        places = [self._at(e) for e in self.entries]
        canvas.axes.errorbar(
            *zip(*places, strict=True), xerr=[self.along.error(e) or 0.0 for e in self.entries],
            yerr=[self.loss.error(e) or 0.0 for e in self.entries], fmt="none", ecolor=canvas.theme.muted, elinewidth=1.0,
            zorder=2,
        )  # fmt: skip

    def _draw_point(self, canvas: Canvas, entry: Entry, *, is_explained: bool) -> None:
        (x, y), error, number = self._at(entry), self.loss.error(entry), self.numbers[entry.row.variant]
        marker, size = (_RECIPE_MARKER, 12) if entry.recipe is not None else (palette.marker(number), 7.5)
        is_taken = entry.row.file == self.taken
        (point,) = canvas.axes.plot(
            [x], [y], marker, color=canvas.series(number), markersize=size, markeredgewidth=0.7,
            markeredgecolor=canvas.theme.card, label=_legend(entry) if is_explained else None, zorder=3.5 if is_taken else 3,
        )  # fmt: skip
        shown = f"{y:.5g}" + (f" ± {error:.2g}" if error else "")
        point.set_gid(svg.tip(f"{entry.label}: {self.loss.short} {shown} at {x:,.4g}"))

    def _draw_ring(self, canvas: Canvas) -> None:
        for entry in self._taken:
            x, y = self._at(entry)
            canvas.axes.plot([x], [y], "o", markersize=15, markerfacecolor="none", markeredgewidth=1.6,
                             markeredgecolor=canvas.theme.accent, label="the one to take", zorder=4)  # fmt: skip

    def _draw_published(self, canvas: Canvas) -> None:
        model = self.known.model if self.known is not None else ""
        anchors = [(e, a) for e in self.entries if (a := anchor_for(e, self.known)) is not None]
        values = [(e, value) for e, a in anchors if (value := self.loss.published(a)) is not None]
        for i, (entry, value) in enumerate(values):
            (mark,) = canvas.axes.plot(
                [self.along.value(entry)], [value], "D", markerfacecolor="none", markeredgewidth=1.4, markersize=9,
                markeredgecolor=canvas.theme.muted, label=f"published, {model}" if i == 0 else None, zorder=2,
            )  # fmt: skip
            mark.set_gid(svg.tip(f"published for {model} {entry.label}: {value}"))

    def _draw_base(self, canvas: Canvas) -> None:
        value = self.loss.value(self.base) if self.base is not None else None
        if self.base is not None and value is not None:
            canvas.axes.axhline(value, color=canvas.theme.muted, linewidth=1, linestyle=(0, (1, 2)), zorder=1,
                                label=f"the base, {self.base.label}")  # fmt: skip

    def _set_scales(self, axes: Any) -> None:
        if self.loss.is_logarithmic:
            axes.set_yscale("log")
        axes.margins(x=0.08, y=0.1)
        if self.loss.is_logarithmic:
            svg.plain_ticks(axes.yaxis)
        axes.ticklabel_format(axis="x", useOffset=False)
        if not self.along.is_better_more:
            _widen(axes, max(self.along.value(e) or 0.0 for e in self.entries))

    def _write_labels(self, canvas: Canvas, on_lines: Sequence[Entry]) -> None:
        """Name the file to take, then those of the Pareto front and of the lines that are drawn."""
        front = [] if self.along.is_better_more else recommend.pareto(self.entries)
        others = [e for e in self.entries if not e.row.is_gguf]
        named = list({e.row.file: e for e in [*self._taken, *front, *on_lines, *others]}.values())
        types = Counter(e.row.type for e in named)
        several = {kind for kind, n in Counter(e.row.type for e in self.entries).items() if n > 1}
        full = [types[e.row.type] > 1 or (e in self._taken and e.row.type in several) for e in named]
        texts = [e.label if whole else escape.terminal(e.row.type) for e, whole in zip(named, full, strict=True)]
        labels = [
            Label(text, *self._at(e), {"weight": "bold"} if e in self._taken else {})
            for text, e in zip(texts, named, strict=True)
        ]
        place(canvas.axes, labels, [self._at(e) for e in self.entries], fontsize=8.5, color=canvas.theme.ink)

    @property
    def _taken(self) -> list[Entry]:
        return [e for e in self.entries if e.row.file == self.taken]


def shown(entries: Sequence[Entry], loss: Loss, along: Along) -> list[Entry]:
    """Those whose loss can be drawn. No float types beside others: they would take the room of all."""
    known = [e for e in entries if (loss.value(e) or 0) > 0 and along.value(e) is not None]
    return [e for e in known if not quants.is_float(e.row.type)] or known


def _widen(axes: Any, largest: float) -> None:
    """Show files that differ by their metadata only as what they are: of one size."""
    low, high = axes.get_xlim()
    if high - low < 0.1 * largest:
        middle = (low + high) / 2
        axes.set_xlim(middle - 0.05 * largest, middle + 0.05 * largest)


def _legend(entry: Entry) -> str:
    """What a file's colour and shape stand for."""
    title = variant_title(entry.row.variant)
    return title if entry.recipe is None else f"{title}, by recipe"


@dataclass(frozen=True)
class _Front:
    files: Sequence[Entry]
    series: int | None = None
    dashes: tuple[int, tuple[int, ...]] = (0, (4, 3))
    label: str | None = "Pareto front"


def _fastest(entries: Collection[Entry], loss: Loss, along: Along) -> list[Entry]:
    """The files that no other beats in both speed and quality, the fastest first."""
    front: list[Entry] = []
    least = float("inf")
    for entry in sorted(entries, key=lambda e: (-(along.value(e) or 0.0), loss.value(e) or 0.0)):
        value = loss.value(entry) or 0.0
        if value < least:
            front.append(entry)
            least = value
    return front


def variant_title(variant: str) -> str:
    """A variant in words, for legends."""
    words = {
        "awq": "AWQ", "imatrix": "importance matrix", "gptq": "GPTQ", "plain": "plain", "hf": "Hugging Face checkpoint",
    }  # fmt: skip
    return " + ".join(words.get(part, escape.terminal(part)) for part in variant.split("+"))
