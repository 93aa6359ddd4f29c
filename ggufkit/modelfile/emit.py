"""Write a learned shape as a Go template for Ollama."""

from __future__ import annotations

import re
from collections.abc import Callable

from ggufkit.modelfile.learn import Shape
from ggufkit.modelfile.placeholders import (
    Calls,
    Close,
    Content,
    Placeholder,
    System,
    Today,
    Tools,
    UnlearnableTemplate,
)
from ggufkit.modelfile.reference import FOLD_SEPARATOR
from ggufkit.modelfile.snippets import calls_code, defines, go_string, literal, tools_code
from ggufkit.modelfile.trees import Split, Tree, common_prefix, common_suffix, leaves

_CONDITIONS = {
    "first": "not $prev",
    "calls": "$calls",
    "tools": "$.Tools",
    "nothink": "and $.IsThinkSet (not $.Think)",
    "think": "$.Think",
    "first_user": "not $asked",
    "last_user": "eq $i $lastUser",
    "last": "$last",
    "system": "$hasSystem",
    "filled": ".Content",
    "system_filled": "$system",
}


_LIFTED = {
    "inline": "",
    "first": "and $hasSystem (eq $i 0)",
    "last": 'eq .Role "system"',
    "all": 'eq .Role "system"',
}
_FOLDED = 'printf "%s' + go_string(FOLD_SEPARATOR)[1:-1] + '%s" $system .Content'


def emit(shape: Shape, *, thinking: bool = False) -> str:
    """The Go template of a shape.

    Args:
        thinking: mention `.Thinking`, so that Ollama takes the model's reasoning out of its answers.
    """
    return _Emitter(shape, thinking).template()


class _Emitter:
    def __init__(self, shape: Shape, thinking: bool) -> None:
        self.shape = shape
        self.thinking = thinking
        self.snippets: set[str] = set()
        self.tools: dict[str, str] = {}

    def template(self) -> str:
        """Definitions, what must be known beforehand, the loop over the messages, the end."""
        tail = self.tree(self.shape.tail)
        loop = self.loop(uses=tail)
        text = '{{ if ne $prev "assistant" }}' + tail + "{{ end }}" if tail else ""
        variables = self.variables(loop + text)
        return _layout(defines(self.snippets, self.tools) + variables + loop + text)

    def loop(self, uses: str) -> str:
        """One turn per message: what its role asks for, then what the next turns need to know."""
        shape = self.shape
        cases = [(role, self.tree(tree)) for role, tree in sorted(shape.roles.items(), key=_role_order)]
        turn = _chain([(f'eq .Role "{role}"', text) for role, text in cases if text])
        uses += turn
        before = (
            "{{ $content := .Content }}{{ if and $hasSystem (eq $i 1) }}{{ $content = " + _FOLDED + " }}{{ end }}"
        )
        turn = (before if shape.folds_system else "") + turn
        if "$calls" in uses:
            turn = "{{ $calls := .ToolCalls }}" + turn
        if "$last " in uses:
            turn = "{{ $last := eq (len (slice $.Messages $i)) 1 }}" + turn
        turn += "{{ $prev = .Role }}"
        if "$asked" in uses:
            turn += '{{ if eq .Role "user" }}{{ $asked = true }}{{ end }}'
        lifted = "and $hasSystem (eq $i 0)" if shape.folds_system else _LIFTED[shape.system]
        turn = "{{ if not (" + lifted + ") }}" + turn + "{{ end }}" if lifted else turn
        return "{{ range $i, $_ := .Messages }}" + turn + "{{ end }}"

    def variables(self, uses: str) -> str:
        """Declarations of the variables that outlive a turn, and the loop that looks ahead for some of them."""
        looks, declared = "", '{{ $prev := "" }}'
        if "$asked" in uses:
            declared += "{{ $asked := false }}"
        if "$today" in uses:
            declared += "{{ $today := currentDate }}"
        if "$lastUser" in uses:
            declared += "{{ $lastUser := -1 }}"
            looks += '{{ if eq .Role "user" }}{{ $lastUser = $i }}{{ end }}'
        if "$hasSystem" in uses or "$system" in uses:
            declared += '{{ $hasSystem := false }}{{ $system := "" }}'
            when = (
                'eq .Role "system"'
                if self.shape.system in ("last", "all")
                else 'and (eq $i 0) (eq .Role "system")'
            )
            found = "$.System" if self.shape.system == "all" else ".Content"
            looks += "{{ if " + when + " }}{{ $hasSystem = true }}{{ $system = " + found + " }}{{ end }}"
        ahead = "{{ range $i, $_ := .Messages }}" + looks + "{{ end }}" if looks else ""
        return declared + ahead

    def tree(self, tree: Tree) -> str:
        """The code of a tree; what all its leaves share is written once."""
        if isinstance(tree, str):
            return self.text(tree)
        texts, mark = leaves(tree), self.shape.placeholders.char(Close())
        end = common_suffix(texts)
        end = end[next((i for i in range(len(end)) if _starts_well(end[i:])), len(end)) :]
        if mark not in end and any(mark in text for text in texts):
            end = ""
        texts = [text[: len(text) - len(end)] for text in texts]
        head = common_prefix(texts).partition(mark)[0]
        head = head[: next(i for i in range(len(head), -1, -1) if all(_ends_well(t, i) for t in texts))]
        return self.text(head) + self.choice(_trimmed(tree, len(head), len(end))) + self.text(end)

    def choice(self, tree: Tree) -> str:
        """The code of a choice."""
        if not isinstance(tree, Split):
            return self.text(tree)
        if tree.feature == "prev":
            return self.cases_by_role(tree)
        found = {value: self.tree(t) for value, t in tree.cases}
        return _chain([(self.condition(tree.feature), found[True]), ("", found[False])])

    def condition(self, feature: str) -> str:
        """The Go condition of a feature."""
        return "$content" if feature == "filled" and self.shape.folds_system else _CONDITIONS[feature]

    def cases_by_role(self, split: Split) -> str:
        """A choice by the previous role; the most frequent text comes last, as what else there may be."""
        groups: dict[str, list[str]] = {}
        for role, tree in split.cases:
            groups.setdefault(self.tree(tree), []).append(str(role))
        ordered = sorted(groups.items(), key=lambda g: len(g[1]))
        named = [(f"eq $prev {' '.join(go_string(r) for r in roles)}", text) for text, roles in ordered[:-1]]
        return _chain([*named, ("", ordered[-1][0])])

    def text(self, text: str) -> str:
        """Literal text and placeholders."""
        before, mark, after = text.partition(self.shape.placeholders.char(Close()))
        if mark:
            return self.text(before) + "{{ if not $last }}" + self.text(after) + "{{ end }}"
        pieces = re.split(r"([\ufdd0-\ufdef])", text)
        return "".join(
            self.placeholder(self.shape.placeholders[p]) if i % 2 else literal(p) for i, p in enumerate(pieces)
        )

    def placeholder(self, placeholder: Placeholder | None) -> str:
        """The code that fills a placeholder."""
        match placeholder:
            case Content(transform, lead):
                value = self.condition("filled")
                value = f'(printf {go_string(lead)[:-1]}%s" {value})' if lead else value
                return self.thoughts() + self.inserted(value, transform)
            case System(transform):
                return self.inserted("$system", transform)
            case Tools():
                self.snippets.add("jsonString")
                name = f"tools{len(self.tools) or ''}"
                known = [n for n, code in self.tools.items() if code == tools_code(placeholder)]
                self.tools.setdefault((known or [name])[0], tools_code(placeholder))
                return f'{{{{ template "{(known or [name])[0]}" $.Tools }}}}'
            case Calls():
                self.snippets.add("jsonObject")
                return calls_code(placeholder)
            case Today(form):
                return _date(form)
            case _:
                raise AssertionError(placeholder)

    def inserted(self, value: str, transform: str) -> str:
        """A value, through a snippet if the template changes it."""
        if not transform:
            return f"{{{{ {value} }}}}"
        self.snippets.add(transform)
        return f'{{{{ template "{transform}" {value} }}}}'

    def thoughts(self) -> str:
        """The reasoning of an answer that is to be continued. Ollama reads the tags of reasoning off this place."""
        if not self.thinking:
            return ""
        return "{{ if and $last .Thinking }}<think>\n{{ .Thinking }}\n</think>\n{{ end }}"


def _role_order(item: tuple[str, Tree]) -> int:
    return ("system", "user", "assistant", "tool").index(item[0])


def _starts_well(text: str) -> bool:
    """Whether a text does not begin inside a word or a token such as `<|end|>`."""
    first = next((c for c in text if c in "<>[]"), "<")
    return not text[0].isalnum() and first in "<["


def _ends_well(text: str, at: int) -> bool:
    """Whether a text can be cut at a position without tearing a word or a token apart."""
    head = text[:at]
    torn = head.rfind("<") > head.rfind(">") or head.rfind("[") > head.rfind("]")
    return at == 0 or not (torn or (text[at - 1].isalnum() and text[at : at + 1].isalnum()))


def _trimmed(tree: Tree, head: int, end: int) -> Tree:
    if isinstance(tree, str):
        return tree[head : len(tree) - end]
    return Split(tree.feature, tuple((value, _trimmed(t, head, end)) for value, t in tree.cases))


def _chain(cases: list[tuple[str, str]]) -> str:
    """`if`, `else if` and `else`; a case without condition comes last. Empty endings are left out."""
    if len(cases) == 2 and not cases[1][0] and not cases[0][1]:
        condition = cases[0][0]
        simple = condition.startswith("eq ") and condition.count(" ") == 2
        cases = [("ne " + condition[3:] if simple else f"not ({condition})", cases[1][1])]
    while cases and not cases[-1][1]:
        cases = cases[:-1]
    if not cases or not cases[0][0]:
        return cases[0][1] if cases else ""
    text = "".join(
        ("{{ if " if i == 0 else "{{ else if " if condition else "{{ else") + condition + " }}" + inner
        for i, (condition, inner) in enumerate(cases)
    )
    return text + "{{ end }}"


_MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
_MONTHS += ["August", "September", "October", "November", "December"]


def _month(name: Callable[[str], str]) -> str:
    numbered = [(f'eq (slice $today 5 7) "{n:02d}"', name(month)) for n, month in enumerate(_MONTHS, 1)]
    return _chain(numbered)


_DATE = {
    "%d": "{{ slice $today 8 10 }}",
    "%m": "{{ slice $today 5 7 }}",
    "%Y": "{{ slice $today 0 4 }}",
    "%y": "{{ slice $today 2 4 }}",
    "%b": _month(lambda month: month[:3]),
    "%B": _month(lambda month: month),
}


def _date(form: str) -> str:
    """Today's date, cut from Ollama's `currentDate`, which is always year-month-day."""
    pieces = re.split(r"(%.)", form)
    unknown = [p for p in pieces if p.startswith("%") and p not in _DATE]
    if unknown:
        raise UnlearnableTemplate(
            f"The chat template writes today's date as {form!r}, which Ollama's templates cannot do."
        )
    return "".join(_DATE.get(piece) or literal(piece) for piece in pieces)


_STRUCTURE = re.compile(r"\{\{ (?=(?:if|else|end|range|define)\b|\$\w+ :?= )")


def _layout(text: str) -> str:
    """Break lines before control actions, where the text before ends in something that trimming leaves alone."""
    out, at = "", 0
    for match in _STRUCTURE.finditer(text):
        out += text[at : match.start()]
        at = match.end()
        safe = bool(out) and not out[-1].isspace()
        out += "\n{{- " if safe else "{{ "
    return (out + text[at:]).lstrip("\n")
