"""The command that lets a file speak: chat."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ggufkit.cli import parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import emit, reporting, say, stream
from ggufkit.measure.chat import ChatOptions
from ggufkit.request import RunOptions


def _reply_options(given: dict[str, Any]) -> ChatOptions:
    return ChatOptions(n_ctx=given.pop("ctx"), **given)


reply_options = grouped(
    "how",
    _reply_options,
    click.argument("prompt", required=False),
    click.option("--system", metavar="TEXT", help="System prompt."),
    click.option("--max-tokens", type=click.IntRange(1, parameter_types.MOST), default=ChatOptions.max_tokens,
                 show_default=True, help="Tokens to generate at most."),
    click.option("--temperature", type=click.FloatRange(0), default=ChatOptions.temperature,
                 show_default=True, help="0 is greedy."),
    click.option("--seed", type=int, default=ChatOptions.seed, show_default=True, help="Seed of the sampling."),
    click.option("--ctx", type=click.IntRange(64, parameter_types.MOST), default=ChatOptions.n_ctx,
                 show_default=True, help="Context in tokens."),
)  # fmt: skip


@click.command("chat")
@click.argument("gguf", type=parameter_types.FILE)
@reply_options
@request_options.backend_options
def chat_command(gguf: Path, how: ChatOptions, run: RunOptions) -> None:
    """Let GGUF reply to PROMPT: a short generation, with the file's own chat template.

    At a terminal without PROMPT it is a conversation: /bye or Ctrl-D ends it, Ctrl-C stops an answer.

    \b
    Examples:
        ggufkit chat model-Q4_K_M.gguf "What is a llama?"
        ggufkit chat model-Q4_K_M.gguf
    """
    from ggufkit.llama import binding, evaluates, toolchain
    from ggufkit.llama.gguf import read_gguf
    from ggufkit.measure import chat, conversation

    read_gguf(gguf)
    evaluates.require_generates(
        gguf, "generates none", "Use it with llama-embedding, or where embeddings are asked for."
    )
    how = replace(how, ngl=run.ngl, threads=run.threads, started=_command_started())
    with reporting() as reporter:
        tools = toolchain.find(run.backend, reporter)
        binding.ensure_installed(reporter)
    if how.prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
        conversation.converse(gguf, how, tools, reporter)
        return
    reply = chat.chat(gguf, how, tools, reporter, on_text=stream)
    emit("\n")
    rate = "" if reply.tokens_per_s is None else f", {reply.tokens_per_s:.1f} tokens/s"
    template = "its chat template" if reply.templated else "no chat template: plain completion"
    say(f"[{len(reply.tokens)} tokens{rate}; first after {reply.first_token_s:.2f} s; {template}]", err=True)
    if reply.full:
        say("The context is full: a larger --ctx lets it go on.", err=True)


def _command_started() -> float:
    """`time.time()` at the start of this process; counted from boot where the clock of the boot is coarse."""
    import psutil

    begun = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return begun
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - (begun - psutil.boot_time()))
