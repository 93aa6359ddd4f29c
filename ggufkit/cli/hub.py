"""Commands towards the hubs and the user's ear: models, chat, publish."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import options
from ggufkit.cli.terminal import console, reporting
from ggufkit.core.units import size

if TYPE_CHECKING:
    from ggufkit.publish import Parcel


@click.command("models")
@click.argument("words", metavar="[FILTER]", nargs=-1)
@options.json_option
def models_command(words: tuple[str, ...], as_json: bool) -> None:
    """The aliases, and what each stands for on both hubs.

    \b
    Examples:
        ggufkit models
        ggufkit models qwen3 base
    """
    from ggufkit.hub.names import matching

    found = matching(" ".join(words))
    if as_json:
        click.echo(json.dumps([asdict(alias) for alias in found], indent=1))
        return
    if not found:
        click.echo(f"No alias matches {' '.join(words)!r}. Any OWNER/NAME of a hub works too.")
    width = max((len(alias.name) for alias in found), default=0)
    for alias in found:
        click.echo(f"{alias.name:<{width}}  {_count(alias.n_params):>6}  {alias.architecture}")
        there = "" if alias.modelscope is None else f"   ms:{alias.modelscope}"
        click.echo(f"{'':<{width}}          {alias.huggingface}{there}")


def _count(n_params: int) -> str:
    return f"{n_params / 1e9:.3g}B" if n_params >= 1e9 else f"{n_params / 1e6:.0f}M"


@click.command("chat")
@click.argument("gguf", type=options.FILE)
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1, options.MOST),
    default=256,
    show_default=True,
    help="Tokens to generate at most.",
)
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True, help="0 is greedy.")
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of the sampling.")
@click.option(
    "--ctx",
    "n_ctx",
    type=click.IntRange(64, options.MOST),
    default=2048,
    show_default=True,
    help="Context in tokens.",
)
@options.backend_options
def chat_command(
    gguf: Path, prompt: str | None, system: str | None, max_tokens: int, temperature: float, seed: int, n_ctx: int,
    backend: str, ngl: int | None, threads: int,
) -> None:  # fmt: skip
    """Let GGUF reply to PROMPT: a short generation, with the file's own chat template.

    \b
    Example:
        ggufkit chat model-Q4_K_M.gguf "What is a llama?"
    """
    from ggufkit.llama import binding, toolchain
    from ggufkit.llama.gguf import read_gguf
    from ggufkit.measure import chat

    read_gguf(gguf)
    how = chat.ChatOptions(prompt, system, max_tokens, temperature, seed, n_ctx, ngl, threads, _command_started())
    with reporting() as reporter:
        tools = toolchain.find(backend, reporter)
        binding.ensure_installed(reporter)
    reply = chat.chat(gguf, how, tools, reporter, on_text=_write)
    click.echo()
    rate = "" if reply.tokens_per_s is None else f", {reply.tokens_per_s:.1f} tokens/s"
    template = "its chat template" if reply.templated else "no chat template: plain completion"
    click.echo(
        f"[{len(reply.tokens)} tokens{rate}; first after {reply.first_token_s:.2f} s; {template}]", err=True
    )
    if reply.full:
        click.echo("The context is full: a larger --ctx lets it go on.", err=True)


def _command_started() -> float:
    """`time.time()` at the start of this process; counted from boot where the clock of the boot is coarse."""
    import psutil

    begun = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return begun
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - (begun - psutil.boot_time()))


def _write(text: str) -> None:
    click.echo(text, nl=False)


@click.command("publish")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("repo")
@click.option("--yes", is_flag=True, help="Upload; without it, only show what would be uploaded.")
@click.option("--private", is_flag=True, help="Make a private repository, if it is new.")
@click.option("--replace-card", is_flag=True, help="Overwrite a README.md that was written or edited on the hub.")
@options.json_option
def publish_command(
    directory: Path, repo: str, yes: bool, private: bool, replace_card: bool, as_json: bool
) -> None:
    """Upload what is complete in DIR to REPO: OWNER/NAME on Hugging Face, or ms:OWNER/NAME on ModelScope.

    \b
    Examples:
        ggufkit publish ./out me/Qwen2.5-0.5B-GGUF          look first
        ggufkit publish ./out me/Qwen2.5-0.5B-GGUF --yes    then upload
    """
    from ggufkit import publish

    with reporting() as reporter:
        parcel = publish.pack(directory, repo, replace_card=replace_card, look_only=not yes)
        if not as_json:
            _show_parcel(parcel)
        address = publish.send(parcel, reporter, private=private) if yes and parcel.missing else None
    if as_json:
        click.echo(json.dumps({**asdict(parcel), "uploaded": address is not None}, indent=1, default=str))
    elif address is not None:
        click.echo(f"Uploaded: {address}")
    elif parcel.missing:
        click.echo("Nothing was uploaded. Look at README.md and edit it if you like, then repeat with --yes.")


def _show_parcel(parcel: Parcel) -> None:
    screen = console(stderr=False)
    for item in parcel.uploads:
        state = "[dim]there already[/dim]" if item.there else "[green]to upload[/green]"
        screen.print(f"{item.path.name:<40} {size(item.size_bytes):>8}  {state}")
    for name, reason in parcel.left_out:
        screen.print(f"[yellow]{name}[/yellow] left out: {reason}.")
    if parcel.unreached:
        screen.print(f"What {parcel.repo} holds already is not known: {parcel.unreached}", markup=False)
    where = parcel.repo if parcel.exists is not False else f"{parcel.repo}, which will be made"
    missing = parcel.missing
    if not missing:
        screen.print(f"{parcel.repo} has all of it already.")
        return
    screen.print(f"{len(missing)} files, {size(sum(u.size_bytes for u in missing))}, for {where}.")
