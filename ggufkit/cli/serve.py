"""The command that makes a model an endpoint: serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufkit.cli import options, parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.parameter_types import of_kind
from ggufkit.cli.terminal import console, emit, reporting, say
from ggufkit.core.errors import ToolError, UsageError
from ggufkit.core.units import size
from ggufkit.llama import kv_cache, mtp
from ggufkit.llama.gguf import read_header
from ggufkit.llama.mmproj import read_projector
from ggufkit.request import RunOptions
from ggufkit.serving.drafts import DraftOptions
from ggufkit.serving.server import CONTEXT, ServeOptions

if TYPE_CHECKING:
    from rich.table import Table

    from ggufkit.serving.asking import Outcome
    from ggufkit.serving.server import Server


def _how(given: dict[str, Any]) -> ServeOptions:
    kind = given.pop("kv_type")
    drafts = DraftOptions(given.pop("draft"), given.pop("mtp"), given.pop("draft_max"), given.pop("draft_min"))
    return ServeOptions(kv_type=None if kind == "auto" else kind, drafts=drafts, **given)


serve_options = grouped(
    "how",
    _how,
    click.option("--host", default=ServeOptions.host, show_default=True,
                 help="Address to listen on; 0.0.0.0 is all of this machine's."),
    click.option("--port", type=click.IntRange(1, 65535), default=ServeOptions.port, show_default=True,
                 help="Port to listen on."),
    click.option("--api-key", metavar="KEY", envvar="LLAMA_API_KEY",
                 help="What clients must show; made up where --host is not this machine's own."),
    click.option("--name", metavar="NAME", help="What clients call the model.  [default: the file's name]"),
    click.option("--ctx", type=of_kind(CONTEXT), default="auto", show_default=True,
                 help="Context in tokens; auto: the model's own, or what fits."),
    click.option("--kv-type", type=click.Choice(["auto", *kv_cache.TYPES]), default="auto", show_default=True,
                 help="Type of the KV cache; auto: f16, or q8_0 where f16 leaves too little context."),
    click.option("--slots", type=click.IntRange(1, 256), default=ServeOptions.slots, show_default=True,
                 help="Answers at once; they share the context."),
    click.option("--mmproj", type=parameter_types.FILE,
                 help="What reads images or sound.  [default: mmproj-NAME-*.gguf beside GGUF]"),
    click.option("--no-mmproj", "alone", is_flag=True, help="Serve text alone."),
    parameter_types.adapters("--lora", "loras", "A GGUF adapter, as `lora` makes it; several may be given."),
    parameter_types.adapters("--control-vector", "control_vectors", "A control vector in a GGUF, likewise."),
    click.option("--draft", type=parameter_types.FILE, metavar="GGUF",
                 help="A small model of the same vocabulary that guesses tokens, which the model verifies."),
    click.option("--mtp", is_flag=True, help="The model's own MTP layers guess tokens."),
    click.option("--draft-max", type=click.IntRange(1, 64), metavar="N", show_default="llama-server's",
                 help="Tokens guessed at once, at most."),
    click.option("--draft-min", type=click.IntRange(0, 64), metavar="N", show_default="llama-server's",
                 help="Tokens below which nothing is verified at once."),
)  # fmt: skip

instead_options = grouped(
    "instead",
    lambda given: given,
    click.option("--check", is_flag=True, help="Serve, prove that clients get what they ask for, and end."),
    click.option("--llama-swap", type=parameter_types.FILE, metavar="FILE",
                 help="Write what llama-swap starts the model with, and serve nothing."),
    click.option("--systemd", is_flag=True, help="Print a unit of systemd, and serve nothing."),
    options.json_option,
)  # fmt: skip


@click.command("serve")
@click.argument("gguf", type=parameter_types.FILE)
@serve_options
@instead_options
@request_options.backend_options
def serve_command(gguf: Path, how: ServeOptions, instead: dict[str, Any], run: RunOptions) -> None:
    """Serve GGUF to clients of OpenAI's protocol, through the toolchain's own llama-server.

    It listens on this machine alone unless --host says otherwise, and then asks for a key. Ctrl-C ends it.

    \b
    Examples:
        ggufkit serve model-Q4_K_M.gguf
        ggufkit serve model-Q4_K_M.gguf --check
        ggufkit serve model-Q4_K_M.gguf --systemd > model.service
    """
    if instead["check"]:
        _check(gguf, how, run, instead["as_json"])
    elif instead["llama_swap"] is not None or instead["systemd"]:
        _write(gguf, how, run, instead)
    elif instead["as_json"]:
        raise UsageError("--json is about what --check finds.", hint="Give --check as well.")
    else:
        _serve(gguf, how, run)


def _serve(gguf: Path, how: ServeOptions, run: RunOptions) -> None:
    from ggufkit.commands import serve

    with ExitStack() as stack:
        with reporting() as reporter:
            server = stack.enter_context(serve.serve(gguf, how, run, reporter))
        _tell(server)
        try:
            server.wait()
        except KeyboardInterrupt:
            stack.close()
            say("The server has ended.", err=True)


def _tell(server: Server) -> None:
    endpoint, cache = server.endpoint, server.plan.cache
    kept = f", KV cache {cache.kv_type.upper()} ({size(cache.n_bytes)})" if cache.n_bytes else ""
    shared = f" for {server.plan.listening.slots} at once" if server.plan.listening.slots > 1 else ""
    say(f"base URL  {endpoint.public_url}")
    say(f"model     {endpoint.model}")
    if endpoint.api_key is not None:
        say(f"API key   {endpoint.api_key}")
    say(f"context   {cache.n_ctx} tokens{shared}{kept}")
    if (mmproj := server.plan.beside.mmproj) is not None:
        say(f"{read_projector(mmproj).reads:<10}{mmproj}")
    for one in (*server.plan.beside.loras, *server.plan.beside.control_vectors):
        say(f"adapter   {one.file}{'' if one.scale == 1 else f', scaled by {one.scale:g}'}")
    if (drafting := server.plan.listening.drafting) is not None:
        beside = f" ({size(cache.draft_bytes)})" if cache.draft_bytes else ""
        say(f"draft     {drafting.model.name if drafting.model is not None else 'its MTP layers'}{beside}")
    elif mtp.layers(read_header(server.plan.gguf)):
        say("draft     none; with --mtp its MTP layers draft")
    say(f"log       {server.service.log}")
    say("")
    for snippet in (endpoint.curl(), endpoint.python()):
        for line in snippet.splitlines():
            say(line)
        say("")
    say("Ctrl-C ends it.", err=True)


def _check(gguf: Path, how: ServeOptions, run: RunOptions, as_json: bool) -> None:
    from ggufkit.commands import serve

    with reporting() as reporter:
        outcomes = serve.check(gguf, how, run, reporter)
    if as_json:
        emit(json.dumps([asdict(outcome) for outcome in outcomes], indent=1, ensure_ascii=False) + "\n")
    else:
        console(stderr=False).print(_table(outcomes))
    failed = [outcome.name for outcome in outcomes if outcome.passed is False]
    if failed:
        hint = "Look at the file with `ggufkit inspect`, and at its template with `ggufkit modelfile`."
        raise ToolError(f"{gguf.name} is served, but not as clients expect: {', '.join(failed)}.", hint=hint)


def _table(outcomes: Sequence[Outcome]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found", overflow="fold")
    drafts = any(one.drafted is not None for one in outcomes)
    for title in ("tokens/s", "first token", *(["accepted"] if drafts else [])):
        table.add_column(title, justify="right", no_wrap=True)
    marks = {True: "ok", False: "FAILED", None: "–"}
    for one in outcomes:
        rate = "–" if one.tokens_per_s is None else f"{one.tokens_per_s:.1f}"
        first = "–" if one.first_token_s is None else f"{1000 * one.first_token_s:.0f} ms"
        accepted = f"{one.accepted / one.drafted:.1%}" if one.drafted and one.accepted is not None else "–"
        table.add_row(one.name, marks[one.passed], one.said, rate, first, *([accepted] if drafts else []))
    return table


def _write(gguf: Path, how: ServeOptions, run: RunOptions, instead: dict[str, Any]) -> None:
    from ggufkit.commands import serve
    from ggufkit.serving import deploy

    with reporting() as reporter:
        plan = serve.plan(gguf, how, run, reporter)
    if instead["llama_swap"] is not None:
        deploy.llama_swap(plan, run.ngl, instead["llama_swap"])
        say(f"Wrote {instead['llama_swap']}", err=True)
    if instead["systemd"]:
        emit(deploy.systemd(plan, run.ngl))
        if plan.endpoint.api_key is not None:
            say(f"Its key belongs into {deploy.key_file(plan)}: LLAMA_API_KEY=…", err=True)
