"""Go's `text/template`, as much of it as the emitted templates use: parsing and the tree.

This subset is compared with Go's own engine in the tests, and what is outside of it is refused, never guessed.
`gotpl` (PyPI, 0.1.0) covers far more, but writes another prompt than Go in 63 of the 912 cases of these tests, calls
itself partial, and needs Python 3.11. `gorender` runs the tree.
Source: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ggufkit.core.errors import GgufkitError


class GoTemplateError(GgufkitError):
    """A Go template outside the subset, or one that fails on its data as it would in Go."""


@dataclass(frozen=True)
class Literal:
    """A constant: bytes for Go's string, int, bool."""

    value: bytes | int | bool


@dataclass(frozen=True)
class Chain:
    """Fields of a value: the dot (base None), a variable (its name) or a parenthesized expression."""

    base: Expr | str | None
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A function of the template language with its arguments."""

    function: str
    args: tuple[Expr, ...]


Expr = Literal | Chain | Call


@dataclass(frozen=True)
class Text:
    """Literal text."""

    data: bytes


@dataclass(frozen=True)
class Output:
    """`{{ expr }}`."""

    value: Expr


@dataclass(frozen=True)
class Assign:
    """`{{ $name := expr }}` or `{{ $name = expr }}`."""

    name: str
    value: Expr
    declares: bool


@dataclass(frozen=True)
class If:
    """`{{ if }}`; an `else if` is an If in `otherwise`."""

    condition: Expr
    then: Nodes
    otherwise: Nodes


@dataclass(frozen=True)
class Range:
    """`{{ range $index, $item := expr }}`; either name may be None."""

    index: str | None
    item: str | None
    value: Expr
    body: Nodes


@dataclass(frozen=True)
class Include:
    """`{{ template "name" expr }}`."""

    name: str
    value: Expr


Node = Text | Output | Assign | If | Range | Include
Nodes = tuple[Node, ...]


@dataclass(frozen=True)
class GoTemplate:
    """A parsed template: its own nodes, and those of each `define`."""

    main: Nodes
    defines: dict[str, Nodes]

    @property
    def uses_messages(self) -> bool:
        """Whether `.Messages` occurs, which decides how Ollama executes a template."""
        return any("Messages" in chain.fields for chain in _chains(self.main))


def parse(source: str) -> GoTemplate:
    """Parse a template of the subset.

    Raises:
        GoTemplateError: a syntax error, or an action that the subset leaves out.
    """
    parser = _Parser(list(_lex(source)))
    try:
        nodes, _ = parser.block(())
    except RecursionError:
        raise GoTemplateError("The template is nested too deep.") from None
    return GoTemplate(nodes, parser.defines)


_ACTION = re.compile(r"""\{\{(?:"(?:\\.|[^"\\\n])*"|`[^`]*`|(?!\}\})[^"`])*\}\}""", re.S)


def _lex(source: str) -> Iterator[bytes | list[str]]:
    """Text as bytes, actions as lists of tokens; `{{-` and `-}}` trim the text beside them."""
    at, trim = 0, False
    while at <= len(source):
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        match = _ACTION.match(source, start) if start >= 0 else None
        if start >= 0 and match is None:
            raise GoTemplateError(f"Unclosed action: {source[start : start + 40]!r}")
        text = text.lstrip(" \t\r\n") if trim else text
        left = match is not None and re.match(r"\{\{-\s", match.group()) is not None
        text = text.rstrip(" \t\r\n") if left else text
        if text:
            yield text.encode()
        if match is None:
            return
        code = re.sub(r"^-\s", "", match.group()[2:-2])
        trim = re.search(r"\s-$", code) is not None
        yield _tokens(re.sub(r"\s-$", "", code))
        at = match.end()


_TOKEN = re.compile(
    r"""\s*(?P<token>"(?:\\.|[^"\\\n])*" | `[^`]*` | -?\d+ | := | = | , | \( | \)(?:\.\w+)* |
        \$\w*(?:\.\w+)* | (?:\.\w+)+ | \. | [A-Za-z_]\w*)""",
    re.X,
)


def _tokens(code: str) -> list[str]:
    tokens, at, code = [], 0, code.strip()
    while at < len(code):
        match = _TOKEN.match(code, at)
        if match is None:
            raise GoTemplateError(f"Not in the subset of Go templates that ggufkit renders: {{{{ {code} }}}}")
        tokens.append(match["token"])
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent over text and actions."""

    def __init__(self, items: list[bytes | list[str]]) -> None:
        self.items = items
        self.at = 0
        self.defines: dict[str, Nodes] = {}

    def block(self, ends: tuple[str, ...]) -> tuple[Nodes, list[str]]:
        """Nodes up to the action that ends them, and that action's tokens."""
        nodes: list[Node] = []
        while self.at < len(self.items):
            item = self.items[self.at]
            self.at += 1
            if isinstance(item, bytes):
                nodes.append(Text(item))
            elif item and item[0] in ("end", "else"):
                if item[0] not in ends:
                    raise GoTemplateError(f"Unexpected {{{{ {' '.join(item)} }}}}")
                return tuple(nodes), item
            elif (node := self.action(item)) is not None:
                nodes.append(node)
        if ends:
            raise GoTemplateError("The template ends inside an action.")
        return tuple(nodes), []

    def action(self, tokens: list[str]) -> Node | None:
        """One action; None for a define, which leaves nothing where it stands."""
        match tokens:
            case ["if", *rest]:
                return self.branch(rest)
            case ["range", index, ",", item, ":=", *rest]:
                return Range(index, item, _expression(rest), self.block(("end",))[0])
            case ["range", *rest]:
                return Range(None, None, _expression(rest), self.block(("end",))[0])
            case ["define", name]:
                self.defines[_unquote(name).decode()] = self.block(("end",))[0]
                return None
            case ["template", name, *rest]:
                return Include(_unquote(name).decode(), _expression(rest))
            case [name, (":=" | "=") as how, *rest] if name.startswith("$"):
                return Assign(name, _expression(rest), how == ":=")
            case _:
                return Output(_expression(tokens))

    def branch(self, condition: list[str]) -> If:
        """The rest of an `if`, with its else branches."""
        then, end = self.block(("else", "end"))
        otherwise: Nodes = ()
        if end[:2] == ["else", "if"]:
            otherwise = (self.branch(end[2:]),)
        elif end == ["else"]:
            otherwise, _ = self.block(("end",))
        elif end != ["end"]:
            raise GoTemplateError(f"Unexpected {{{{ {' '.join(end)} }}}}")
        return If(_expression(condition), then, otherwise)


def _expression(tokens: list[str]) -> Expr:
    rest = tokens[::-1]  # the next one is the last, which costs nothing to take
    expr = _command(rest)
    if rest:
        raise GoTemplateError(f"Unexpected {' '.join(rest[::-1])!r} in an action.")
    return expr


def _command(rest: list[str]) -> Expr:
    """Take a function with its arguments, or one operand, up to a closing parenthesis or the end."""
    if not rest:
        raise GoTemplateError("An action has no value.")
    if not re.fullmatch(r"[A-Za-z_]\w*", rest[-1]) or rest[-1] in ("true", "false"):
        return _operand(rest)
    name, args = rest.pop(), []
    while rest and not rest[-1].startswith(")"):
        args.append(_operand(rest))
    return Call(name, tuple(args))


def _operand(rest: list[str]) -> Expr:
    token = rest.pop()
    if token == "(":
        inner = _command(rest)
        if not rest or not rest[-1].startswith(")"):
            raise GoTemplateError("A parenthesis is not closed.")
        fields = tuple(rest.pop().split(".")[1:])
        return Chain(inner, fields) if fields else inner
    if token[0] in '"`':
        return Literal(_unquote(token))
    if token in ("true", "false"):
        return Literal(token == "true")
    if re.fullmatch(r"-?\d+", token):
        return Literal(_integer(token))
    if token[0] in ".$":
        base, *names = token.split(".")
        return Chain(base or None, tuple(n for n in names if n))
    if re.fullmatch(r"[A-Za-z_]\w*", token):
        return Call(token, ())
    raise GoTemplateError(f"Unexpected {token!r} in an action.")


def _integer(token: str) -> int:
    """Go's int: 64 bits. Longer digits are not even read."""
    if len(token) > 20 or not -(1 << 63) <= int(token) < 1 << 63:
        raise GoTemplateError(f"The integer {token[:40]} overflows.")
    return int(token)


_ESCAPES = dict(zip("ntrbfva\\\"'", "\n\t\r\b\f\v\a\\\"'", strict=True))
_STRING_PIECE = re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\(.)|([^\\]+)", re.S)


def _unquote(token: str) -> bytes:
    """The bytes of a Go string literal; `\\x` is a byte, `\\u` and `\\U` are characters."""
    if token[:1] == "`":
        return token[1:-1].encode()
    if token[:1] != '"':
        raise GoTemplateError(f"A string was expected, not {token!r}.")
    out = bytearray()
    for match in _STRING_PIECE.finditer(token[1:-1]):
        byte, short, long, escape, plain = match.groups()
        if byte:
            out.append(int(byte, 16))
        elif escape and escape not in _ESCAPES:
            raise GoTemplateError(f"Unknown escape \\{escape} in {token}.")
        else:
            out += (plain or _ESCAPES.get(escape or "") or _character(short or long)).encode()
    return bytes(out)


def _character(digits: str) -> str:
    number = int(digits, 16)
    if number > sys.maxunicode or 0xD800 <= number < 0xE000:
        raise GoTemplateError(f"No character has the number {digits}.")
    return chr(number)


def _chains(nodes: Nodes) -> Iterator[Chain]:
    for node in nodes:
        match node:
            case If(condition, then, otherwise):
                yield from _in_expr(condition)
                yield from _chains(then + otherwise)
            case Range(_, _, value, body):
                yield from _in_expr(value)
                yield from _chains(body)
            case Output(value) | Assign(_, value) | Include(_, value):
                yield from _in_expr(value)


def _in_expr(expr: Expr) -> Iterator[Chain]:
    match expr:
        case Chain(base, _):
            yield expr
            if isinstance(base, (Chain, Call)):
                yield from _in_expr(base)
        case Call(_, args):
            for arg in args:
                yield from _in_expr(arg)
