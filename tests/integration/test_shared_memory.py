"""Base logits through shared memory: every reader gets every byte, nobody waits for one that is gone; GPU builds' tool."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ggufkit.core import failures, process
from ggufkit.core.concurrency import Task, run_processes
from ggufkit.core.hashing import sha256_file
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import GgufFile, Toolchain
from ggufkit.llama import argv, build, toolchain
from ggufkit.llama.argv import Quantization
from ggufkit.llama.gguf import read_gguf
from ggufkit.llama.programs import find_program
from ggufkit.measure import divergence
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits import pipes, shared_memory
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.measurements import load
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts import corpus
from ggufkit.texts.corpus import Corpus
from tests import tiny

CMAKE = Path(build.__file__).parent / "cmake"
MEBI = 1 << 20
_CAT = """
#include "shared_ring.h"
#include <cstdlib>
#include <iostream>
#include <vector>
// write PATH MEBIBYTES | read PATH MEBIBYTES_AT_MOST DELAY_MS, in pieces that fit nothing evenly
int main(int n, char ** argv) {
    const std::string what = argv[1];
    const size_t total = size_t(atof(argv[3])*(1 << 20));
    std::vector<char> piece(777777);
    if (what == "write") {
        ggufkit::LogitsOut out;
        out.open(argv[2], std::ios::binary);
        if (!out.is_open()) { return 2; }
        unsigned state = 7;
        for (size_t done = 0; done < total; done += piece.size()) {
            piece.resize(std::min(piece.size(), total - done));
            for (char & c : piece) { c = char((state = state*1664525u + 1013904223u) >> 24); }
            out.write(piece.data(), piece.size());
        }
        return out.good() ? 0 : 3;
    }
    ggufkit::LogitsIn in(argv[2], std::ios::binary);
    if (!in) { return 2; }
    for (size_t done = 0; done < total; done += piece.size()) {
        piece.resize(std::min(piece.size(), total - done));
        in.read(piece.data(), piece.size());
        std::cout.write(piece.data(), in.gcount());
        if (in.fail()) { break; }
        std::this_thread::sleep_for(std::chrono::milliseconds(atoi(argv[4])));
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    found = find_program("g++")
    if sys.platform != "linux" or found is None:
        pytest.skip("rings are for GCC on Linux")
    if not process.run([found, "-dumpmachine"]).stdout.startswith("x86_64"):
        pytest.skip("GPU builds have rings on x86-64 only")
    return str(found)


@pytest.fixture(scope="module")
def cat(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that writes to a ring or reads from one."""
    home = tmp_path_factory.mktemp("cat")
    (home / "cat.cpp").write_text(_CAT)
    options = ["-std=c++17", "-O2", "-Wall", "-Werror", f"-I{CMAKE}", "-lpthread"]
    made = process.run([compiler, home / "cat.cpp", *options, "-o", home / "cat"])
    assert made.returncode == 0, made.text
    return home / "cat"


def task(cat: Path, *arguments: object) -> Task:
    command = ["sh", "-c", '"$@" | sha256sum', "sh", str(cat), *map(str, arguments)]
    return Task(str(arguments[0]), lambda cancel: process.run(command, cancel=cancel))


def stream(cat: Path, mebibytes: float, readers: Sequence[tuple[float, int]], size: int) -> list[ToolOutput]:
    """Write so much; each reader takes so much at most, and pauses so long after each piece."""
    with shared_memory.open_ring(len(readers), size) as made:
        tasks = [task(cat, "write", made.path, mebibytes)]
        tasks += [task(cat, "read", made.path, most, delay) for most, delay in readers]
        _, *outputs = run_processes(tasks, lambda _cancel: None)
        return outputs


def expected(mebibytes: float) -> str:
    """The hash of the bytes that are written."""
    state, n, out = 7, int(mebibytes * MEBI), bytearray()
    for _ in range(n):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(state >> 24)
    return hashlib.sha256(out).hexdigest()


@pytest.mark.parametrize("n_readers", [1, 3])
@pytest.mark.parametrize("size", [MEBI, 3 * MEBI + 5, 64 * MEBI])
def test_every_reader_gets_every_byte(cat: Path, n_readers: int, size: int) -> None:
    outputs = stream(cat, 6.3, [(100, i) for i in range(n_readers)], size)
    assert {o.stdout.split()[0] for o in outputs} == {expected(6.3)}


def test_a_reader_that_leaves_holds_nobody_back(cat: Path) -> None:
    slow, left = stream(cat, 8, [(100, 1), (1, 0)], MEBI)
    assert slow.stdout.split()[0] == expected(8)
    assert left.stdout.split()[0] == expected(1)


def test_readers_end_when_the_writer_never_came(cat: Path) -> None:
    with shared_memory.open_ring(1, MEBI) as made:
        reading = threading.Timer(0.3, made.end)
        reading.start()
        output = process.run([cat, "read", made.path, "5", "0"])
        reading.join()
    assert (output.returncode, output.stdout) == (0, "")


@pytest.mark.parametrize("what", ["read", "write"])
def test_a_ring_that_cannot_be_mapped_ends_the_process(cat: Path, what: str) -> None:
    """Taken for a file it would be written over, and the other end would wait for ever."""
    with shared_memory.open_ring(2, 1024 * MEBI) as made:
        limited = ["sh", "-c", 'ulimit -v 500000; "$@"', "sh", str(cat), what, str(made.path), "3", "0"]
        output = process.run(limited)
        assert (output.returncode, output.stdout) == (1, "")
        assert "cannot be mapped" in output.stderr
        assert os.fstat(made.file).st_size > 1024 * MEBI


def test_other_files_are_files(cat: Path, tmp_path: Path) -> None:
    file = tmp_path / "logits"
    file.write_bytes(b"_logits_" * 1000)  # of an earlier run: overwritten
    assert process.run([cat, "write", file, "2"]).returncode == 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() == expected(2)
    read = process.run(["sh", "-c", f'"{cat}" read "{file}" 9 0 | sha256sum'])
    assert read.stdout.split()[0] == expected(2)
    assert process.run([cat, "read", tmp_path / "none", "9", "0"]).returncode == 2
    with pipes.named_pipes(tmp_path, 1) as (pipe,):
        tasks = [task(cat, "write", pipe, 2), task(cat, "read", pipe, 9, 0)]
        assert run_processes(tasks, lambda _cancel: None)[1].stdout.split()[0] == expected(2)


@pytest.fixture(scope="module")
def fast(compiler: str, tools: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    """The CPU's tools, with llama-perplexity as GPU builds have it."""
    home = tmp_path_factory.mktemp("fast") / "bin"
    shutil.copytree(tools.dir, home, symlinks=True)
    (home / "llama-perplexity").unlink()
    source = toolchain.converter_source(tools, SilentReporter())
    if not (source / "common").is_dir():
        pytest.skip("these tools came without llama.cpp's source")
    here = source / "tools" / "perplexity"
    copy = process.run(
        [str(find_program("cmake")), f"-DSOURCE={here / 'perplexity.cpp'}", f"-DTO={home / 'perplexity.cpp'}", "-P",
         CMAKE / "fast_logits.cmake"]
    )  # fmt: skip
    assert copy.returncode == 0, copy.text
    flags = re.search(r"set\(GGUFKIT_FAST_FLAGS\s+([^)]+)\)", (CMAKE / "tools.cmake").read_text())
    assert flags is not None
    headers = [f"-I{source / d}" for d in ("common", "include", "ggml/include", "vendor", "tools/perplexity")]
    sources = [home / "perplexity.cpp", here / "main.cpp", CMAKE / "linger.cpp"]
    libraries = [
        f"-L{home}",
        "-lllama-common",
        "-lllama",
        "-lggml",
        "-lggml-base",
        "-Wl,-rpath,$ORIGIN",
        "-lpthread",
    ]
    made = process.run(
        [compiler, "-std=gnu++17", "-O1", *flags[1].split(), *headers, *sources, "-o", home / "llama-perplexity",
         *libraries]
    )  # fmt: skip
    assert made.returncode == 0, made.text
    return Toolchain(home, tools.origin, tools.commit, tools.backend, tools.version, tools.source)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus.open_text(tiny.text_file(tmp_path_factory.mktemp("text") / "text.txt"))


def measured(
    tools: Toolchain, files: Sequence[GgufFile], text: Corpus, root: Path, strategy: str
) -> dict[str, float]:
    session = Session(tools, Workspace(root), threads=2)
    with session.workspace.locked():
        evaluation, transport = Evaluation(text, EvalOptions(64, 24), session), Transport(1 << 30, strategy)
        done = divergence.measure_all(files[0], files[1:], evaluation, transport)
    values = {(result.path.stem, m.metric): m.value for result in done for m in load(result.path)}
    return {f"{stem} {metric}": value for (stem, metric), value in values.items() if metric != "eval_tps"}


def test_where_other_processes_cannot_open_it_there_are_pipes(
    fast: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def nowhere(_n_readers: int, _size: int) -> Iterator[shared_memory.Ring]:
        yield shared_memory.Ring(Path("/proc/nowhere/fd/3"), -1)

    assert shared_memory.supported(fast)
    monkeypatch.setattr(shared_memory, "open_ring", nowhere)
    assert not shared_memory.supported(fast)


def test_gpu_builds_tool_gives_the_same_figures_through_a_ring(
    tools: Toolchain, fast: Toolchain, base: Path, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [read_gguf(base, sha256_file(base))]
    for kind in ("Q4_0", "Q8_0"):
        path = tmp_path / f"tiny-{kind}.gguf"
        failures.require_success(
            process.run(argv.quantize(tools, Quantization(base, kind), path, 2)), "quantizing"
        )
        files.append(read_gguf(path, sha256_file(path)))
    assert shared_memory.supported(fast)
    assert not shared_memory.supported(tools)
    own = measured(tools, files, text, tmp_path / "own", "fan-out")
    by_file = measured(fast, files, text, tmp_path / "file", "file")
    monkeypatch.setattr(pipes, "named_pipes", None)
    through_ring = measured(fast, files, text, tmp_path / "ring", "fan-out")
    assert through_ring == by_file
    assert through_ring == pytest.approx(own, rel=1e-3, abs=2e-6)
    whole = shared_memory.open_ring
    for name, size in (("some chunks", 200_000), ("no chunk", 5_000)):  # used again and again; copied in parts
        monkeypatch.setattr(shared_memory, "open_ring", lambda n_readers, _, size=size: whole(n_readers, size))
        assert measured(fast, files, text, tmp_path / name, "fan-out") == by_file
