"""The proof for Modelfiles without TEMPLATE: what llama.cpp's own Jinja engine, which current Ollama uses, writes.

A small program, `chat_prompts.cpp`, is compiled against the toolchain's source and libraries on first use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path

from ggufkit.core import confined, process
from ggufkit.core.errors import InputError, ToolchainError, ToolOutputError
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.limits import Limits
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings
from ggufkit.core.records import Toolchain
from ggufkit.llama.programs import find_program
from ggufkit.modelfile.conversation import Conversation, collate, hf_messages, tool_schema
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.modelfile.prove import DEFAULT_COUNT, Difference, Proof, UnprovenTemplate, bos_source
from ggufkit.modelfile.questions import Domain, all_questions
from ggufkit.modelfile.random_conversations import random_conversations
from ggufkit.modelfile.reference import Reference

_SOURCE = Path(__file__).with_name("chat_prompts.cpp")
_INCLUDES = ("common", "include", "ggml/include", "vendor")
_LIBRARIES = ("llama-common", "llama")
_LIMITS = Limits(120, 2 << 30)
"""For all prompts together, which take a second."""


def renderer(tools: Toolchain) -> Path:
    """The program that renders with the toolchain's engine, compiled now if need be: about three seconds.

    Raises:
        ToolchainError: the toolchain has no source or no shared libraries, or the compiler is missing or fails.
    """
    compiler = next(filter(None, map(find_program, ("c++", "g++", "clang++"))), None)
    if compiler is None or tools.source is None:
        raise ToolchainError(
            "llama.cpp's template engine needs a C++ compiler and llama.cpp's source; one of them is missing.",
            hint="Use --template go, or install what `ggufkit doctor` names.",
        )
    key = hashlib.sha256(_SOURCE.read_bytes() + f"{tools.identity}\n{tools.dir}".encode()).hexdigest()[:16]
    program = cache_dir() / "renderers" / key
    if not program.is_file():
        _compile(compiler, tools.source, tools.dir, program)
    return program


def _compile(compiler: str, source: Path, libraries: Path, program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    partial = program.with_suffix(".partial")
    argv = [
        compiler,
        "-std=c++17",
        "-O1",
        *(f"-I{source / i}" for i in _INCLUDES),
        str(_SOURCE),
        "-o",
        str(partial),
    ]
    argv += [f"-L{libraries}", *(f"-l{name}" for name in _LIBRARIES), f"-Wl,-rpath,{libraries}"]
    output = process.run(argv, log=program.with_suffix(".log"))
    if output.returncode != 0 or not partial.is_file():
        message = "The program that renders with llama.cpp's template engine could not be compiled."
        raise ToolchainError(
            message, hint="Use --template go; the log has what the compiler said.", log=output.log
        )
    partial.rename(program)


@dataclass(frozen=True)
class _Rendered:
    prompt: str | None = None


def render(program: Path, meta: ChatMeta, candidates: Sequence[Conversation]) -> list[str | None]:
    """The prompts that llama-server makes of conversations; None where its engine refuses one.

    Raises:
        ToolOutputError: the engine cannot read the template at all.
    """
    request = {
        "template": meta.chat_template,
        "bos": meta.bos_token,
        "eos": meta.eos_token,
        "conversations": [
            {"messages": hf_messages(c), "tools": [tool_schema(t) for t in c.tools], "think": c.think}
            for c in candidates
        ],
    }
    output = process.run([program], stdin=json.dumps(request).encode(), surroundings=Surroundings(limits=_LIMITS))
    if output.returncode != 0:
        why = confined.how_it_ended(output, _LIMITS)
        raise ToolOutputError(f"llama.cpp's template engine cannot read the template of {meta.name}: {why}")
    what = f"What llama.cpp's template engine made of the template of {meta.name}"
    rows = parse_json(output.stdout, list[_Rendered], what, ToolOutputError, hint="Use --template go.")
    if len(rows) != len(candidates):
        raise ToolOutputError(f"{what} is {len(rows)} prompts for {len(candidates)} conversations.")
    return [row.prompt for row in rows]


def prove_native(meta: ChatMeta, program: Path, *, count: int = DEFAULT_COUNT, seed: int = 0) -> Proof:
    """Compare llama.cpp's engine with the chat template, tools included where both sides agree on them.

    The chat template gets the date in the variables in which llama-server gives it. White space beyond ASCII is left
    out: the engine's trimming does not know it. An unset thinking switch is left out: llama-server always sets it.

    Raises:
        UnprovenTemplate: at the first difference in a chat without tools.
        ToolOutputError: the engine cannot read the template at all.
    """
    dates = {"date_string": f"{date.today():%d %b %Y}", "datetime": f"{date.today():%b %d %Y}"}
    reference = Reference(meta, variables=dates)
    domain = Domain(thinking=reference.mentions_thinking, wide_spaces=False)
    try:
        return _prove(reference, program, replace(domain, tools="tool" in (meta.chat_template or "")), count, seed)
    except UnprovenTemplate as failure:
        conversation = failure.difference.conversation
        if conversation.tools or any(m.tool_calls for m in conversation.messages):
            return _prove(reference, program, domain, count, seed)
        raise


def _prove(reference: Reference, program: Path, domain: Domain, count: int, seed: int) -> Proof:
    drawn = [*all_questions(domain), *islice(random_conversations(domain, seed), 2 * count)]
    settled = [replace(c, think=c.think is not False) if domain.thinking else c for c in drawn]
    pairs = [(c, reference.render(collate(c))) for c in settled]
    accepted = [(collate(c), prompt) for c, prompt in pairs if prompt is not None]
    found = render(program, reference.meta, [c for c, _ in accepted])
    for (conversation, expected), prompt in zip(accepted, found, strict=True):
        shown = "refused" if prompt is None else reference.without_bos(prompt)
        if shown != expected:
            raise UnprovenTemplate(Difference(conversation, expected, shown))
    if len(accepted) < count:
        raise InputError(f"The chat template of {reference.meta.name} refuses nearly all conversations.")
    return Proof(len(accepted), len(pairs) - len(accepted), False, domain, bos_source(reference))
