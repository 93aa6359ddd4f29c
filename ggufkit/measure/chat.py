"""A short generation: does a GGUF speak? Through llama-cpp-python's binding, in a process of its own: `generating`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ggufkit.core import confined, failures, process
from ggufkit.core.errors import GgufError, InputError, ToolError, ToolOutputError
from ggufkit.core.expected import timed
from ggufkit.core.jsonfile import parse_json, read_json
from ggufkit.core.limits import Limits
from ggufkit.core.machine import physical_cores
from ggufkit.core.part_names import stem_of
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import Reporter
from ggufkit.core.records import GgufFile, Json, Toolchain
from ggufkit.llama import binding
from ggufkit.llama.adapter import Adapter
from ggufkit.llama.gguf import read_header
from ggufkit.llama.source import PINNED_COMMIT
from ggufkit.measure.generating import MARK, TEMPLATE, TOO_LONG
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "speak", 1
SMOKE_TOKENS = 48

# Threads that spin for long take the cores from those they wait for: 5 tokens/s on a busy machine where it is 200.
# A short spin costs nothing on an idle one. Read by GCC's OpenMP.
_PATIENT = {} if "GOMP_SPINCOUNT" in os.environ else {"GOMP_SPINCOUNT": "1000"}
_LIMITS = Limits(cpu_s=10, memory_bytes=1 << 30)
"""To render and tokenize one prompt."""
_LONGEST_RUN = 16


@dataclass(frozen=True)
class ChatOptions:
    """How to generate. Without a prompt the model is greeted, or a base model is given a beginning.

    `started` is `time.time()` at the start of the command, None for now. `flash` is flash attention, which llama-server
    computes with: without it other tokens win near ties.
    """

    prompt: str | None = None
    system: str | None = None
    max_tokens: int = 256
    temperature: float = 0.7
    seed: int = 42
    n_ctx: int = 2048
    ngl: int | None = None
    threads: int = field(default_factory=physical_cores)
    started: float | None = None
    flash: bool = True
    loras: tuple[Adapter, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a model said. Times in seconds: `first_token_s` is counted from the start of the command.

    `full` is true where it ends because the context did.
    """

    text: str
    tokens: list[int]
    n_prompt: int
    templated: bool
    valid_utf8: bool
    load_s: float
    first_token_s: float
    tokens_per_s: float | None
    full: bool = False


def chat(
    gguf: Path,
    options: ChatOptions,
    tools: Toolchain,
    reporter: Reporter,
    *,
    on_text: Callable[[str], None] = lambda _text: None,
    log: Path | None = None,
) -> Reply:
    """Let a GGUF reply to a prompt, with its own chat template if it has one.

    Args:
        on_text: called with the reply piece by piece.

    Raises:
        ToolchainError: there is no binding, or no shared library for it to use.
        GgufError, ToolError: the model cannot be loaded.
        InputError: its template refuses the conversation, or the prompt is longer than the context.
    """
    request, where = request_of(gguf, options, tools), surroundings(tools, reporter)

    def show(stream: str, text: str) -> None:
        if stream == "stdout":
            on_text(text)

    argv = [sys.executable, "-m", "ggufkit.measure.generating"]
    output = process.run(argv, surroundings=where, stdin=json.dumps(request).encode(), on_text=show, log=log)
    return _parse(output, gguf)


def request_of(gguf: Path, options: ChatOptions, tools: Toolchain) -> dict[str, Any]:
    """What the process that loads the model is asked for."""
    layers = 0 if tools.backend == "cpu" else -1 if options.ngl is None else options.ngl
    started = options.started or time.time()
    return {
        **asdict(options),
        "gguf": str(read_header(gguf).path),
        "ngl": layers,
        "started": started,
        "limits": asdict(_LIMITS),
        "loras": [[str(one.file), one.scale] for one in options.loras],
    }


def surroundings(tools: Toolchain, reporter: Reporter) -> Surroundings:
    """Where a process finds the binding, and the toolchain's libraries. Raises ToolchainError where one is missing."""
    if not PINNED_COMMIT.startswith(tools.commit[:9]):
        reporter.warn(
            f"The binding is made for llama.cpp {PINNED_COMMIT[:9]}, the toolchain is {tools.commit[:9]}."
        )
    env = {"LLAMA_CPP_LIB_PATH": str(binding.library_dir(tools)), **_PATIENT}
    home = binding.ensure_installed(reporter)
    if home is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH", "")]))
    return Surroundings(env)


def _parse(output: process.ToolOutput, gguf: Path) -> Reply:
    for line in output.stderr.splitlines():
        if line.startswith(MARK):
            what, unreadable = f"What {gguf.name} replied", partial(ToolOutputError, log=output.log)
            return parse_json(line.removeprefix(MARK), Reply, what, unreadable, hint="Repeat the command.")
    reason = (output.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if reason.startswith(TEMPLATE) or output.returncode == -signal.SIGXCPU:
        why = reason.removeprefix(TEMPLATE) if output.returncode > 0 else confined.how_it_ended(output, _LIMITS)
        hint = "Take the template of the model's author."
        raise InputError(f"The chat template of {gguf} is refused: {why}.", hint=hint, log=output.log)
    if output.returncode > 0 and binding.not_loaded(output.stderr):
        raise GgufError(
            f"llama.cpp cannot load {gguf}.", hint="Look at it with `ggufkit inspect`.", log=output.log
        )
    if reason.startswith(TOO_LONG):
        raise InputError(f"{reason}.", hint="Give a larger --ctx, or a shorter prompt.", log=output.log)
    if output.returncode == 0:
        raise ToolOutputError(f"{gguf.name} gave no reply: {reason}", log=output.log)
    raise failures.explain(output, f"generating with {gguf.name}", reason if output.returncode > 0 else None)


def speak(gguf: GgufFile, session: Session, ngl: int | None = None) -> Result:
    """Let a file speak unless it did already: the same greedy reply each time. The result is a file of JSON.

    Raises:
        GgufError, ToolError: it cannot be loaded, or its template fails.
    """
    # Without flash attention, as replies that are kept were made.
    options = ChatOptions(max_tokens=SMOKE_TOKENS, temperature=0.0, ngl=ngl, threads=session.threads, flash=False)
    params: dict[str, Json] = {"max_tokens": options.max_tokens, "ngl": ngl, "backend": session.tools.backend}
    recipe = Recipe(STEP, VERSION, {"gguf": str(gguf.sha256)}, params, session.tools.identity, (gguf.as_input(),))

    work = session.work("speak", gguf.n_params)

    def make(partial: Path) -> Made:
        log = session.workspace.log(f"speak-{stem_of(gguf.path)}")
        with timed(session.reporter, f"Letting {gguf.path.name} speak", work, remember=False):
            reply = chat(gguf.path, options, session.tools, session.reporter, log=log)
        partial.write_text(json.dumps(asdict(reply), indent=1) + "\n", encoding="utf-8")
        return Made(notes={"text": reply.text})

    output = session.workspace.measurements / f"{stem_of(gguf.path)}.speak.json"
    return session.ensure(recipe, output, make, work=work)


def read_reply(path: Path) -> Reply:
    """The reply that `speak` kept."""
    return read_json(path, Reply, hint="Remove it and repeat the command.")


def faults(reply: Reply) -> dict[str, str]:
    """What is wrong with a reply, whatever the model: nothing said, one token over and over, broken text."""
    longest = max((len(list(run)) for _, run in itertools.groupby(reply.tokens)), default=0)
    checks = {
        "end": (not reply.tokens, "it ends at once"),
        "repetition": (longest >= _LONGEST_RUN, f"it repeats one token {longest} times"),
        "encoding": (not reply.valid_utf8, "it writes invalid UTF-8"),
    }
    return {kind: words for kind, (found, words) in checks.items() if found}


def require_sane(base: Reply, replies: Mapping[str, Reply]) -> None:
    """Refuse files that speak garbage where the base they are made from does not.

    Args:
        replies: by file name.

    Raises:
        ToolError: the first such file, with what it said.
    """
    usual = faults(base)
    for name, reply in replies.items():
        new = [words for kind, words in faults(reply).items() if kind not in usual]
        if new:
            raise ToolError(
                f"{name} does not speak as its base does: {new[0]}. It said {reply.text[:120]!r}, "
                f"the base {base.text[:120]!r}.",
                hint="Use a larger type, or another variant; look at its KL divergence.",
            )
