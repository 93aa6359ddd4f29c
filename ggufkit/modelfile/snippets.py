"""Pieces of Go template for what Ollama's template language has no function for: trimming, and JSON like Python's.

A `define` may call itself, and that is how a string is walked: cutting a character off an end until the end is not
white space, or printing a string byte by byte with escapes. `len (slice . n)` is how to subtract.
"""

from __future__ import annotations

from ggufkit.modelfile.placeholders import Calls, Tools

# What str.strip removes, by the length of the UTF-8.
_SPACES = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f ",
    "\x85\xa0",
    "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000",
)


def go_string(text: str) -> str:
    """A Go string literal without line breaks, inner quotes or invisible characters."""
    return '"' + "".join(c if _plain(c) and c not in '\n\t"\\' else _escape(c) for c in text) + '"'


def _plain(char: str) -> bool:
    """Whether Ollama's Modelfile parser is sure to keep a character. What Go counts as printable grows with Unicode."""
    return char in "\n\t" or (char.isprintable() and char < "\U00010000")


def _escape(char: str) -> str:
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}.get(char)
    code = ord(char)
    return short or (f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def literal(text: str) -> str:
    """Text for a Go template in a Modelfile.

    What would open an action, end the Modelfile's quotes or be dropped by Ollama's parser is written as an action.
    """
    out, at = "", 0
    while at < len(text):
        size = _awkward(text, at)
        out += "{{ " + go_string(text[at : at + size]) + " }}" if size else text[at]
        at += size or 1
    return out


def _awkward(text: str, at: int) -> int:
    """How many characters from a position cannot stand as they are."""
    if text[at] == "{" and (text[at + 1 : at + 2] in ("", "{") or _awkward(text, at + 1)):
        return 1
    if text.startswith('"""', at):
        return 3
    return 0 if _plain(text[at]) else 1


def _trim(name: str, left: bool, otherwise: str, characters: tuple[str, ...] = _SPACES) -> str:
    """Cut one of the characters off an end and start again, or do otherwise."""
    cases = []
    for n, spaces in enumerate(characters, 1):
        end, rest = ("0 {n}", "{n}") if left else ("(len (slice . {n}))", "0 (len (slice . {n}))")
        is_space = f"eq (slice . {end.format(n=n)}) {' '.join(go_string(c) for c in spaces)}"
        guarded = is_space if n == 1 else f"and (gt (len .) {n - 1}) ({is_space})"
        cases.append(f'if {guarded} }}}}{{{{ template "{name}" (slice . {rest.format(n=n)}) }}}}{{{{ else ')
    return "{{ if . }}{{ " + "".join(cases).rstrip() + " }}" + otherwise + "{{ end }}{{ end }}"


_ESCAPED = (r"\x22", r"\\", r"\n", r"\r", r"\t", r"\b", r"\f")


def _json_string() -> str:
    cases = "".join(rf'if eq $c "{c}" }}}}{c.replace("x22", chr(34))}{{{{ else ' for c in _ESCAPED)
    rest = r'if lt (index . 0) 32 }}{{ printf "\\u%04x" (index . 0) }}{{ else }}{{ $c }}{{ end }}'
    walk = '{{ template "jsonString" (slice . 1) }}'
    usual = r'if and (gt $c "\x22") (ne $c "\\") }}{{ $c }}{{ else '
    return "{{ if . }}{{ $c := slice . 0 1 }}{{ " + usual + cases + rest + walk + "{{ end }}"


_NEEDS = {
    "jsonValue": ("jsonString", "jsonObject"),
    "jsonObject": ("jsonString", "jsonValue"),
    "trim": ("trimRight",),
}
_BODIES = {
    "trim": _trim("trim", True, '{{ template "trimRight" . }}'),
    "trimLeft": _trim("trimLeft", True, "{{ . }}"),
    "trimRight": _trim("trimRight", False, "{{ . }}"),
    "trimLines": _trim("trimLines", True, '{{ template "trimRightLines" . }}', ("\n",)),
    "trimLeftLines": _trim("trimLeftLines", True, "{{ . }}", ("\n",)),
    "trimRightLines": _trim("trimRightLines", False, "{{ . }}", ("\n",)),
    "jsonString": _json_string(),
    "jsonValue": (
        '{{ $type := printf "%T" . }}'
        '{{ if eq $type "string" }}"{{ template "jsonString" . }}"'
        '{{ else if eq $type "map[string]interface {}" }}{{ template "jsonObject" . }}'
        '{{ else if eq $type "[]interface {}" }}[{{ range $i, $v := . }}{{ if $i }}, {{ end }}'
        '{{ template "jsonValue" $v }}{{ end }}]'
        "{{ else }}{{ json . }}{{ end }}"
    ),
    "jsonObject": (
        '{{ "{" }}{{ $comma := "" }}{{ range $k, $v := . }}'
        '{{ $comma }}"{{ template "jsonString" $k }}": {{ template "jsonValue" $v }}{{ $comma = ", " }}'
        "{{ end }}}"
    ),
}


def defines(names: set[str], more: dict[str, str]) -> str:
    """The `define`s of some snippets and of what they need, and of further bodies by name."""
    wanted, todo = set[str](), sorted(names)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += _NEEDS.get(name, ())
    bodies = {**{name: _BODIES[name] for name in sorted(wanted)}, **more}
    return "".join(f'{{{{ define "{name}" }}}}{body}{{{{ end }}}}' for name, body in bodies.items())


def calls_code(placeholder: Calls) -> str:
    """Code that writes the tool calls of a message. Ollama looks for their tag behind `if .ToolCalls`."""
    between = "{{ if $n }}" + literal(placeholder.separator) + "{{ end }}" if placeholder.separator else ""
    arguments = '{{ template "jsonObject" .Function.Arguments }}'
    body = (
        between
        + literal(placeholder.open)
        + "{{ .Function.Name }}"
        + literal(placeholder.middle)
        + arguments
        + literal(placeholder.close)
    )
    return "{{ if .ToolCalls }}{{ range $n, $_ := .ToolCalls }}" + body + "{{ end }}{{ end }}"


def tools_code(placeholder: Tools) -> str:
    """Code that writes a list of tools, its dot, as the template's `tojson` does."""
    layout = _Layout(placeholder.indent)
    inside = placeholder.form == "tool"
    entries = [f'"{key}": ' + _QUOTED.format(f".Function.{key.capitalize()}") for key in ("name", "description")]
    entries.append('"parameters": ' + _parameters(layout, 2 if inside else 1))
    text = layout.object(entries, 1 if inside else 0)
    if inside:
        text = layout.object(['"type": "function"', '"function": ' + text], 0)
    return "{{ range $n, $_ := . }}{{ if $n }}" + literal(placeholder.separator) + "{{ end }}" + text + "{{ end }}"


_QUOTED = '"{{{{ template "jsonString" {} }}}}"'


def _parameters(layout: _Layout, level: int) -> str:
    """The JSON schema of a tool's parameters, whose brace opens at a level."""
    one = '"type": "{{ $p.Type }}"'
    one += layout.optional("$p.Description", '"description": ' + _QUOTED.format("$p.Description"), level + 3)
    one += layout.optional("$p.Enum", '"enum": ' + layout.strings("$p.Enum", level + 3), level + 3)
    each = "{{ if $comma }}" + layout.comma(level + 2) + "{{ end }}{{ $comma = true }}"
    each += _QUOTED.format("$k") + ": " + layout.object([one], level + 2)
    each = "{{ range $k, $p := .Function.Parameters.Properties }}" + each + "{{ end }}"
    some = "{{ $comma := false }}" + layout.object([each], level + 1)
    properties = "{{ if .Function.Parameters.Properties }}" + some + "{{ else }}" + literal("{") + "}{{ end }}"
    names = '"required": ' + layout.strings(".Function.Parameters.Required", level + 1)
    required = layout.optional(".Function.Parameters.Required", names, level + 1)
    return layout.object(['"type": "object"', '"properties": ' + properties + required], level)


class _Layout:
    """JSON as json.dumps lays it out, compact or indented."""

    def __init__(self, indent: int | None) -> None:
        self.indent = indent

    def comma(self, level: int) -> str:
        """What stands between two entries at a level."""
        return ", " if self.indent is None else "," + self.line(level)

    def line(self, level: int) -> str:
        """A new line at a level; nothing in the compact form."""
        return "" if self.indent is None else "\n" + " " * (self.indent * level)

    def object(self, entries: list[str], level: int) -> str:
        """An object whose brace opens at a level."""
        inner = self.comma(level + 1).join(entries)
        return '{{ "{" }}' + self.line(level + 1) + inner + self.line(level) + "}"

    def optional(self, condition: str, entry: str, level: int) -> str:
        """An entry behind others, where its value is not empty."""
        return "{{ if " + condition + " }}" + self.comma(level) + entry + "{{ end }}"

    def strings(self, value: str, level: int) -> str:
        """A list of strings whose bracket opens at a level."""
        each = "{{ range $m, $s := " + value + " }}{{ if $m }}" + self.comma(level + 1) + "{{ end }}"
        return "[" + self.line(level + 1) + each + _QUOTED.format("$s") + "{{ end }}" + self.line(level) + "]"
