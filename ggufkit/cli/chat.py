"""The command that lets a file speak: chat."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from ggufkit.cli import parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import emit, reporting, say, stream
from ggufkit.llama.adapter import Adapter
from ggufkit.measure.chat import ChatOptions
from ggufkit.request import RunOptions
from ggufkit.serving.settings import Settings


@dataclass(frozen=True)
class Asked:
    """What a model is asked, and how. None is a default, which differs between one reply and a conversation."""

    prompt: str | None
    system: str | None
    max_tokens: int | None
    temperature: float
    seed: int
    ctx: int | None
    loras: tuple[Adapter, ...]

    def reply(self, run: RunOptions) -> ChatOptions:
        """The same for one reply."""
        default = ChatOptions()
        return ChatOptions(
            self.prompt, self.system, self.max_tokens or default.max_tokens, self.temperature, self.seed,
            self.ctx or default.n_ctx, run.ngl, run.threads, _command_started(), loras=self.loras,
        )  # fmt: skip

    def settings(self) -> Settings:
        """The same for a conversation."""
        return Settings(
            system=self.system, temperature=self.temperature, seed=self.seed,
            num_predict=self.max_tokens, num_ctx=self.ctx,
        )  # fmt: skip


reply_options = grouped(
    "asked",
    lambda given: Asked(**given),
    click.argument("prompt", required=False),
    click.option("--system", metavar="TEXT", help="System prompt."),
    click.option("--max-tokens", type=click.IntRange(1, parameter_types.MOST),
                 help=f"Tokens to generate at most.  [default: {ChatOptions.max_tokens}; in a conversation all that fit]"),
    click.option("--temperature", type=click.FloatRange(0), default=ChatOptions.temperature,
                 show_default=True, help="0 is greedy."),
    click.option("--seed", type=int, default=ChatOptions.seed, show_default=True, help="Seed of the sampling."),
    click.option("--ctx", type=click.IntRange(64, parameter_types.MOST),
                 help=f"Context in tokens.  [default: {ChatOptions.n_ctx}; in a conversation the model's own, up to 8192]"),
    parameter_types.adapters("--lora", "loras", "A GGUF adapter, as `lora` makes it; several may be given."),
)  # fmt: skip


@click.command("chat")
@click.argument("gguf", type=parameter_types.FILE)
@reply_options
@request_options.backend_options
def chat_command(gguf: Path, asked: Asked, run: RunOptions) -> None:
    """Let GGUF reply to PROMPT: a short generation, with the file's own chat template.

    At a terminal without PROMPT it is a conversation: /help tells what there is, /bye or Ctrl-D ends it, Ctrl-C stops an
    answer.

    \b
    Examples:
        ggufkit chat model-Q4_K_M.gguf "What is a llama?"
        ggufkit chat model-Q4_K_M.gguf
    """
    from ggufkit.llama import adapter, evaluates
    from ggufkit.llama.gguf import read_gguf, read_header

    gguf = read_gguf(gguf).path
    evaluates.require_generates(
        gguf, "generates none", "Use it with llama-embedding, or where embeddings are asked for."
    )
    adapter.require_all_kin(asked.loras, (), read_header(gguf))
    if asked.prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
        from ggufkit.cli import converse

        converse.converse(gguf, asked.settings(), asked.loras, run)
    else:
        _reply(gguf, asked, run)


def _reply(gguf: Path, asked: Asked, run: RunOptions) -> None:
    from ggufkit.llama import binding, toolchain
    from ggufkit.measure import chat

    with reporting() as reporter:
        tools = toolchain.find(run.backend, reporter)
        binding.ensure_installed(reporter)
    reply = chat.chat(gguf, asked.reply(run), tools, reporter, on_text=stream)
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
