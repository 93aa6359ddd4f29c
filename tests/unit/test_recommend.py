"""One answer to «which file should I take?», on planted tables, and the same in every place that gives one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli.report import report_command
from ggufkit.core.escape import markdown
from ggufkit.core.records import ResultRow
from ggufkit.report import results, summary_of
from ggufkit.report.card import CARD, write_card
from ggufkit.report.choose import GIB, MIB, MemoryBudget
from ggufkit.report.data import Entry, Extent, Footprint
from ggufkit.report.losses import FAR, GOOD, GRADES, NEARLY_LOSSLESS, losses
from ggufkit.report.recommend import _WORTH, advise
from ggufkit.report.verdict import verdicts
from tests.fake_results import FAKES, SIXTY, Fake, write_results


def entry(
    name: str,
    size: float,
    kld: float | None = None,
    error: float = 0.0,
    top: float | None = None,
    **row: float | None,
) -> Entry:
    """ "Q4_K_M" or "imatrix-Q4_K_M" of so many MiB; a base is what has neither a KL divergence nor another measurement."""
    *variant, kind = name.split("-")
    is_base = kld is None and not row
    made = ResultRow(
        "m", "-".join(variant) or "plain", kind, f"m-{name}.gguf", int(size * MIB), 1000, size,
        ppl=30.0 if is_base else None, ppl_base=30.0 if is_base else None, kld_mean=kld, kld_stderr=error or None,
        same_top_p=top,
    )  # fmt: skip
    for column, value in row.items():
        object.__setattr__(made, column, value)
    return Entry(made, None, None, Extent(), {}, {}, Footprint(made.size_bytes, 0, 0, 0), is_start=kind == "F16")


def taken(files: Sequence[Entry], memory_mib: int | None = None) -> str | None:
    pick = advise(files, MemoryBudget(memory_mib and memory_mib * MIB)).pick
    return None if pick is None else pick.entry.row.file.removeprefix("m-").removesuffix(".gguf")


def starred(files: Sequence[Entry]) -> set[str]:
    return {file.removeprefix("m-").removesuffix(".gguf") for file in advise(files).front}


BASE, Q8 = entry("F16", 1000), entry("Q8_0", 530, 0.0004, 0.00001)


@pytest.mark.parametrize(
    ("kld", "top", "words"),
    [
        (0.006, 0.95, "hard to tell from the base"), (0.0061, 0.99, "good for most uses"),
        (0.006, 0.949, "good for most uses"), (0.05, 0.86, "good for most uses"), (0.05, 0.859, "a little worse"),
        (0.1, None, "a little worse"), (0.2, 0.7, "noticeably worse"), (0.01, 0.6, "much worse"), (9.0, 0.1, "much worse"),
    ],
)  # fmt: skip
def test_words_follow_from_kl_divergence_and_from_the_same_top_token(
    kld: float, top: float | None, words: str
) -> None:
    assert advise([BASE, entry("Q4_0", 1, kld, top=top)]).words["m-Q4_0.gguf"] == words


def test_thresholds_rise_together() -> None:
    limits = [(grade.kld, -grade.same_top, -grade.cosine) for grade in GRADES]
    assert limits == sorted(limits)
    assert GRADES[0] is NEARLY_LOSSLESS
    assert GRADES[-1] is FAR


def test_the_guide_has_the_limits() -> None:
    guide = Path(__file__).resolve().parents[2].joinpath("docs", "guide", "reports.md").read_text(encoding="utf-8")
    for grade in GRADES[:-1]:
        limits = f"| {grade.words} | {grade.kld:g} | {100 * grade.same_top:.0f} % | {grade.cosine:g} |"
        assert limits in guide
    assert f"| {FAR.words} | more | less | less |" in guide
    assert f"{_WORTH}^(KLD / {GOOD.kld})" in guide


def test_of_a_tie_the_plainer_is_taken_and_there_is_one_star() -> None:
    tie = [BASE, Q8, entry("Q4_K_M", 300, 0.0205, 0.0002), entry("imatrix-Q4_K_M", 300.001, 0.0203, 0.0002)]
    assert taken(tie) == taken(tie, 400) == "Q4_K_M"
    assert starred(tie) == {"F16", "Q8_0", "Q4_K_M"}
    better = [*tie, entry("gptq-Q4_K_M", 300, 0.012, 0.0002)]
    assert taken(better) == taken(better, 400) == "gptq-Q4_K_M"
    assert starred(better) == {"F16", "Q8_0", "gptq-Q4_K_M"}


def test_of_a_tie_between_types_the_smaller_is_taken() -> None:
    files = [BASE, entry("Q4_K_M", 300, 0.021, 0.002), entry("Q4_K_S", 285, 0.023, 0.002)]
    assert taken(files) == taken(files, 400) == "Q4_K_S"
    assert starred(files) == {"F16", "Q4_K_S"}


def test_what_the_verdict_calls_no_better_is_never_taken() -> None:
    """A file that is no better than the plainest is not taken, one that is better is."""
    files = [
        BASE, entry("Q4_K_M", 300, 0.0108, 0.0002), entry("imatrix-Q4_K_M", 300, 0.0104, 0.0002),
        entry("gptq-Q4_K_M", 300, 0.0102, 0.0002), Q8,
    ]  # fmt: skip
    assert taken(files) == taken(files, 400) == "gptq-Q4_K_M"
    (verdict,) = verdicts([e.row for e in files])
    assert (verdict.best, verdict.take) == ("gptq", "gptq")


def test_across_a_threshold_a_tie_is_a_tie_for_files_of_one_type() -> None:
    files = [BASE, entry("Q4_0", 300, 0.0502, 0.002), entry("awq-Q4_0", 300, 0.0498, 0.002), Q8]
    assert "awq-Q4_0" not in starred(files)
    assert taken(files) == "Q8_0"


def test_the_balance_is_not_the_smallest() -> None:
    """Where a few bytes more save most of the loss."""
    files = [BASE, Q8, entry("Q2_K", 243, 0.03), entry("Q3_K_M", 248, 0.0075), entry("Q4_K_M", 259, 0.0037)]
    found = advise(files)
    assert taken(files) == "Q3_K_M"
    assert [r.name for r in found.ladder] == ["small", "balanced", "nearly lossless", "the base"]
    assert found.answer.startswith(
        "Take m-Q3_K_M.gguf: the best balance of size and loss, good for most uses (248 MiB, "
    )


def test_llama_3_8b_by_published_figures() -> None:
    """Source: `tools/perplexity/README.md` of llama.cpp; sizes in GiB."""
    figures = {
        "F16": (14.97, None), "Q8_0": (7.96, 0.001355), "Q6_K": (6.14, 0.005452), "Q5_K_M": (5.33, 0.010762),
        "Q4_K_M": (4.58, 0.031273), "Q4_K_S": (4.37, 0.043136), "Q4_0": (4.34, 0.07194), "Q3_K_M": (3.74, 0.101913),
        "Q3_K_S": (3.41, 0.228217), "Q2_K": (2.96, 0.445132),
    }  # fmt: skip
    found = advise([entry(kind, size * 1024, kld) for kind, (size, kld) in figures.items()])
    assert [(r.entry.row.type, r.name, r.words) for r in found.ladder] == [
        ("Q3_K_M", "smallest that speaks well", "noticeably worse"),
        ("Q4_K_S", "small", "good for most uses"),
        ("Q4_K_M", "balanced", "good for most uses"),
        ("Q6_K", "nearly lossless", "hard to tell from the base"),
        ("F16", "the base", "what the others are compared with"),
    ]
    assert [r.entry.row.type for r in found.ladder if r.is_pick] == ["Q4_K_M"]


def test_everything_far_worse_than_the_base() -> None:
    far = [entry("Q3_K_S", 300, 0.5), entry("Q2_K", 250, 0.9)]
    assert taken([BASE, *far]) == "F16"
    assert "every quantized file here is much worse" in advise([BASE, *far]).answer
    assert taken(far) == taken(far, 400) == "Q3_K_S"
    assert taken([BASE, *far], 400) == "Q3_K_S"
    bad = [BASE, entry("Q3_K_M", 300, 0.15), *far]
    assert taken(bad) == "Q3_K_M"
    assert "noticeably worse, and no quantized file here is better" in advise(bad).answer


def test_one_variant_one_file_and_nothing_but_floats() -> None:
    assert taken([BASE, entry("imatrix-Q4_0", 300, 0.03), entry("imatrix-Q5_0", 400, 0.02)]) == "imatrix-Q4_0"
    assert taken([entry("Q2_K", 10, 2.0)]) == "Q2_K"
    assert taken([BASE]) == taken([BASE], 2000) == "F16"
    assert taken([BASE, entry("awq-F16", 1000, 0.0000001, 0.0000001)]) == "F16"
    assert taken([BASE, entry("awq-F16", 1000, 0.00001), Q8], 2000) == "Q8_0"


def test_perplexity_alone_tells_types_by_grade_and_no_variants_apart() -> None:
    """Its error is that of the text, which files share."""
    error = {"ppl_stderr": 0.6}
    files = [
        entry("F16", 1000, ppl=30.0, **error), entry("Q8_0", 530, ppl=30.03, **error), entry("Q6_K", 430, ppl=30.1, **error),
        entry("Q4_K_M", 300, ppl=30.6, **error), entry("imatrix-Q4_K_M", 300, ppl=30.5, **error),
        entry("Q2_K", 220, ppl=39.0, **error),
    ]  # fmt: skip
    assert taken(files) == "Q4_K_M"
    assert taken(files, 2000) == "Q6_K"
    assert starred(files) == {"Q6_K", "Q4_K_M", "Q2_K"}
    assert losses(files)["m-Q4_K_M.gguf"].grade is GOOD
    assert advise(files[1:]).words == {}, "without the base nobody knows how far they are from it"
    assert taken(files[1:]) == "Q4_K_M"


def test_files_that_are_not_to_be_had_count_all_the_same() -> None:
    """A repository without the base: how far the others are from it is known."""
    files = [entry("F16", 1000, ppl=30.0), entry("Q8_0", 530, ppl=30.03), entry("Q4_K_M", 300, ppl=30.6)]
    found = advise(files, among=["m-Q8_0.gguf", "m-Q4_K_M.gguf"])
    assert found.pick is not None
    assert (found.pick.entry.row.type, found.words["m-Q4_K_M.gguf"]) == ("Q4_K_M", "good for most uses")
    assert [r.name for r in found.ladder] == ["balanced", "nearly lossless"]
    assert found.front == {"m-Q8_0.gguf", "m-Q4_K_M.gguf"}


def test_embeddings_are_judged_by_their_cosine() -> None:
    base = entry("F16", 500, ppl=None)
    object.__setattr__(base, "is_reference", True)
    files = [base, *(entry(k, s, cosine_mean=c, cosine_stderr=0.0001)
                     for k, s, c in (("Q8_0", 260, 0.9997), ("Q4_K_M", 150, 0.994), ("Q2_K", 100, 0.93)))]  # fmt: skip
    assert taken(files) == "Q4_K_M"
    assert taken(files, 300) == taken(files, 2000) == "Q8_0"
    assert advise(files).words["m-Q2_K.gguf"] == "much worse"


def test_a_recipe_must_beat_the_preset_of_its_size() -> None:
    recipe = entry("like_Q4_K_M", 300, 0.0203, 0.0002)
    object.__setattr__(recipe, "recipe", object())
    files = [BASE, entry("Q4_K_M", 300, 0.0205, 0.0002), recipe]
    assert taken(files) == "Q4_K_M"
    object.__setattr__(recipe.row, "kld_mean", 0.015)
    assert taken(files) == "like_Q4_K_M"


TABLES = {
    "ties": FAKES,
    "one content twice": (*FAKES[:3], Fake("imatrix", "Q8_0", 0.000418, 0.000005)),
    "one variant": [Fake("imatrix", "Q4_0", 0.03), Fake("imatrix", "Q5_0", 0.02)],
    "no KLD": [Fake("plain", "F16", None, ppl=9.0), Fake("plain", "Q8_0", None, ppl=9.01),
               Fake("plain", "Q4_0", None, ppl=9.3)],
    "one file": [Fake("plain", "Q4_0", 0.02)],
    "far worse": [Fake("plain", "F16", None), Fake("plain", "Q4_0", 0.9, 0.01), Fake("plain", "Q8_0", 0.5, 0.01)],
    "embeddings": [Fake("plain", "F16", None, ppl=None), Fake("plain", "Q8_0", None, ppl=None, cosine=0.9996),
                   Fake("plain", "Q4_0", None, ppl=None, cosine=0.991)],
    "not measured": [Fake("plain", "F16", None, ppl=None), Fake("plain", "Q8_0", None, ppl=None)],
}  # fmt: skip


class _Pick(HTMLParser):
    """The texts of a page that name a file to take."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inside, self.picks, self.rows = "", list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inside = "pick" if given.get("class") == "pick" else tag

    def handle_data(self, data: str) -> None:
        if self.inside == "pick":
            self.picks.append(data)
        self.inside = ""


def choices(page: str) -> dict[str, int]:
    """The page's files in the order in which its script looks at them, and the memory that each needs."""
    found = re.search(r'<script type="application/json" id="choices">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    n = MemoryBudget().n_ctx
    return {f["file"]: f["weights"] + f["fixed"] + (f["kv"] + f["perToken"]) * n for f in json.loads(found[1])}


def page_takes(page: str, memory_bytes: int) -> str | None:
    """What the page's script names: the first of its files that fits."""
    assert "files.find(f => total(f, n) <= have)" in page
    return next((file for file, needed in choices(page).items() if needed <= memory_bytes), None)


@pytest.mark.parametrize("table", TABLES)
def test_every_place_names_the_same_file(table: str, tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "out", TABLES[table])
    rows = results.collect(root)
    advice = summary_of(rows, root).advice
    assert advice.pick is not None
    file = advice.pick.entry.row.file
    shown = CliRunner().invoke(report_command, [str(root)], catch_exceptions=False)
    write_card(rows, root, "me/x")
    text, page, card = ((root / name).read_text() for name in ("report.md", "report.html", CARD))
    assert f"\nTake {file}: {advice.pick.line}.\n" in shown.stdout
    assert f"**Which one should I take?** Take {markdown(file)}: " in text
    assert f"**Which one should I take?** Take {markdown(file)}: " in card
    assert f" -hff {file}\n" in card
    assert _Pick(page).picks == [file]
    for memory_bytes in (1000, *choices(page).values(), GIB):
        fitting = summary_of(rows, root, MemoryBudget(memory_bytes)).advice.pick
        assert page_takes(page, memory_bytes) == (None if fitting is None else fitting.entry.row.file)


def test_for_a_memory_every_place_names_the_same_file(tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:4])
    shown = CliRunner().invoke(report_command, [str(root), "--fits", "1GiB"], catch_exceptions=False)
    said = "With 1.00 GiB of memory, take tiny-Q8_0.gguf: the best that fits, hard to tell from the base ("
    assert said in shown.stdout
    assert markdown(said) in (root / "report.md").read_text()
    assert _Pick((root / "report.html").read_text()).picks == ["tiny-Q8_0.gguf"]


def test_sixty_files_have_a_ladder_of_five(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", SIXTY, n_rows=4096)
    summary = summary_of(results.collect(root), root)
    assert [r.name for r in summary.advice.ladder] == [
        "smallest that speaks well", "small", "balanced", "nearly lossless", "the base",
    ]  # fmt: skip
    assert summary.verdict == (
        "By KL divergence gptq wins for Q8_0, Q6_K, Q5_K_M and 12 more (34% below plain).",
        "awq and imatrix are best nowhere; awq loses more for Q8_0, Q6_K, Q5_K_M and 10 more.",
    )
