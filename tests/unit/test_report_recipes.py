"""Files by a recipe in the reports: what was asked for, what came of it, and the types as a map."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from matplotlib.text import Text

from ggufkit import report
from ggufkit.cli.inspect import inspect_command
from ggufkit.core.progress import SilentReporter
from ggufkit.recipes.recipe_file import write_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe, recipe_path
from ggufkit.report import plots, results
from ggufkit.report.data import Entry, load_entries
from ggufkit.report.labels import Label, place
from ggufkit.report.recipes import nearest_preset, told
from ggufkit.report.type_colours import swatches
from tests.fake_results import Fake, write_results

FAKES = (
    Fake("plain", "F16", None, tg=23.0),
    Fake("plain", "Q4_0", 0.0314),
    Fake("imatrix", "Q8_0", 0.0004),
    Fake("imatrix", "Q4_0", 0.0276),
    Fake("imatrix", "Q5_0", 0.0138),
)
FILE = "tiny-imatrix-Q5_0.gguf"
"""Which stands for one that was made from a recipe."""
RECIPE = TypeRecipe(
    choices=(
        Choice("token_embd.weight", "F16"),
        Choice("blk.0.ffn_up.weight", "Q5_0", 90112, 0.004, "sensitive"),
        Choice("blk.1.ffn_up.weight", "Q5_0", 90112),
    ),
    target="like:q4_0", size_bytes=500_000, expected_kld=0.0123,
    measured_on={"base": "ab" * 32, "calibration": "calibration-en.txt " + "cd" * 32},
    remarks=("The preset's types were kept, because they measured better.",),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_results(tmp_path_factory.mktemp("report") / "out", FAKES)
    write_recipe(RECIPE, recipe_path(root / FILE))
    report.write(results.collect(root), root)
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def entries_of(root: Path) -> list[Entry]:
    return load_entries(results.collect(root), root)


def test_both_reports_say_what_was_asked_for_and_what_came_of_it(made: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (
            re.sub(r"<[^>]*>", " ", (made / name).read_text(encoding="utf-8"))
            .replace("\\", "")
            .replace("&#39;", "'")
        )
        for said in ("like:q4_0", "0.0123 nats on the calibration text", "0.0138 ± 0.0002 nats on tales.txt, sha256 abab",
                     "0.50 of its loss in", "calibration-en.txt cdcd", RECIPE.remarks[0], "ffn_up", "Q5_0"):  # fmt: skip
            assert said in text, (name, said)
        assert "cd" * 10 not in text


def test_the_map_has_a_square_for_each_tensor_beside_the_preset(made: Path) -> None:
    page = (made / "report.html").read_text(encoding="utf-8")
    titles = re.findall(r'<i class="(q\d|off)" title="([^"]*)"', page)
    assert titles == [
        ("q1", "ffn_up, layer 0: Q5_0 (0.004 nats expected; sensitive)"),
        ("q1", "ffn_up, layer 1: Q5_0"),
        ("off", "token_embd: F16"),
        ("q0", "ffn_up, layer 0: Q4_0"),
        ("q0", "ffn_up, layer 1: Q4_0"),
        ("off", "token_embd: F16"),
    ]
    assert page.count('role="img" aria-label="Types of') == 2
    assert re.search(r'<th scope="row">ffn_up</th><td>Q5_0\s×2</td><td>Q4_0\s×2</td>', page)


def test_reports_without_recipes_do_not_speak_of_them(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES)
    report.write(results.collect(root), root)
    assert "recipe" not in (root / "report.html").read_text() + (root / "report.md").read_text()


def test_a_changed_recipe_makes_reports_stale(copy: Path) -> None:
    rows = results.collect(copy)
    assert report.is_current(rows, copy)
    write_recipe(replace(RECIPE, target="5bpw"), recipe_path(copy / FILE))
    assert not report.is_current(rows, copy)


def test_a_broken_recipe_is_told_and_left_out(copy: Path) -> None:
    recipe_path(copy / FILE).write_text("tensors: [")
    teller = _Teller()
    rows = results.collect(copy, teller)
    assert [said for said in teller.said if FILE + ".recipe.yaml" in said]
    assert [e.recipe for e in load_entries(rows, copy)] == [None] * len(rows)


def test_a_recipe_of_another_file_is_noticed(made: Path) -> None:
    odd = replace(RECIPE, choices=(*RECIPE.choices[:2], Choice("blk.9.ffn_up.weight", "Q4_0")))
    changed = [replace(e, recipe=odd) if e.recipe is not None else e for e in entries_of(made)]
    (one,) = told(changed, changed)
    assert one.remarks[-1] == "The file is not as its recipe says: blk.9.ffn_up.weight is not there, not Q4_0."


def test_the_nearest_preset_is_one_of_the_same_variant(made: Path) -> None:
    entries = entries_of(made)
    by_recipe = next(e for e in entries if e.recipe is not None)
    nearest = nearest_preset(by_recipe, entries)
    assert nearest is not None
    assert nearest.label == "imatrix Q4_0"
    assert nearest_preset(by_recipe, [e for e in entries if e.row.variant == "plain"]) is None


def test_what_was_measured_otherwise_is_not_compared(made: Path) -> None:
    entries = entries_of(made)
    apart = [e for e in entries if e.label != "imatrix Q4_0"]
    (one,) = told(entries, apart)
    assert not any(label.startswith("Beside") for label, _ in one.facts)


def test_foreign_words_in_a_recipe_stay_words(copy: Path) -> None:
    foreign = "<script>alert(1)</script>\u202e|x"
    hostile = replace(RECIPE, target=foreign, remarks=(foreign,), measured_on={foreign: foreign})
    write_recipe(replace(hostile, choices=(replace(RECIPE.choices[1], why=foreign),)), recipe_path(copy / FILE))
    report.write(results.collect(copy), copy)
    for name in ("report.html", "report.md"):
        text = (copy / name).read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert "\u202e" not in text


def test_recipes_have_a_marker_and_a_front_of_their_own(made: Path) -> None:
    entries = entries_of(made)
    drawn = plots.quality_by_size(entries)
    assert drawn is not None
    assert "importance matrix, by recipe" in drawn
    assert "Pareto front" not in drawn
    assert "Pareto front" in str(plots.quality_by_size([replace(e, recipe=None) for e in entries]))


def test_no_label_covers_another() -> None:
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axes = figure.subplots()
    points = [(1 + i % 4 * 0.02, 1 + i * 0.02) for i in range(12)] + [(3.0, 2.0)]
    axes.plot(*zip(*points, strict=True), "o")
    axes.plot([1, 3], [1, 2])
    axes.margins(x=0.2)
    place(axes, [Label(f"like-Q{i}_K_M", x, y) for i, (x, y) in enumerate(points)], points, fontsize=8.5)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) >= 6
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    where = axes.transData.transform(points)
    assert not any(box.contains(x, y) for box in boxes for x, y in where)
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_a_label_is_nearest_to_its_own_point() -> None:
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axes = figure.subplots()
    points = [(8.0, 2.4), (9.57, 1.42), (9.81, 1.35)]
    axes.errorbar([x for x, _ in points], [y for _, y in points], yerr=0.4, fmt="o")
    place(
        axes, [Label(name, *at) for name, at in zip(("Q3_K_M", "4.90bpw", "Q4_K_M"), points, strict=True)], points
    )
    figure.draw_without_rendering()
    where = axes.transData.transform(points)
    for i, text in enumerate(axes.texts):
        box = Text.get_window_extent(text)
        near = [(min(max(x, box.x0), box.x1) - x) ** 2 + (min(max(y, box.y0), box.y1) - y) ** 2 for x, y in where]
        assert near[i] == min(near) or getattr(text, "arrow_patch", None) is not None
    assert len(axes.texts) == 3


def test_colours_follow_the_bits_and_can_be_read() -> None:
    found = swatches(["Q8_0", "Q4_K", "F16", "Q2_K", "Q4_K, Q6_K", "type99"])
    assert [s.label for s in found] == ["type99", "Q2_K", "Q4_K", "Q4_K, Q6_K", "Q8_0", "F16"]
    assert [s.light is None for s in found] == [True, False, False, False, False, True]
    shades = [s.light for s in found if s.light is not None]
    bright = [sum(bytes.fromhex(shade.background[1:])) for shade in shades]
    assert bright == sorted(bright, reverse=True)
    assert (shades[0].ink, shades[-1].ink) == ("#000000", "#ffffff")


def test_inspect_prints_the_types_by_layer(made: Path) -> None:
    said = CliRunner().invoke(inspect_command, [str(made / FILE)], catch_exceptions=False).output
    assert re.search(r"^ffn_up +Q5_0 ×2 *$", said, re.MULTILINE)
    assert re.search(r"^token_embd +F16 *$", said, re.MULTILINE)
    assert "output_norm" not in said


class _Teller(SilentReporter):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)
