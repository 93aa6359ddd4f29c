"""llama-server: the toolchain's own, or built into ggufkit's own build on first use, from the same source.

It is compiled against the libraries that are there: who does not serve need not wait for it, and a build of an earlier
ggufkit gets it without being made again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import build
from ggufkit.llama.programs import fetch_program, find_recent
from ggufkit.llama.progress_lines import steps_done

NAME = "llama-server"
_PROJECT = Path(__file__).parent / "cmake_server"


def find(tools: Toolchain, reporter: Reporter) -> Path:
    """The program, built now if need be.

    Raises:
        ToolchainError: it is not there, and the tools are not ggufkit's own build; or its build failed.
    """
    program = tools.binary(NAME)
    if program.is_file():
        return program
    source = _source(tools)
    if source is None:
        hint = f"Build it there: cmake --build DIR --target {NAME}; or unset GGUFKIT_LLAMA_CPP to use the pinned build."
        raise ToolchainError(f"{tools.dir} has no {NAME}, which serving needs.", hint=hint)
    home = tools.dir.parent
    with waiting_lock(home.with_name(f"{home.name}-server.lock"), NAME, reporter):
        if not program.is_file():
            _build(source, tools, program, reporter)
    return program


def _source(tools: Toolchain) -> Path | None:
    """The source that ggufkit built these tools from; None if it did not, or the source is gone."""
    stamp = build.read_stamp(tools.dir.parent)
    if stamp is None:
        return None
    places = (tools.source, Path(stamp.source))
    return next((place for place in places if place is not None and (place / "tools" / "server").is_dir()), None)


def _build(source: Path, tools: Toolchain, program: Path, reporter: Reporter) -> None:
    build.require_compiler()
    cmake, ninja = (find_recent(p) or fetch_program(p, reporter) for p in ("cmake", "ninja"))
    work = tools.dir.parent.with_name(f"{tools.dir.parent.name}-server.partial")
    log = cache_dir() / "logs" / f"build-{tools.dir.parent.name}-server.log"
    argv: list[str | Path] = [cmake, "-S", _PROJECT, "-B", work, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    argv += ["-DCMAKE_BUILD_TYPE=Release", f"-DGGUFKIT_SOURCE={source}", f"-DGGUFKIT_LIBRARIES={tools.dir}"]
    with reporter.step(f"Building {NAME}") as progress:

        def watch(_stream: str, text: str) -> None:
            if (steps := steps_done(text)) is not None:
                progress.update(*steps, "files")

        configured = process.run(argv, log=log.with_name(f"{log.stem}-configure.log"))
        build.require_built(configured, f"configuring {NAME}")
        build.require_built(process.run([ninja, "-C", work, NAME], log=log, on_text=watch), f"building {NAME}")
    (work / "bin" / NAME).rename(program)
    shutil.rmtree(work, ignore_errors=True)
