"""What others start a server with: a configuration of llama-swap, a unit of systemd."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.core.manifest import write_atomically
from ggufkit.core.oserrors import explain
from ggufkit.core.yamlfile import parse_yaml
from ggufkit.serving.endpoint import KEY
from ggufkit.serving.server import Plan

_HEAD = "# Written by `ggufkit serve --llama-swap`. https://github.com/mostlygeek/llama-swap\n"
_MINE = "Give another FILE, or one that `ggufkit serve --llama-swap` wrote."


def llama_swap(plan: Plan, ngl: int | None, file: Path) -> None:
    """Write a model into a configuration of llama-swap, beside those that are in it already.

    Raises:
        InputError: there is such a file, and ggufkit did not write it.
    """
    import yaml

    known = _known(file)
    known["models"] = {**(known.get("models") or {}), plan.endpoint.model: _model(plan, ngl)}
    try:
        write_atomically(file, _HEAD + yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=4096))
    except OSError as error:
        failed = f"{file} cannot be written"
        raise explain(error, failed) or InputError(f"{failed}: {error}.", hint="Give another FILE.") from error


def _known(file: Path) -> dict[str, dict[str, object]]:
    """What a configuration that ggufkit wrote has; nothing where there is none."""
    if not file.exists():
        return {}
    try:
        written = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}.", hint=_MINE) from error
    if not written.startswith(_HEAD.encode()):
        raise InputError(f"{file} exists already, and ggufkit did not write it.", hint=_MINE)
    known = parse_yaml(written, str(file), hint=_MINE)
    if not isinstance(known.get("models") or {}, dict):
        raise InputError(f"{file} is not as expected: its models are no mapping of names to entries.", hint=_MINE)
    return known


def _model(plan: Plan, ngl: int | None) -> Mapping[str, object]:
    """Its entry: llama-swap reaches it on this machine, by a port of its own."""
    words = _started(plan, ngl)
    words[words.index("--host") + 1] = "127.0.0.1"
    at = words.index("--port") + 1
    cmd = " ".join([shlex.join(words[:at]), "${PORT}", shlex.join(words[at + 1 :])])
    return {"cmd": cmd, "env": [f"{name}={value}" for name, value in plan.environment().items() if name != KEY]}


def systemd(plan: Plan, ngl: int | None) -> str:
    """A unit for a model. The key, where there is one, is in a file that only its owner reads: see `key_file`."""
    env = {name: value for name, value in plan.environment().items() if name != KEY}
    key = [f"EnvironmentFile={key_file(plan)}"] if plan.endpoint.api_key else []
    return "\n".join([
        "[Unit]",
        f"Description={_one_line(f'{plan.endpoint.model} at {plan.endpoint.public_url}')}",
        "After=network.target",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_quoted, _started(plan, ngl)))}",
        *(f"Environment={name}={value}" for name, value in env.items()),
        *key,
        "Restart=on-failure",
        "TimeoutStopSec=5",
        "NoNewPrivileges=yes",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ])  # fmt: skip


def key_file(plan: Plan) -> str:
    """Where systemd's unit looks for the key; %h is the home of who runs it."""
    return f"%h/.config/ggufkit/{re.sub(r'[^A-Za-z0-9._-]', '-', plan.endpoint.model)}.env"


def _started(plan: Plan, ngl: int | None) -> list[str]:
    """The command line, from wherever it is started."""
    return replace(plan, gguf=plan.gguf.resolve(), beside=plan.beside.resolved()).argv(ngl)


def _quoted(word: str) -> str:
    """A word of a command line as systemd reads it: % and $ stand for themselves when they are doubled; a line's end would
    end the setting."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r")
    return escaped if re.fullmatch(r"[\w./:=%$+,@-]+", escaped) else f'"{escaped}"'


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("%", "%%")
