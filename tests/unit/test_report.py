"""The reports say what was measured, escape what names hold, and are made only when something changed."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ggufkit import load_results, report
from ggufkit.cli.report import report_command
from ggufkit.core.errors import InputError
from ggufkit.core.manifest import PARTIAL
from ggufkit.report import results
from ggufkit.report.anchors import anchor_for, comparable, published_for
from ggufkit.report.card import write_card
from ggufkit.report.choose import GIB, MemoryBudget
from ggufkit.report.commands import shareable
from ggufkit.report.data import Extent, load_entries
from ggufkit.texts.corpus import WIKITEXT2_TEST_SHA256
from tests.fake_results import FAKES, Fake, write_results

HOSTILE = 'a<script>alert(1)</script>&`|_*"'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_results(tmp_path_factory.mktemp("report") / "out")
    report.write(results.collect(root), root, MemoryBudget(GIB))
    return root


class _Checker(HTMLParser):
    """Finds what a self-contained page must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            if key in ("src", "href", "xlink:href") and not str(value).startswith(("#", "data:")):
                self.outside.append(str(value))


def test_the_page_is_whole_small_and_self_contained(made: Path) -> None:
    page = (made / "report.html").read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(page)
    assert checker.outside == []
    assert checker.tags.count("svg") == 6  # two of them for whole pages and for narrow ones
    assert len(checker.ids) == len(set(checker.ids))
    assert len(page.encode()) < 2_000_000
    assert "@import" not in page
    assert not re.search(r"url\(\s*['\"]?http", page)
    assert "#0a00" not in page
    assert "#01020" not in page


def test_the_page_shows_every_number_and_no_invented_one(made: Path) -> None:
    page = (made / "report.html").read_text(encoding="utf-8")
    for fake in FAKES:
        assert f">{fake.type}" in page or f"{fake.variant} {fake.type}" in page
        if fake.kld is not None:
            assert f"{fake.kld:.6f}" in page
    table = page[page.index('<table id="table">') :]
    base = table[table.index("tiny-F16.gguf</small>") :].split("</tr>")[0]
    assert base.count("–") >= 3  # the base has no KL divergence
    assert "Q4_0: gptq is best" in page


def test_markdown_for_a_model_card(made: Path) -> None:
    text = (made / "report.md").read_text(encoding="utf-8")
    assert "| `tiny-imatrix-Q5_0.gguf` ★ |" in text
    assert "0.005786 ± 0.000080" in text
    assert f"# tales.txt: sha256 {'ab' * 32}" in text
    for made_so in ("q8_0,q5_0,q4_0 --variants plain,imatrix", "q4_0 --variants awq,gptq"):
        assert f"ggufkit build tiny --types {made_so} --corpus tales.txt --chunks 60\n" in text
    assert (
        "**Which one should I take?** With 1.00 GiB of memory, take tiny-Q8\\_0.gguf: the best that fits" in text
    )
    assert "/somewhere" not in text
    assert "<details>" in text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:3])
    for manifest in root.glob("*.manifest.json"):
        manifest.write_text(manifest.read_text().replace('"tiny"', '"' + HOSTILE.replace('"', '\\"') + '"'))
    report.write(results.collect(root), root)
    page, text = (root / "report.html").read_text(), (root / "report.md").read_text()
    assert "<script>alert" not in page
    assert "a&lt;script&gt;alert(1)" in page
    assert "<script>" not in text.replace("```", "")[:200]


def test_names_stay_in_their_place(tmp_path: Path) -> None:
    """Line breaks, fences, escapes and formulas in names, types and manifests."""
    foreign = "x\n# Error: `$\\frac` <script>\n```\n---\x1b[2J\u202e|[a](http://e.vil)"
    root = write_results(tmp_path / "out", FAKES[:3], name="=t\x1b\n|`<b>$x")
    for file in root.glob("*.manifest.json"):
        made = json.loads(file.read_text())
        made["notes"] |= {"name": foreign, "variant": foreign, "type": foreign, "source": f"acme/{foreign}"}
        made["argv"] = [[*made["argv"][0], foreign]]
        file.write_text(json.dumps(made))
    rows = results.collect(root)
    report.write(rows, root)
    write_card(rows, root, "acme/tiny")
    page, *texts = ((root / name).read_text() for name in ("report.html", "report.md", "README.md"))
    for text in (page, *texts):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "<script>\n```" not in page
    for text in texts:
        prose = re.sub(r"(?ms)^(`{3,})(sh)?\n.*?^\1$", "", text.partition("\n---\n")[2] or text)
        prose = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\[`|]", "", prose))
        assert "<script>" not in prose
        assert "<b>" not in prose
        assert "](http://e.vil" not in prose
        assert "\n# Error" not in prose
        table = [line for line in prose.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in table[:5]}) == 1
    assert yaml.safe_load(texts[1].split("---\n")[1])["library_name"] == "gguf"
    cells = (root / "results.csv").read_text()
    assert "\n=" not in cells
    assert ",=" not in cells
    assert list(load_results(root)["name"]) == [foreign] * 3


def test_nothing_changed_nothing_is_made(made: Path, tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:3])
    rows = results.collect(root)
    assert not report.is_current(rows, root)
    report.write(rows, root)
    assert report.is_current(rows, root)
    assert not report.is_current(rows, root, MemoryBudget(GIB))
    assert not report.is_current(rows[:2], root)
    (root / "report.html").write_text("touched")
    assert not report.is_current(rows, root)


def test_reports_are_reproducible(made: Path) -> None:
    before = (made / "report.html").read_bytes()
    report.write(results.collect(made), made, MemoryBudget(GIB))
    assert (made / "report.html").read_bytes() == before


def test_rows_measured_otherwise_stand_apart(tmp_path: Path) -> None:
    fakes = [*FAKES[:4], Fake("imatrix", "Q4_0", 0.02, n_chunks=20), Fake("gptq", "Q4_0", 0.01, machine="Other")]
    root = write_results(tmp_path / "out", fakes)
    report.write(results.collect(root), root)
    text = (root / "report.md").read_text()
    assert "`tiny-imatrix-Q4_0.gguf` †" in text
    assert "another number of chunks: 20, not 60" in text
    assert "another machine: Other, not Test CPU" in text
    assert "Q4_0: " not in text.split("## How")[0].split("| File")[0] or "imatrix" not in text.split("| File")[0]


@pytest.mark.parametrize("fakes", [[Fake("plain", "Q8_0", None)], [Fake("plain", "F16", None, tg=None)]])
def test_little_to_report(tmp_path: Path, fakes: list[Fake]) -> None:
    root = write_results(tmp_path / "out", fakes)
    report.write(results.collect(root), root)
    assert (root / "report.html").stat().st_size > 5000


def test_published_figures_need_the_same_model_and_conditions(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:4], name="Qwen2.5-0.5B-Instruct")
    entries = load_entries(results.collect(root), root)
    assert published_for(entries) is None  # the name alone is not enough
    object.__setattr__(entries[0].row, "n_params", 494_032_768)
    known = published_for(entries)
    assert known is not None
    assert known.model == "Qwen2.5-0.5B-Instruct"
    anchor = anchor_for(next(e for e in entries if e.row.type == "Q4_0"), known)
    assert anchor is not None
    assert anchor.ppl == 17.10
    assert not comparable(entries[0])
    object.__setattr__(entries[0].row, "corpus_sha256", WIKITEXT2_TEST_SHA256)
    object.__setattr__(entries[0], "extent", Extent(WIKITEXT2_TEST_SHA256))
    assert comparable(entries[0])


def test_commands_carry_no_paths_of_this_machine() -> None:
    argv = ["/home/me/llama/bin/llama-quantize", "/data/m-F16.gguf", f"/data/m-Q4_0.gguf{PARTIAL}", "Q4_0", "2"]
    assert shareable(argv) == "llama-quantize m-F16.gguf m-Q4_0.gguf Q4_0 2"
    argv = ["/x/python3", "-m", "ggufkit.llama.launcher", "/src", "/models/My Model", "--outfile", f"/o/m.gguf{PARTIAL}",
            "--probes", "/o/p.json"]  # fmt: skip
    assert shareable(argv) == "python convert_hf_to_gguf.py 'My Model' --outfile m.gguf"
    assert shareable(["llama-perplexity", "--save-all-logits", "/o/.ggufkit/scratch/logits-0.pipe"]).endswith(
        "base.logits"
    )


def own_file(root: Path, name: str) -> Path:
    file = root / name
    file.write_text({"csv": "date,amount\n1,2\n", "json": '{"a": 1}\n'}.get(file.suffix[1:], "mine"))
    return file


@pytest.mark.parametrize("name", report.FILES)
def test_what_ggufkit_never_wrote_is_not_written_over(name: str, tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    mine = own_file(root, name).read_text()
    with pytest.raises(InputError, match=rf"{name} exists already, and ggufkit did not write it"):
        CliRunner().invoke(report_command, [str(root)], catch_exceptions=False)
    assert (root / name).read_text() == mine
    assert [n for n in report.FILES if (root / n).exists()] == [name]


@pytest.mark.parametrize("name", ["results.csv", "results.json"])
def test_a_table_of_the_users_in_the_place_of_ggufkits(name: str, tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    report.write(results.collect(root), root)
    own_file(root, name)
    with pytest.raises(InputError, match="did not write it"):
        report.require_writable(root)


def test_what_ggufkit_wrote_once_is_written_again(tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    report.write(results.collect(root), root)
    (root / ".ggufkit" / "report.json").unlink()
    report.require_writable(root)  # by its form
    report.write(results.collect(root), root)
    for name in ("report.md", "report.html"):
        (root / name).write_text("edited")
    report.require_writable(root)
    assert CliRunner().invoke(report_command, [str(root)], catch_exceptions=False).exit_code == 0
    assert (root / "report.md").read_text() != "edited"


@pytest.fixture
def moved(tmp_path: Path, private_cache: Path) -> Path:
    """A result directory whose hidden part did not come along."""
    root = write_results(tmp_path / "out", FAKES[:2])
    report.write(results.collect(root), root)
    shutil.rmtree(root / ".ggufkit")
    return root


def test_measurements_are_not_lost_with_the_hidden_directory(moved: Path) -> None:
    before = {name: (moved / name).read_bytes() for name in report.FILES}
    with pytest.raises(InputError, match=r"lacks the measurements of tiny-F16\.gguf") as refused:
        CliRunner().invoke(report_command, [str(moved)], catch_exceptions=False)
    assert "cp -r" in str(refused.value.hint)
    assert {name: (moved / name).read_bytes() for name in report.FILES} == before
    assert not (moved / ".ggufkit").exists()


def test_without_measurements_a_report_is_made_anywhere(moved: Path) -> None:
    (moved / "results.json").unlink()
    assert CliRunner().invoke(report_command, [str(moved)], catch_exceptions=False).exit_code == 0
    assert report.is_current(results.collect(moved), moved)
    assert CliRunner().invoke(report_command, [str(moved)], catch_exceptions=False).exit_code == 0


def test_measurements_of_files_that_are_gone_may_go(tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:3])
    report.write(results.collect(root), root)
    for file in [*root.glob("tiny-Q5_0*"), *(root / ".ggufkit" / "measurements").glob("tiny-Q5_0*")]:
        file.unlink()
    report.require_writable(root)
