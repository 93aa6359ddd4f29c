"""Foreign text neither acts nor pretends to be ours: on a terminal, in Markdown, in a spreadsheet."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import asdict, replace
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from rich.table import Table

from ggufkit import cli
from ggufkit.cli import side_by_side, terminal
from ggufkit.core import escape
from ggufkit.core.errors import InputError
from ggufkit.core.records import ResultRow
from ggufkit.report import tables
from ggufkit.report.compare import Group

HOSTILE = "x\x1b[2Jfake\nError: no\r\x9b1m\u202etxt[red]b[/red]"
SHOWN = r"x\x1b[2Jfake\nError: no\r\x9b1m\u202etxt[red]b[/red]"
ACTING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
CSV = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=20)


@given(st.text())
def test_nothing_acts_on_a_terminal(text: str) -> None:
    shown = escape.terminal(text)
    assert not ACTING.search(shown)
    assert "\n" not in shown
    assert escape.terminal(shown) == shown
    assert escape.terminal(text, lines=True).count("\n") == text.count("\n")
    shown.encode()


@pytest.mark.parametrize(
    "text", ["Qwen2.5 0.5B", "模型　名", "Ünïcode", "👩\u200d💻", "می\u200cخواهم", "C:\\models\\x"]
)
def test_letters_stay(text: str) -> None:
    assert escape.terminal(text) == text


@pytest.mark.parametrize("stderr", [True, False])
def test_all_ways_to_print(stderr: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    screen = terminal.console(stderr=stderr)
    table = Table(HOSTILE, box=None)
    table.add_row(HOSTILE)
    with screen.capture() as said:
        screen.print(HOSTILE)
        screen.print(terminal.words((HOSTILE, "bold"), HOSTILE))
        screen.print(table)
        reporter = terminal.PlainReporter(screen)
        reporter.warn(HOSTILE)
        reporter.info(HOSTILE)
        with reporter.step(HOSTILE) as step:
            step.last = 0.0  # type: ignore[attr-defined]
            step.update(1, 2, HOSTILE)
    lines = said.get().rstrip("\n").split("\n")
    assert len(lines) == 9
    assert all(SHOWN in line for line in lines)


def test_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with terminal.reporting() as reporter, reporter.step(HOSTILE, 2) as step:
        assert isinstance(reporter, terminal.RichReporter)
        step.update(1, 2, HOSTILE)
        reporter.live.refresh()
    shown = capsys.readouterr().err
    assert SHOWN in shown
    assert "\x1b[2Jfake" not in shown
    assert not [line for line in shown.split("\n") if line.startswith("Error")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError(HOSTILE, hint=HOSTILE, log=Path(HOSTILE), details=[HOSTILE]), 3),
        (ValueError(HOSTILE), 1),
        (click.BadParameter(HOSTILE), 2),
        (PermissionError(13, HOSTILE, HOSTILE), 6),
    ],
)
def test_errors(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_args: object, **_how: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    assert cli._run([], debug=False) == code
    shown = capsys.readouterr().err
    assert not ACTING.search(shown)
    assert sum(line.startswith("Error:") for line in shown.splitlines()) == 1


def test_results_for_people_and_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.say(HOSTILE)
    assert capsys.readouterr().out == f"{SHOWN}\n"
    terminal.stream(HOSTILE)
    assert capsys.readouterr().out == SHOWN.replace("\\n", "\n")
    terminal.emit_path(Path(HOSTILE))
    assert capsys.readouterr().out == f"{HOSTILE}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    terminal.emit_path(Path(HOSTILE))
    assert capsys.readouterr().out == f"{SHOWN}\n"


def test_commands_print_through_the_terminal_module() -> None:
    printing = re.compile(r"\b(click\.s?echo|print|Text|Console|sys\.std\w+\.write)\(")
    for file in Path(cli.__file__).parent.glob("*.py"):
        if file.name not in ("terminal.py", "__init__.py"):
            found = [line for line in file.read_text().splitlines() if printing.search(line)]
            assert all(re.search(r"screen\.print\(|console\(.*\)\.print\(", line) for line in found), (file, found)


def test_side_by_side_is_text() -> None:
    assert side_by_side._heading(HOSTILE, 0, Group(())).plain == SHOWN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\nc", r"a\|b c"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[x](http://e.vil) ![](x)", r"\[x\](http:\//e.vil) !\[\](x)"),
        ("www.e.vil `code` *b* _i_ ~s~", r"www\.e.vil \`code\` \*b\* \_i\_ \~s\~"),
        ("\x1b]8;;x\x07", r"\\x1b\]8;;x\\x07"),
        ("R&D \\ 1 < 2", "R&amp;D \\\\ 1 &lt; 2"),
    ],
)
def test_markdown(text: str, shown: str) -> None:
    assert escape.markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown", "in_cell"),
    [
        ("a-Q4_K_M.gguf", "`a-Q4_K_M.gguf`", "`a-Q4_K_M.gguf`"),
        ("a`|b", "``a`|b``", "``a`\\|b``"),
        ("`a\n``", "``` `a `` ```", "``` `a `` ```"),
    ],
)
def test_code_in_markdown(text: str, shown: str, in_cell: str) -> None:
    assert escape.markdown_code(text) == shown
    assert escape.markdown_code(text, cell=True) == in_cell


@given(st.text("`~\n a"))
def test_no_text_ends_its_block(text: str) -> None:
    first, *lines, last = escape.markdown_block(text, "sh").split("\n")
    assert first == f"{last}sh"
    assert not any(line.strip().startswith(last) for line in lines)


@given(CSV)
def test_a_cell_is_never_a_formula(text: str) -> None:
    cell = escape.csv(text)
    assert not cell.startswith(tuple("=+-@\t\n＝＋－＠"))
    assert escape.from_csv(cell) == text
    assert escape.csv(f"{text}\r\0") == f"{cell}\\r\\x00"


@settings(max_examples=40)
@given(CSV, CSV)
def test_rows_come_back_from_csv(name: str, file: str) -> None:
    row = replace(ROW, name=name, file=file, ln_ppl_ratio=-0.25)
    assert_frame_equal(tables.from_csv(tables.to_csv([row])), tables.frame([row]))


def test_numbers_stay_numbers() -> None:
    row = replace(ROW, name='=HYPERLINK("http://e.vil")', type="+1", variant="-2", file="'=x", ln_ppl_ratio=-0.25)
    header, line = tables.to_csv([row]).splitlines()
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    assert cells["name"] == '"\'=HYPERLINK(""http://e.vil"")"'
    assert (cells["type"], cells["variant"], cells["file"]) == ("'+1", "'-2", "''=x")
    assert cells["ln_ppl_ratio"] == "-0.25"


ROW = ResultRow(
    name="n", variant="plain", type="F16", file="f", size_bytes=1, n_params=1, bpw=16.0, n_fallback=0, sha256="ab"
)


def test_categories_of_what_acts() -> None:
    assert asdict(ROW)["name"] == "n"
    assert {unicodedata.category(c) for c in "\x1b\u202e\ud800\u2028\u2029"} == set(escape._ACTING)
