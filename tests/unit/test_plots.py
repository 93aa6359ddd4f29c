"""Drawings stay readable with many files, whatever was measured, for readers with any colour vision."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from ggufkit.core.units import MIB
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.report import composition, plots, recommend, results, scatter, svg
from ggufkit.report.data import Entry, load_entries
from ggufkit.report.palette import DARK, LIGHT, Theme, marker, numbers
from ggufkit.report.scatter import Along, Scatter
from ggufkit.report.svg import Canvas
from ggufkit.report.timeline import Span, lanes
from tests.fake_results import SIXTY, Fake, write_results

# How colours look to readers without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1), in linear RGB.
VISION = {
    "any": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}  # fmt: skip
# From linear RGB to OKLab, in which distances are as large as they look.
TO_LMS = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
          [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
TO_OKLAB = [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.808675766]]  # fmt: skip
VARIANTS = 6


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    return entries_of(tmp_path_factory.mktemp("sixty") / "out", SIXTY)


def entries_of(root: Path, fakes: Sequence[Fake]) -> list[Entry]:
    write_results(root, fakes, n_rows=2048)
    return load_entries(results.collect(root), root)


def drawn(entries: Sequence[Entry], along: Along, canvas: Canvas) -> Scatter:
    loss = scatter.loss_of(entries)
    shown = scatter.shown(entries, loss, along)
    picture = Scatter(shown, loss, along, recommend.pareto(shown)[3].row.file)
    picture.draw(canvas, 4)
    canvas.figure.draw_without_rendering()
    return picture


def ticks(axis: Any) -> list[Text]:
    """The numbers along an axis that are seen."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


@pytest.mark.parametrize("width", [svg.NARROW_IN, svg.WIDE_IN])
@pytest.mark.parametrize("what", ["size", "speed"])
def test_no_label_of_sixty_files_covers_another_or_a_point(sixty: list[Entry], what: str, width: float) -> None:
    canvas = svg.canvas(width, 4.4)
    along = scatter.SPEED if what == "speed" else scatter.size_of(sixty)
    picture = drawn(sixty, along, canvas)
    boxes = [Text.get_window_extent(text) for text in canvas.axes.texts]
    boxes += [tick.get_window_extent() for axis in (canvas.axes.xaxis, canvas.axes.yaxis) for tick in ticks(axis)]
    boxes += [legend.get_window_extent() for legend in canvas.figure.legends]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    places = [(along.value(e), e.row.kld_mean) for e in picture.entries]
    assert not any(box.contains(x, y) for box in boxes for x, y in canvas.axes.transData.transform(places))
    names = [text.get_text() for text in canvas.axes.texts]
    assert len(names) == len(set(names)), "only the front is named"
    assert len(names) >= 12
    (bold,) = [text for text in canvas.axes.texts if text.get_weight() == "bold"]
    assert bold.get_text() == recommend.pareto(picture.entries)[3].label


def test_all_files_of_the_front_are_named(sixty: list[Entry]) -> None:
    canvas = svg.canvas(svg.WIDE_IN, 4.4)
    picture = drawn(sixty, scatter.size_of(sixty), canvas)
    front = recommend.pareto(picture.entries)
    names = {e.label if e.row.file == picture.taken else e.row.type for e in front}
    assert {text.get_text() for text in canvas.axes.texts} == names


def test_the_file_to_take_is_named_whatever_lines_are_drawn(sixty: list[Entry]) -> None:
    recipe = TypeRecipe((Choice("blk.0.ffn_up.weight", "Q6_K"),))
    entries = [replace(e, recipe=recipe) if e.label == "Q4_K_M" else e for e in sixty]
    canvas = svg.canvas(svg.WIDE_IN, 4.4)
    drawn(entries, scatter.size_of(entries), canvas)
    names = [text.get_text() for text in canvas.axes.texts]
    assert "Pareto front" not in canvas.axes.get_legend_handles_labels()[1]
    assert len(set(names)) == len(names) >= 12
    assert {"gptq Q8_0", "Q4_K_M"} <= set(names), "types that several have are told with the variant"
    assert [text.get_weight() for text in canvas.axes.texts].count("bold") == 1


def test_float_types_take_no_room_from_others(sixty: list[Entry]) -> None:
    canvas = svg.canvas()
    drawn(sixty, scatter.size_of(sixty), canvas)
    largest = max(e.row.size_bytes for e in sixty if e.row.type == "Q8_0") / MIB
    assert canvas.axes.get_xlim()[1] < 1.1 * largest
    assert canvas.axes.get_ylim()[0] > 0.00005
    floats = [e for e in sixty if e.row.type == "F16"]
    assert scatter.shown(floats, scatter.KLD, scatter.SPEED) == floats[1:]


def test_perplexity_is_held_against_the_base(tmp_path: Path) -> None:
    entries = entries_of(tmp_path / "out", SIXTY[:4])
    rows = [replace(e.row, kld_mean=None, ppl_base=e.row.ppl if e.is_base else None) for e in entries]
    page = plots.quality_by_size([replace(e, row=row) for e, row in zip(entries, rows, strict=True)])
    assert page is not None
    assert "perplexity" in page
    assert "the base, F16" in page


def test_a_little_of_a_logarithmic_axis_has_numbers() -> None:
    canvas = svg.canvas()
    canvas.axes.plot([1, 2], [0.012, 0.034])
    canvas.axes.set_yscale("log")
    svg.plain_ticks(canvas.axes.yaxis)
    canvas.figure.draw_without_rendering()
    numbers = [tick.get_text() for tick in ticks(canvas.axes.yaxis) if tick.get_text()]
    assert len(numbers) >= 3
    assert all(re.fullmatch(r"0\.\d+", number) for number in numbers), numbers


def test_the_page_and_the_picture_show_the_same(sixty: list[Entry]) -> None:
    drawing = plots.picture(sixty)
    assert drawing is not None
    assert drawing[:8] == b"\x89PNG\r\n\x1a\n"
    assert plots.picture(sixty[:1]) is None
    page = plots.quality_by_size(sixty, is_wide=True)
    assert page is not None
    assert page.count("<title>") == 58  # all but the float ones
    assert "var(--s1)" in page
    assert "#0a00" not in page


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_of_variants_are_told_apart_and_stand_out(theme: Theme) -> None:
    colours = [linear(colour) for colour in theme.series[:VARIANTS]]
    for colour in colours:
        assert contrast(colour, linear(theme.card)) >= 3
    for name, matrix in VISION.items():
        seen = [oklab(np.asarray(matrix) @ colour) for colour in colours]
        nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
        assert nearest >= 0.09, name
    for ink in (theme.ink, theme.muted, theme.accent):
        for ground in (theme.page, theme.card, theme.mark):
            assert contrast(linear(ink), linear(ground)) >= 4.5


def test_shapes_tell_variants_apart_too() -> None:
    own = ["a method of one's own", "another one"]
    found = numbers(["gptq", *own])
    assert found == {**numbers([]), own[0]: VARIANTS, own[1]: VARIANTS + 1}
    assert len({marker(number) for number in found.values()}) == len(found) == VARIANTS + 2


def linear(colour: str) -> np.ndarray:
    values = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """As WCAG defines it."""
    dark, light = sorted(float(np.dot((0.2126, 0.7152, 0.0722), colour)) for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


def oklab(colour: np.ndarray) -> np.ndarray:
    seen: np.ndarray = np.asarray(TO_OKLAB) @ np.cbrt(np.asarray(TO_LMS) @ np.clip(colour, 0, 1))
    return seen


def test_files_of_one_composition_stand_together(sixty: list[Entry]) -> None:
    found = composition.held(sixty)
    assert [one.title for one in found][:3] == ["F16", "Q8_0", "Q6_K"]
    assert len(found) == len({e.row.type for e in sixty})
    assert sum(len(one.labels) for one in found) == len(sixty)
    mixed = next(one for one in found if one.title == "Q4_K_M")
    assert mixed.labels == ("Q4_K_M", "awq Q4_K_M", "imatrix Q4_K_M", "gptq Q4_K_M")
    assert [part.type for part in mixed.parts] == ["F32", "F16", "Q6_K", "Q4_K"]
    assert sum(part.share for part in mixed.parts) == pytest.approx(1)


def test_a_lane_holds_what_ran_one_after_the_other() -> None:
    spans = [Span("a", "CPU", 0, 4), Span("b", "CUDA", 1, 9), Span("c", "CPU", 2, 3), Span("d", "CPU", 4.0, 1)]
    placed = {on: [[s.label for s in row] for row in rows] for on, rows in lanes(spans).items()}
    assert placed == {"CPU": [["a", "d"], ["c"]], "CUDA": [["b"]]}
    drawing = plots.timeline(spans)
    assert drawing is not None
    assert drawing.count("<title>") == len(spans)


def test_of_many_files_the_front_shows_how_its_loss_is_spread(sixty: list[Entry]) -> None:
    assert {e.row.variant for e in plots.spread(sixty)} == {"gptq"}
    assert plots.spread(sixty[:9]) == sixty[1:9], "of few, all but the float types"
