"""Foreign text for where it goes: names in files, answers of hubs, words of tools neither act there nor pretend to be ours.

YAML has `yaml.safe_dump`, Modelfiles `modelfile.grammar`, which reads back what it writes.
"""

from __future__ import annotations

import html as _html
import re
import unicodedata

_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's controls, formats (which turn the direction of writing), lone surrogates, and separators of lines."""
_JOINERS = "\u200c\u200d"
"""Formats that only join letters: Persian and Emoji are written with them."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MARKDOWN = re.compile(r"[\\`*_\[\]|~]|(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
# A spreadsheet takes what begins so for a formula; an apostrophe before it marks text.
_FORMULA = re.compile("(?='*[=+\\-@\t\n\uff1d\uff0b\uff0d\uff20])")
_MARKED = re.compile(f"'{_FORMULA.pattern}")


def terminal(text: str, *, lines: bool = False) -> str:
    r"""Text on one line of a terminal: what would act there is shown as `\x1b`, `\n`, `\u202e`.

    Args:
        lines: line breaks and tabs belong to the text, and stay.
    """
    if text.isprintable():
        return text
    kept = _JOINERS + "\n\t" if lines else _JOINERS
    return "".join(c if c in kept or unicodedata.category(c) not in _ACTING else _shown(c) for c in text)


def _shown(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def markdown(text: str) -> str:
    """Text within a line of Markdown or a cell of its tables: no markup, no HTML, no link."""
    return _MARKDOWN.sub(lambda found: "\\" + found[0], markdown_html(text))


def markdown_html(text: str) -> str:
    """Text within a line of HTML that stands in Markdown, where nothing else is markup."""
    return _html.escape(terminal(" ".join(text.split())), quote=False)


def markdown_code(text: str, *, cell: bool = False) -> str:
    """Text as a code span of Markdown, behind more backquotes than it holds.

    Args:
        cell: it stands in a table, where a pipe would end the cell.
    """
    line = terminal(" ".join(text.split())) or " "
    marks = "`" * (_longest_run(line) + 1)
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    span = f"{marks}{pad}{line}{pad}{marks}"
    return span.replace("|", "\\|") if cell else span


def markdown_block(text: str, language: str = "") -> str:
    """Lines of text as a fenced block of Markdown, behind a longer fence than they hold."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{terminal(text, lines=True)}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def csv(text: str) -> str:
    """A cell of text for a spreadsheet: never a formula. `from_csv` gives the text back.

    NUL and a carriage return are shown as on a terminal: readers take them for the end of a text or a row.
    """
    cell = re.sub("[\0\r]", lambda found: _shown(found[0]), text)
    return f"'{cell}" if _FORMULA.match(cell) else cell


def from_csv(cell: str) -> str:
    """The text of a cell that `csv` wrote."""
    return cell[1:] if _MARKED.match(cell) else cell
