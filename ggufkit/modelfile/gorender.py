"""Run a parsed Go template on data, as Go does. Strings are bytes: Go slices and measures them so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.modelfile.gotemplate import (
    Assign,
    Chain,
    Expr,
    GoTemplate,
    GoTemplateError,
    If,
    Include,
    Literal,
    Node,
    Nodes,
    Output,
    Range,
    Text,
)

GoValue = Any
"""bytes (Go's string), int, float, bool, None, list, dict (a map with bytes keys) or Struct."""

Functions = Mapping[str, Callable[[], bytes]]
"""Functions without arguments, by name."""

_MAX_DEPTH = 100_000  # Go's limit on nested `template` calls.


@dataclass(frozen=True)
class Struct:
    """A Go struct: a field that it lacks is an error, where a map would give nothing."""

    fields: Mapping[str, GoValue]


def go_value(value: Any) -> GoValue:
    """A decoded JSON value as Go holds it: text as bytes, every number as a float64."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping):
        return {str(k).encode(): go_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [go_value(v) for v in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


@dataclass
class _Frame:
    """A list of nodes under way: where in it, its dot, its variables and the scope outside."""

    nodes: Nodes
    dot: GoValue
    variables: dict[str, GoValue]
    outer: _Frame | None
    depth: int
    at: int = 0


def render(template: GoTemplate, data: Mapping[str, GoValue], functions: Functions) -> str:
    """Execute a template on a map of values.

    Args:
        functions: further functions without arguments.

    Raises:
        GoTemplateError: what Go would report, or a function outside the subset.
    """
    try:
        return b"".join(_Machine(template, dict(data), functions).run()).decode("utf-8", "replace")
    except RecursionError:
        raise GoTemplateError("An expression is nested too deep.") from None


class _Machine:
    """An explicit stack, as templates that call themselves for each character go deeper than Python does."""

    def __init__(self, template: GoTemplate, root: GoValue, functions: Functions) -> None:
        self.template = template
        self.functions = functions
        self.out: list[bytes] = []
        self.stack = [_Frame(template.main, root, {"$": root}, None, 0)]

    def run(self) -> list[bytes]:
        """Execute until the stack is empty; return what was written."""
        while self.stack:
            frame = self.stack[-1]
            if frame.at == len(frame.nodes):
                self.stack.pop()
            else:
                frame.at += 1
                self.step(frame.nodes[frame.at - 1], frame)
        return self.out

    def step(self, node: Node, frame: _Frame) -> None:
        """Execute one node; what it holds is pushed."""
        if isinstance(node, Text):
            self.out.append(node.data)
        elif isinstance(node, If):
            chosen = node.then if _truth(self.value(node.condition, frame)) else node.otherwise
            self.stack.append(_Frame(chosen, frame.dot, {}, frame, frame.depth))
        elif isinstance(node, Output):
            self.out.append(_printed(self.value(node.value, frame)))
        elif isinstance(node, Assign):
            self.assign(frame, node.name, self.value(node.value, frame), node.declares)
        elif isinstance(node, Include):
            self.include(node.name, self.value(node.value, frame), frame)
        else:
            self.range(node, frame)

    def include(self, name: str, dot: GoValue, frame: _Frame) -> None:
        """Push a defined template; it sees nothing of its caller but the dot."""
        if name not in self.template.defines:
            raise GoTemplateError(f"template {name!r} is not defined")
        if frame.depth + 1 > _MAX_DEPTH:
            raise GoTemplateError("exceeded maximum template depth")
        self.stack.append(_Frame(self.template.defines[name], dot, {"$": dot}, None, frame.depth + 1))

    def range(self, node: Range, frame: _Frame) -> None:
        """Push the body once per element, the last one first; maps go in the order of their keys."""
        value = self.value(node.value, frame)
        if isinstance(value, dict):
            pairs: list[tuple[GoValue, GoValue]] = sorted(value.items())
        elif isinstance(value, list):
            pairs = list(enumerate(value))
        elif value is None:
            pairs = []
        else:
            raise GoTemplateError(f"range can't iterate over {value!r}")
        for index, item in reversed(pairs):
            names = {node.index: index, node.item: item}
            variables = {name: v for name, v in names.items() if name is not None}
            self.stack.append(_Frame(node.body, item, variables, frame, frame.depth))

    def assign(self, frame: _Frame, name: str, value: GoValue, declares: bool) -> None:
        """Declare a variable here, or change the nearest one of that name."""
        scope: _Frame | None = frame
        while not declares and scope is not None and name not in scope.variables:
            scope = scope.outer
        if scope is None:
            raise GoTemplateError(f"undefined variable {name}")
        scope.variables[name] = value

    def value(self, expr: Expr, frame: _Frame) -> GoValue:
        """Evaluate an expression."""
        if isinstance(expr, Literal):
            return expr.value
        if isinstance(expr, Chain):
            value = self.base(expr.base, frame)
            for name in expr.fields:
                value = _field(value, name)
            return value
        if expr.function in ("and", "or"):
            return self.connective(expr.function == "and", expr.args, frame)
        return self.call(expr.function, [self.value(arg, frame) for arg in expr.args])

    def base(self, base: Expr | str | None, frame: _Frame) -> GoValue:
        """The value that a chain starts from."""
        if base is None:
            return frame.dot
        if not isinstance(base, str):
            return self.value(base, frame)
        scope: _Frame | None = frame
        while scope is not None:
            if base in scope.variables:
                return scope.variables[base]
            scope = scope.outer
        raise GoTemplateError(f"undefined variable {base}")

    def connective(self, conjunction: bool, args: Sequence[Expr], frame: _Frame) -> GoValue:
        """`and` and `or`: the argument that decides."""
        value: GoValue = None
        for arg in args:
            value = self.value(arg, frame)
            if _truth(value) != conjunction:
                break
        return value

    def call(self, name: str, args: list[GoValue]) -> GoValue:
        """Call a function."""
        if name in self.functions and not args:
            return self.functions[name]()
        function = _FUNCTIONS.get(name)
        if function is None:
            raise GoTemplateError(f"function {name!r} is not in the subset of Go templates that ggufkit renders")
        try:
            return function(*args)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise GoTemplateError(f"error calling {name}: {error}") from error


def _field(value: GoValue, name: str) -> GoValue:
    if isinstance(value, Struct):
        if name not in value.fields:
            raise GoTemplateError(f"can't evaluate field {name}")
        return value.fields[name]
    if isinstance(value, dict):
        return value.get(name, value.get(name.encode()))
    raise GoTemplateError(f"can't evaluate field {name} in {value!r}")


def _truth(value: GoValue) -> bool:
    return True if isinstance(value, Struct) else bool(value)


def _printed(value: GoValue) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return str(value).encode()
    if value is None:
        return b"<no value>"
    raise GoTemplateError(f"printing {value!r} is not in the subset of Go templates that ggufkit renders")


def _equal(first: GoValue, *others: GoValue) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    kind = type(first)
    if kind not in (bytes, int, bool) or {*map(type, others)} != {kind}:
        raise TypeError("incompatible types for comparison")
    return first in others


def _slice(value: GoValue, low: int = 0, high: int | None = None) -> GoValue:
    end = len(value) if high is None else high
    if not isinstance(value, (bytes, list)) or not 0 <= low <= end <= len(value):
        raise IndexError("slice index out of range")
    return value[low:end]


def _index(value: GoValue, *keys: GoValue) -> GoValue:
    for key in keys:
        if isinstance(value, (bytes, list)) and not 0 <= key < len(value):
            raise IndexError("index out of range")
        value = value[key]
    return value


_GO_TYPES = {bytes: b"string", bool: b"bool", int: b"int", float: b"float64", type(None): b"<nil>"}
_GO_TYPES |= {dict: b"map[string]interface {}", list: b"[]interface {}"}


def _printf(form: bytes, *args: GoValue) -> bytes:
    """`%s` for text, `%04x` for numbers, `%T` for the type's name."""
    rest = list(args)

    def verb(match: re.Match[bytes]) -> bytes:
        value = rest.pop(0)
        if match.group() == b"%T":
            return _GO_TYPES[type(value)]
        if match.group() == b"%s" and isinstance(value, bytes):
            return value
        if match.group() == b"%04x" and isinstance(value, int):
            return b"%04x" % value
        raise TypeError(f"{match.group().decode()} of {value!r}")

    return re.sub(rb"%\w+", verb, form)


def _json(value: GoValue) -> bytes:
    """encoding/json's text of a number, a boolean or nil; whole float64s have no fraction."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value)).encode()
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value).encode()
    raise TypeError("json of text, lists and maps is not in the subset")


_FUNCTIONS: dict[str, Callable[..., GoValue]] = {
    "eq": _equal,
    "ne": lambda a, b: not _equal(a, b),
    "lt": lambda a, b: a < b,
    "gt": lambda a, b: a > b,
    "not": lambda a: not _truth(a),
    "len": len,
    "slice": _slice,
    "index": _index,
    "printf": _printf,
    "json": _json,
}
