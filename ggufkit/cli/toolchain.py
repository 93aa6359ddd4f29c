"""The commands about the llama.cpp in use: toolchain."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ggufkit.cli import options
from ggufkit.cli.terminal import emit, emit_path, reporting, say
from ggufkit.llama import backends, build, server_tool, toolchain

BACKEND = click.option("--backend", type=click.Choice(backends.CHOICES), default="auto", show_default=True,
                       help="What it computes on.")  # fmt: skip


@click.group("toolchain")
def toolchain_command() -> None:
    """The llama.cpp in use: status, install, path."""


@toolchain_command.command("status")
@BACKEND
@options.json_option
def status_command(backend: str, as_json: bool) -> None:
    """Say which llama.cpp would be used, where it comes from, and what is being built; build nothing.

    \b
    Example:
        ggufkit toolchain status --json
    """
    found, building = toolchain.locate(backend), build.under_way()
    outdated = found is not None and toolchain.is_outdated(found)
    if as_json:
        there = (
            {key: str(value) if isinstance(value, Path) else value for key, value in vars(found).items()}
            if found
            else None
        )
        shown = {"toolchain": there, "outdated": outdated, "building": [asdict(one) for one in building]}
        emit(json.dumps(shown, indent=1) + "\n")
        return
    if found is None and not building:
        say("No llama.cpp yet. It is built when first needed, or now: ggufkit toolchain install")
    for key in ("origin", "commit", "version", "backend", "dir", "source") if found is not None else ():
        say(f"{key:<8} {getattr(found, key)}")
    if found is not None and outdated:
        say(toolchain.outdated_words(found))
    for one in building:
        how_far = f": {one.done} of {one.total} files" if one.total else ""
        say(f"building {one.name}{how_far}")


@toolchain_command.command("install")
@BACKEND
@click.option("--cuda-arch", metavar="LIST", help="Build for these compute capabilities, e.g. 90,89.")
@click.option("--server", is_flag=True, help="And llama-server, which `ggufkit serve` builds on first use.")
def install_command(backend: str, cuda_arch: str | None, server: bool) -> None:
    """Fetch and build the pinned llama.cpp unless that is done; what an earlier ggufkit built is built anew.

    With GGUFKIT_LLAMA_CPP set to a source directory or archive, that is built; no network is needed where cmake
    and ninja are there.

    \b
    Examples:
        ggufkit toolchain install
        ggufkit toolchain install --backend cuda --cuda-arch 90
    """
    with reporting() as reporter:
        if cuda_arch:
            made = toolchain.install(backends.BY_NAME["cuda"], reporter, cuda_arch)
        else:
            made = toolchain.find(backend, reporter)
            if toolchain.is_outdated(made):
                made = toolchain.install(backends.BY_NAME[made.backend], reporter)
        if server:
            server_tool.find(made, reporter)
    emit_path(made.dir)


@toolchain_command.command("path")
@BACKEND
@click.option("--source", is_flag=True, help="The directory that holds convert_hf_to_gguf.py instead.")
def path_command(backend: str, source: bool) -> None:
    """Print the directory of the binaries."""
    with reporting() as reporter:
        tools = toolchain.find(backend, reporter)
        emit_path(toolchain.converter_source(tools, reporter) if source else tools.dir)
