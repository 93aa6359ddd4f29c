"""The commands about the llama.cpp in use: toolchain."""

from __future__ import annotations

import click

from ggufkit.cli.terminal import emit_path, reporting, say
from ggufkit.llama import backends, toolchain

BACKEND = click.option("--backend", type=click.Choice(backends.CHOICES), default="auto", show_default=True,
                       help="What it computes on.")  # fmt: skip


@click.group("toolchain")
def toolchain_command() -> None:
    """The llama.cpp in use: status, install, path."""


@toolchain_command.command("status")
@BACKEND
def status_command(backend: str) -> None:
    """Say which llama.cpp would be used, and where it comes from; build nothing."""
    found = toolchain.locate(backend)
    if found is None:
        say("No llama.cpp yet. It is built when first needed, or now: ggufkit toolchain install")
        return
    for key in ("origin", "commit", "version", "backend", "dir", "source"):
        say(f"{key:<8} {getattr(found, key)}")
    if toolchain.is_outdated(found):
        say(toolchain.outdated_words(found))


@toolchain_command.command("install")
@BACKEND
@click.option("--cuda-arch", metavar="LIST", help="Build for these compute capabilities, e.g. 90,89.")
def install_command(backend: str, cuda_arch: str | None) -> None:
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
    emit_path(made.dir)


@toolchain_command.command("path")
@BACKEND
@click.option("--source", is_flag=True, help="The directory that holds convert_hf_to_gguf.py instead.")
def path_command(backend: str, source: bool) -> None:
    """Print the directory of the binaries."""
    with reporting() as reporter:
        tools = toolchain.find(backend, reporter)
        emit_path(toolchain.converter_source(tools, reporter) if source else tools.dir)
