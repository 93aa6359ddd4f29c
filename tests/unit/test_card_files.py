"""The files of a model card: those that are in the repository, with links, sizes, parts and plain words."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.hub.addresses import Address
from ggufkit.report import downloads, results
from ggufkit.report.choose import MemoryBudget
from ggufkit.report.data import load_entries
from ggufkit.report.downloads import Shelf
from ggufkit.report.recommend import advise
from ggufkit.report.summary import Summary, summarize
from tests.fake_results import FAKES, Fake, write_results


@pytest.fixture
def summary(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Summary:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    return summary_of(tmp_path / "out", *FAKES)


def summary_of(root: Path, *fakes: Fake) -> Summary:
    write_results(root, fakes)
    return summarize(load_entries(results.collect(root), root), MemoryBudget())


def whole(summary: Summary, repo: str = "me/x") -> Shelf:
    return Shelf.of(repo, [e.row.file for e in summary.entries])


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_each_file_has_a_link_a_size_and_words(summary: Summary) -> None:
    heads, _, *lines = rows(downloads.table(summary, whole(summary)))
    assert heads == ["File", "Type", "Size", "In words"]
    assert len(lines) == len(FAKES)
    assert lines[0][0] == "[`tiny-F16.gguf`](https://huggingface.co/me/x/resolve/main/tiny-F16.gguf)"
    by_file = {re.sub(r"\[`(.*?)`.*", r"\1", line[0]): line[-1] for line in lines}
    assert all(words in by_file[file] for file, words in summary.advice.words.items() if "F16" not in file)
    assert summary.advice.pick is not None
    assert [f for f, words in by_file.items() if "take this one" in words] == [summary.advice.pick.entry.row.file]


def test_each_rung_of_the_ladder_is_named(summary: Summary) -> None:
    table = downloads.table(summary, whole(summary))
    lines = {e.row.file: line for e in summary.entries for line in table.splitlines() if f"`{e.row.file}`" in line}
    assert all(f"**{rung.name}**" in lines[rung.entry.row.file] for rung in summary.advice.ladder if rung.name)


def test_a_card_for_no_repository_has_names_alone(summary: Summary) -> None:
    table = downloads.table(summary, None)
    assert "`tiny-Q4_0.gguf`" in table
    assert "](" not in table


def test_links_are_for_the_hub(summary: Summary) -> None:
    table = downloads.table(summary, whole(summary, "ms:me/x"))
    assert "(https://modelscope.cn/models/me/x/resolve/master/tiny-Q8_0.gguf)" in table


def in_parts(summary: Summary, file: str) -> Shelf:
    shelf = whole(summary)
    parts = [f"{file.removesuffix('.gguf')}-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    return replace(shelf, files={**shelf.files, file: parts}, names={*shelf.names, *parts})


def test_a_file_in_parts_has_a_link_for_each(summary: Summary) -> None:
    shelf = in_parts(summary, "tiny-F16.gguf")
    heads, _, first, second, *_ = rows(downloads.table(summary, shelf))
    assert heads[3] == "Parts"
    assert (first[3], second[3]) == ("3", "1")
    assert re.findall(r"\[(\d)\]\(\S+/tiny-F16-0000\1-of-00003\.gguf\)", first[0]) == ["1", "2", "3"]
    assert "--include 'tiny-F16-*-of-00003.gguf'" in downloads.ways(summary, shelf)


def test_the_file_to_take_in_parts_is_nothing_for_ollama(summary: Summary) -> None:
    assert summary.advice.pick is not None
    stem = summary.advice.pick.entry.row.file.removesuffix(".gguf")
    shelf = in_parts(summary, f"{stem}.gguf")
    text = downloads.usage(summary.advice, shelf, embeds=False)
    assert "-00001-of-00003.gguf" in text
    assert "ollama" not in text
    on_modelscope = downloads.usage(summary.advice, replace(shelf, address=Address("ms:me/x")), embeds=False)
    assert f"--include '{stem}-*-of-00003.gguf'" in on_modelscope


def test_what_is_not_there_is_not_offered(summary: Summary) -> None:
    shelf = replace(whole(summary), files={"tiny-Q4_0.gguf": ("tiny-Q4_0.gguf",)})
    assert downloads.table(summary, shelf).count("resolve") == 1
    assert downloads.usage(summary.advice, shelf, embeds=False) == ""
    nothing = replace(shelf, files={})
    assert downloads.table(summary, nothing) == downloads.ways(summary, nothing) == ""


@pytest.mark.parametrize(
    ("fakes", "tag"),
    [
        ([FAKES[0], FAKES[3]], "Q4_0"),
        ([FAKES[0], Fake("imatrix", "Q4_0", 0.02)], "Q4_0"),
        ([FAKES[0], FAKES[3], FAKES[7]], "tiny-gptq-Q4_0.gguf"),
        ([FAKES[0], FAKES[3], Fake("imatrix", "like-Q4_0", 0.2)], "tiny-Q4_0.gguf"),
    ],
)
def test_the_tag_is_the_type_where_one_file_has_it(
    fakes: list[Fake], tag: str, tmp_path: Path, private_cache: Path
) -> None:
    made = summary_of(tmp_path / "out", *fakes)
    assert downloads.usage(made.advice, whole(made), embeds=False).endswith(f"ollama run hf.co/me/x:{tag}\n```")


def test_what_files_were_made_with_is_linked(summary: Summary) -> None:
    shelf = whole(summary)
    names = {*shelf.names, "tiny-F16.imatrix", "template", "params"}
    told = replace(
        shelf, names=names, chat="Go template: 545 prompts identical.", prompt="<|user|>{prompt}\n```\n"
    )
    text = downloads.how_made(summary, told)
    assert "- `gptq`: quantized by llama.cpp with an importance matrix, its rounding improved by GPTQ" in text
    assert "`awq+gptq`" not in text
    assert "[`tiny-F16.imatrix`](https://huggingface.co/me/x/resolve/main/tiny-F16.imatrix)" in text
    assert "/template), [`params`]" in text
    assert "545 prompts identical" in text
    assert "system`](" not in text
    assert "````\n<|user|>{prompt}\n```\n````" in text
    assert "prompts identical" not in downloads.how_made(summary, shelf)


def test_the_answer_is_for_what_there_is_to_choose_from(summary: Summary) -> None:
    """All places give one answer; where the file is not in the repository, the answer for those that are."""
    from ggufkit.report.card import _of_what_is_there

    assert _of_what_is_there(summary, whole(summary)).advice == summary.advice
    there = [e for e in summary.quality if "Q8_0" in e.row.file or "F16" in e.row.file]
    shelf = Shelf.of("me/x", [e.row.file for e in there])
    chosen = _of_what_is_there(summary, shelf).advice
    assert chosen == advise(summary.quality, summary.budget, shelf.files)
    assert {rung.entry.row.file for rung in chosen.ladder} <= set(shelf.files)
    assert chosen.pick is not None
    assert chosen.pick.entry.row.file in shelf.files
