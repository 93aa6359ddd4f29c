"""Special tokens of a chat, parsed by llama-perplexity.

The tool reads its text as plain text: `<|im_end|>` becomes six tokens that no chat has, and there is no option for it. A
few lines of C++ that are compiled on first use stand before libllama's `llama_tokenize`, and say so in the output: a
tool that they did not reach, one without shared libraries, is found out.

Source: `common_tokenize(ctx, params.prompt, true)` in `tools/perplexity/perplexity.cpp`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import Reporter
from ggufkit.llama.programs import find_program

_SOURCE = Path(__file__).with_suffix(".cpp")
_NAME, _VARIABLE = "special-tokens.so", "LD_PRELOAD"
_SAID = "ggufkit: special tokens are parsed"
_HINT = "Evaluate plain text with --corpus; chats need Linux, a C++ compiler, and a llama.cpp of shared libraries."


def environment(reporter: Reporter) -> dict[str, str]:
    """What makes a tool parse special tokens.

    Raises:
        ToolchainError: this system has no way to do it, or the compiler is missing or fails.
    """
    if sys.platform != "linux":
        raise ToolchainError("llama-perplexity cannot be made to parse a chat's special tokens here.", hint=_HINT)
    before = os.environ.get(_VARIABLE)
    return {_VARIABLE: f"{_library(reporter)}{f':{before}' if before else ''}"}


def require_parsed(output: ToolOutput) -> None:
    """Raise ToolchainError where a tool that ran in that environment has not parsed them."""
    if _SAID not in output.text:
        message = (
            "llama-perplexity read the special tokens of a chat as plain text: its figures are not those of chats."
        )
        raise ToolchainError(message, hint=_HINT, log=output.log)


def _library(reporter: Reporter) -> Path:
    key = _SOURCE.read_bytes() + platform.machine().encode()
    home = cache_dir() / "tools" / hashlib.sha256(key).hexdigest()[:12]
    home.mkdir(parents=True, exist_ok=True)
    with waiting_lock(home / f"{_NAME}.lock", _NAME, reporter):
        if not (home / _NAME).is_file():
            _compile(home / _NAME)
    return home / _NAME


def _compile(library: Path) -> None:
    compiler = next(filter(None, map(find_program, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise ToolchainError("There is no C++ compiler, which chats need to be evaluated.", hint=_HINT)
    partial = library.with_suffix(".partial")
    argv = [compiler, "-O1", "-std=c++17", "-shared", "-fPIC", str(_SOURCE), "-o", str(partial), "-ldl"]
    output = process.run(argv, log=cache_dir() / "logs" / "compile-special-tokens.log")
    if output.returncode != 0:
        message = "What makes llama-perplexity parse special tokens could not be compiled."
        raise ToolchainError(message, hint=_HINT, log=output.log)
    partial.rename(library)
