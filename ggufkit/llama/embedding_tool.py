"""llama-embedding: the toolchain's own, or one file of llama.cpp's examples compiled against its libraries on first use."""

from __future__ import annotations

from pathlib import Path

from ggufkit.core.errors import ToolchainError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import compiling
from ggufkit.llama import source as sources
from ggufkit.llama.binding import library_dir

NAME = "llama-embedding"
_FLUSH = """// llama.cpp's log is printed by a thread that the end of main does not wait for.
#include "log.h"
namespace {
struct Flush {
    ~Flush() { common_log_flush(common_log_main()); }
};
const Flush flush;
}  // namespace
"""


def find(tools: Toolchain, reporter: Reporter) -> Path:
    """The program, compiled now if need be.

    Raises:
        ToolchainError: it is not there, and cannot be compiled for this toolchain.
    """
    own = tools.binary(NAME)
    if own.is_file():
        return own
    home = library_dir(tools)
    program = compiling.place(tools, home) / NAME
    program.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(program.with_suffix(".lock"), NAME, reporter):
        if not program.is_file():
            _compile(tools, home, program, reporter)
    return program


def _compile(tools: Toolchain, home: Path, program: Path, reporter: Reporter) -> None:
    code = None
    if compiling.compiler(home) is not None:
        code = sources.example("embedding", tools.source, tools.commit, reporter)
    if code is None or tools.source is None:
        raise ToolchainError(
            f"{tools.dir} has no {NAME}, with which embeddings are compared, and it cannot be compiled for it.",
            hint=f"Build it there: cmake --build DIR --target {NAME}; or leave quality out with --no-eval.",
        )
    flush = program.with_name("flush.cpp")
    flush.write_text(_FLUSH, encoding="utf-8")
    with reporter.step(f"Compiling {NAME}"):
        output = compiling.compile_program(program, [code / "embedding.cpp", flush], tools.source, home)
    if output.returncode != 0:
        hint = f"Build {NAME} in your llama.cpp, or leave quality out with --no-eval."
        raise ToolchainError(f"{NAME} could not be compiled for {tools.dir}.", hint=hint, log=output.log)
