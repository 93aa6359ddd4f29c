"""A llama-perplexity that also writes what each token gave: a copy of the toolchain's, compiled on first use.

It prints what the toolchain's own prints, and takes no longer. That prints running means of five digits, from which no
more than chunks can be told, and of the best files not even those.
"""

from __future__ import annotations

import hashlib
import math
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core import failures, process
from ggufkit.core.errors import ResourceError, ToolchainError, ToolError
from ggufkit.core.locks import waiting_lock
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import argv, build, compiling, kld, selfcheck
from ggufkit.llama import source as sources
from ggufkit.llama.argv import Compute, Excerpt, Quantization
from ggufkit.llama.binding import library_dir
from ggufkit.llama.kld import Divergence
from ggufkit.llama.programs import fetch_program, find_recent
from ggufkit.llama.selfcheck import Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "llama-perplexity"
VARIABLE = "GGUFKIT_SCORES"
"""Names the file that scores go to."""

_HEADER = Path(__file__).with_name("scores.h")
_ADDED = {
    "    const float nll_base = -(scale*base_log_prob[tok] + min_log_prob);\n": "ggufkit::last_ln_ratio = nll - nll_base;\n",
    "            kld_values[i]    = (float)v.first;\n": "ggufkit::scores.keep(kld_values + i);\n",
    "    auto    kld_ptr =    kld_values.data();\n": "ggufkit::scores.begin(kld_ptr, kld_values.size());\n",
    "    if (kld.count < 100) return; // we do not wish to do statistics on so few values\n": (
        "ggufkit::scores.end(kld_values);\n"
    ),
}
"""What is added after lines of llama-perplexity's source; the last one comes before its values are sorted."""
_COUNT = struct.Struct("<Q")
_TINY, _N_CTX, _CHUNKS = Shape(layers=1), 64, 8
_LAST_DIGITS = 2e-6


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What each scored token gave: (n_chunks, n) KL divergence in nats, and ln(p of the base / p) of the true token."""

    kld: NDArray[np.float32]
    ln_ratio: NDArray[np.float32]

    def agrees_with(self, printed: Divergence) -> bool:
        """Whether its means are the printed ones, to the digits that are printed."""
        pairs = ((self.kld, printed.kld[0]), (self.ln_ratio, printed.ln_ppl_ratio[0]))
        return all(
            math.isclose(float(v.mean(dtype=float)), mean, rel_tol=1e-5, abs_tol=_LAST_DIGITS) for v, mean in pairs
        )


def find(tools: Toolchain, reporter: Reporter) -> Path | None:
    """The program, compiled and tried now if need be; None, and a word why, where this toolchain can have none."""
    try:
        return _find(tools, reporter)
    except (OSError, ResourceError, ToolchainError) as error:
        why = str(error) if isinstance(error, OSError) else error.message
        reporter.info(f"What each token loses is not kept, only what chunks do. {why}")
        return None


def read(path: Path, n_chunks: int) -> TokenScores | None:
    """What the program wrote to a file; None where it did not, or not all."""
    import numpy as np

    data = path.read_bytes() if path.is_file() else b""
    n = _COUNT.unpack_from(data)[0] if len(data) >= _COUNT.size else 0
    if not n or n % n_chunks or len(data) != _COUNT.size + 2 * 4 * n:
        return None
    kld_values, ln_ratio = np.frombuffer(data, "<f4", offset=_COUNT.size).reshape(2, n_chunks, -1)
    return TokenScores(kld_values, ln_ratio)


def _find(tools: Toolchain, reporter: Reporter) -> Path:
    source, home = _source_of(tools), library_dir(tools)
    flags = build.fast_flags() if build.has_fast_logits(tools.dir) else ("-O3",)
    parts = [_HEADER.read_text(encoding="utf-8"), *_ADDED, *_ADDED.values(), *flags]
    version = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    program = compiling.place(tools, home) / f"scores-{version}" / NAME
    program.parent.mkdir(parents=True, exist_ok=True)
    refused = program.with_suffix(".refused")
    with waiting_lock(program.with_suffix(".lock"), f"{NAME} for single tokens", reporter):
        if refused.is_file():
            raise ToolchainError(refused.read_text(encoding="utf-8"))
        if not program.is_file():
            code = _code(tools, source, program.with_name("perplexity.cpp"), reporter)
            try:
                _make(tools, code, program, flags, reporter)
            except (ToolError, ToolchainError) as error:
                why = f"{error.message} Remove {program.parent} to have it tried again."
                refused.write_text(why, encoding="utf-8")
                raise ToolchainError(why) from error
    return program


def _source_of(tools: Toolchain) -> Path:
    """The source that the tools were built from: headers of another commit would be taken for theirs. A script in place
    of the tool is somebody's own way to run it."""
    with tools.binary(NAME).open("rb") as tool:
        if tool.read(2) == b"#!":
            raise ToolchainError(f"{tools.binary(NAME)} is a script.")
    known = sources.describe_source(tools.source).commit if tools.source is not None else "unknown"
    if tools.source is None or not known.startswith(tools.commit):
        raise ToolchainError(f"The source of the llama.cpp in {tools.dir} is not there.")
    return tools.source


def _code(tools: Toolchain, source: Path, to: Path, reporter: Reporter) -> Path:
    """Its source, made from that of the toolchain's own."""
    if compiling.compiler(library_dir(tools)) is None:
        raise ToolchainError(f"It takes a C++ compiler, and llama.cpp's shared libraries in {tools.dir}.")
    own = source / "tools" / "perplexity" / to.name
    if build.has_fast_logits(tools.dir):
        cmake = find_recent("cmake") or fetch_program("cmake", reporter)
        if process.run(build.fast_logits(cmake, own, to)).returncode != 0:
            raise ToolchainError(f"{own} is not the {NAME} that is known.")
        own = to
    to.write_text(_with_scores(own), encoding="utf-8")
    return to


def _make(tools: Toolchain, code: Path, program: Path, flags: Sequence[str], reporter: Reporter) -> None:
    source = _source_of(tools)
    files = [f for f in (source / "tools" / "perplexity" / "main.cpp", build.LINGER) if f.is_file()]
    untried = program.with_name("untried")
    with reporter.step(f"Compiling {NAME} for single tokens"):
        made = compiling.compile_program(untried, [code, *files], source, library_dir(tools), flags)
        if made.returncode != 0:
            raise ToolchainError(f"{NAME} could not be compiled for {tools.dir}; its log: {made.log}.")
        _try(tools, untried)
    untried.rename(program)


def _with_scores(source: Path) -> str:
    text = source.read_text(encoding="utf-8")
    for line, added in _ADDED.items():
        if text.count(line) != 1:
            raise ToolchainError(f"{source} is not the {NAME} that is known.")
        text = text.replace(line, f"{line}    {added}")
    return f'#include "{_HEADER}"\n{text}'


def _try(tools: Toolchain, program: Path) -> None:
    """Compare a tiny model with another: what is written must have the means that are printed."""
    with tempfile.TemporaryDirectory(prefix="ggufkit-scores-") as directory:
        home = Path(directory)
        base, text = selfcheck.write_model(home / "base.gguf", _TINY), home / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. 0123456789\n" * 20, encoding="utf-8")
        coarse, logits, compute = home / "coarse.gguf", home / "logits", Compute("cpu", threads=1)
        _run(argv.quantize(tools, Quantization(base, "Q4_0"), coarse, 1))
        _run(argv.base_logits(tools, base, logits, Excerpt(text, _N_CTX, _CHUNKS), compute))
        command = argv.divergence(tools, coarse, logits, _N_CTX, compute)
        printed = kld.parse_divergence(_run([str(program), *command[1:]], {VARIABLE: str(home / "scores")}))
        found = read(home / "scores", _CHUNKS)
    if found is None or not found.agrees_with(printed):
        raise ToolchainError(f"What {NAME} writes, compiled for {tools.dir}, is not what it prints.")


def _run(command: argv.Argv, env: dict[str, str] | None = None) -> ToolOutput:
    output = process.run(command, surroundings=Surroundings(env or {}))
    failures.require_success(output, f"trying {NAME} on a tiny model")
    return output
