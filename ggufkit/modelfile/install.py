"""Ollama on this machine: which version, `ollama create`, and whether `ollama show` gives back what was meant."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.errors import InputError, ToolError, ToolOutputError
from ggufkit.modelfile.grammar import Modelfile

Version = tuple[int, int, int]

NATIVE_SINCE: Version = (0, 30, 0)
"""The first Ollama that renders chats with llama.cpp's own engine (its llama-server)."""

_NAME = re.compile(r"(?!.*\.\.)(?:\w[\w.-]*/){0,2}\w[\w.-]*(?::\w[\w.-]*)?", re.ASCII)


def find_ollama() -> Path | None:
    """The `ollama` program on PATH."""
    found = shutil.which("ollama")
    return Path(found) if found else None


def version(program: Path) -> Version | None:
    """The version of the running server, else of the program; None if it says nothing that can be read."""
    text = process.run([program, "--version"]).text
    found = re.search(r"ollama version is v?(\d+)\.(\d+)\.(\d+)", text)
    found = found or re.search(r"client version is v?(\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def require_name(name: str) -> str:
    """A model name that Ollama takes. Raises InputError for any other."""
    if len(name) > 200 or not _NAME.fullmatch(name):
        hint = "A name is made of letters, digits, dots, dashes and underscores: name, user/name or name:tag."
        raise InputError(f"{name!r} is not a model name for Ollama.", hint=hint)
    return name


def create(program: Path, name: str, path: Path, modelfile: Modelfile, source: str | None, log: Path) -> None:
    """Create the model NAME from a written Modelfile, and check what Ollama made of it.

    Args:
        source: the GGUF's own chat template, expected where the Modelfile sets none.
        log: file for what Ollama prints while it creates.

    Raises:
        InputError: not a name.
        ToolError: Ollama failed, most often because its server does not run.
        ToolOutputError: the model has another template, system message or stop than was asked for.
    """
    made = process.run([program, "create", require_name(name), "-f", path.resolve()], log=log)
    if made.returncode != 0:
        words = made.text.strip().splitlines() or ["it printed nothing"]
        hint = "Start the server with `ollama serve`, and repeat." if "server" in words[-1] else None
        raise ToolError(f"ollama create {name} failed: {words[-1]}", hint=hint, log=log)
    check(program, name, modelfile, source)


def check(program: Path, name: str, modelfile: Modelfile, source: str | None) -> None:
    """Compare what `ollama show` says of a model with its Modelfile. Raises ToolOutputError at a difference."""
    template = _shown(program, name, "--template")
    expected = modelfile.template if modelfile.template is not None else source
    if expected is not None and template.strip() not in ("", expected.strip()):
        raise ToolOutputError(
            f"Ollama gave {name} another template than the Modelfile asks for: it has one of its own for this model.",
            hint="Use --template go, or run the server with OLLAMA_GO_TEMPLATE=0.",
        )
    if modelfile.template is not None and not template.strip():
        raise ToolOutputError(f"Ollama shows no template for {name}.")
    if modelfile.system is not None and _shown(program, name, "--system").strip() != modelfile.system.strip():
        raise ToolOutputError(f"Ollama shows another system message for {name} than the Modelfile has.")
    shown = _shown(program, name, "--parameters")
    stops = [str(value) for key, value in modelfile.parameters if key == "stop"]
    missing = [stop for stop in stops if stop not in shown and json.dumps(stop, ensure_ascii=False) not in shown]
    if missing:
        raise ToolOutputError(f"Ollama does not show the stop string {missing[0]!r} for {name}.")


def _shown(program: Path, name: str, what: str) -> str:
    output = process.run([program, "show", name, what])
    failures.require_success(output, f"asking Ollama for the {what.strip('-')} of {name}")
    return output.stdout
