"""Files in parts: llama.cpp's own bytes, every tool reads them, SIGKILL while they are written, a hub and back."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import PARTIAL, manifest_path, read_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import compiling, parts, whole
from ggufkit.llama.gguf import gguf_sha256, read_gguf, read_header
from ggufkit.llama.gguf_bytes import Part
from ggufkit.steps import division
from tests import hubserver, tiny
from tests.integration.run_cli import ggufkit
from tests.integration.test_full_disk import LIMITED
from tests.unit.test_splitting import noted

MEGABYTE = 1_000_000
KILLED = """
import os, signal, sys
from pathlib import Path
from ggufkit.core import manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.steps import division

left = int(sys.argv[2])
def counted(do):
    def call(*given, **more):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return do(*given, **more)
    return call
os.replace, division.flush, Path.unlink = counted(os.replace), counted(division.flush), counted(Path.unlink)
division.divide(division.there(Path(sys.argv[1])), int(sys.argv[3]), SilentReporter())
"""
"""Ends by SIGKILL before the nth change of the disk."""


@pytest.fixture(scope="session")
def gguf_split(tools: Toolchain) -> Path:
    """llama.cpp's own program."""
    home = tools.dir
    program = compiling.place(tools, home) / "llama-gguf-split"
    if compiling.compiler(home) is None or tools.source is None:
        pytest.skip("no compiler, or no source of llama.cpp")
    if not program.is_file():
        program.parent.mkdir(parents=True, exist_ok=True)
        source = tools.source / "tools" / "gguf-split" / "gguf-split.cpp"
        compiling.compile_program(program, [source], tools.source, home, ("-O1",))
    return program


@pytest.mark.parametrize("megabytes", [1, 2])
def test_parts_are_those_of_llama_cpp(base: Path, gguf_split: Path, tmp_path: Path, megabytes: int) -> None:
    header = read_header(base)
    limit = megabytes * MEGABYTE + len(whole.head(header)) + len(Part(0, 0, 0).pairs)
    wanted = parts.cut(header, limit)
    (tmp_path / "theirs").mkdir()
    command: list[str | Path] = [
        gguf_split,
        "--split-max-size",
        f"{megabytes}M",
        base,
        tmp_path / "theirs" / base.stem,
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    if len(wanted.groups) == 1:
        pytest.skip("the model is too small")
    assert done.returncode == 0, done.stderr
    first = division.divide(noted(base), limit, SilentReporter())
    theirs = sorted((tmp_path / "theirs").iterdir())
    assert [file.name for file in read_header(first).files] == [file.name for file in theirs]
    assert [file.read_bytes() for file in read_header(first).files] == [file.read_bytes() for file in theirs]


def test_a_build_in_parts_goes_up_and_comes_back(base: Path, tmp_path: Path) -> None:
    out, corpus = tmp_path / "out", tiny.text_file(tmp_path / "text.txt")
    command = [
        "build", base, "--types", "q8_0", "--corpus", corpus, "--ctx", "64", "--chunks", "4", "--no-bench", "--out", out,
    ]  # fmt: skip
    assert ggufkit(*command).code == 0
    wholes = {file.name: file.read_bytes() for file in out.glob("*.gguf")}
    size = str(len(wholes["tiny-llama-Q8_0.gguf"]) * 2 // 3)
    plan = ggufkit(*command, "--dry-run", "--split", "1000")
    assert plan.code == 2
    assert "are the smallest that hold it" in plan.err
    done = ggufkit(*command, "--split", size)
    assert done.code == 0, done.err
    assert not [name for name in wholes if (out / name).exists()]
    assert "KL divergence of" not in done.err  # what was measured of the whole files counts
    again = ggufkit(*command, "--split", size)
    assert "Nothing had to be done again" in again.out, again.out + again.err
    firsts = [division.there(out / name) for name in wholes]
    for first in firsts:
        merged = ggufkit("merge", first, "--out", tmp_path / "joined")
        assert merged.code == 0, merged.err
    assert {file.name: file.read_bytes() for file in (tmp_path / "joined").glob("*.gguf")} == wholes
    _publish_and_fetch(out, firsts, tmp_path)


def _publish_and_fetch(out: Path, firsts: list[Path], tmp_path: Path) -> None:
    with hubserver.serve({}) as hub:
        env = {
            "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*",
        }  # fmt: skip
        sent = ggufkit("publish", out, "me/tiny-GGUF", "--yes", env=env)
        assert sent.code == 0, sent.err
        names = [file.name for first in firsts for file in read_header(first).files]
        assert all(name in sent.out for name in names)
        given = [f"hub:me/tiny-GGUF/{first.name}" for first in sorted(firsts)]
        compared = ggufkit(
            "compare", *given, "--corpus", tmp_path / "text.txt", "--ctx", "64", "--chunks", "4",
            "--out", tmp_path / "compared", env=env,
        )  # fmt: skip
        assert compared.code == 0, compared.err
    back = sorted((tmp_path / "compared").glob("*.gguf"))
    assert [sha256_file(file) for file in back] == [gguf_sha256(first) for first in sorted(firsts)]


def test_quantizing_from_parts_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    size = base.stat().st_size // 3
    assert ggufkit("quantize", base, "--types", "q8_0,q4_0", "--out", tmp_path / "whole").code == 0
    first = division.divide(noted(base), size, SilentReporter())
    last = read_header(first).files[-1]
    done = ggufkit("quantize", last, "--types", "q8_0,q4_0", "--out", tmp_path / "parts")
    assert done.code == 0, done.err
    for kind in ("Q8_0", "Q4_0"):
        name = f"tiny-llama-{kind}.gguf"
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    split = ggufkit("quantize", last, "--types", "q8_0", "--out", tmp_path / "parts", "--split", str(size))
    assert split.code == 0, split.err
    assert "Quantizing" not in split.err
    made = division.there(tmp_path / "parts" / "tiny-llama-Q8_0.gguf")
    assert split.out.split() == [str(made)]
    assert read_gguf(made).path == made
    largest = max(tensor.n_bytes for tensor in read_header(last).tensors)
    smaller = ggufkit("quantize", last, "--types", "q4_0", "--out", tmp_path / "parts", "--split", str(largest))
    assert smaller.code == 0, "no tensor of the base fits, all of the file's do: " + smaller.err
    refused = ggufkit("quantize", last, "--types", "q4_0,f32", "--out", tmp_path / "no", "--split", str(largest))
    assert (refused.code, "has no parts of" in refused.err, list(tmp_path.glob("no/*.gguf"))) == (2, True, [])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_at_any_moment_nothing_half_is_taken_for_a_result(base: Path) -> None:
    before, limit = noted(base).read_bytes(), base.stat().st_size // 3
    digest = sha256_file(base)
    for moment in range(40):
        done = subprocess.run([sys.executable, "-c", KILLED, base, str(moment), str(limit)], check=False)
        now = division.there(base)
        assert gguf_sha256(now) == digest
        made = read_manifest(now)
        assert made is not None
        assert made.output["sha256"] == digest
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert division.divide(division.there(base), limit, SilentReporter()) == division.there(base)
    division.divide(division.there(base), limit * 4, SilentReporter())
    assert base.read_bytes() == before
    assert not list(base.parent.glob("*-of-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes")
def test_a_disk_that_is_full_while_parts_are_written(base: Path, tmp_path: Path) -> None:
    out, size = tmp_path / "out", str(base.stat().st_size // 3)
    assert ggufkit("quantize", base, "--types", "q8_0", "--out", out).code == 0
    there, limit = out / "tiny-llama-Q8_0.gguf", "40000"
    command = ["quantize", base, "--types", "q8_0", "--out", out, "--split", size]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, limit, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6, done.stderr
    assert read_gguf(there)
    assert manifest_path(there).exists()
    assert not list(out.glob(f"*{PARTIAL}")) + list(out.glob("*-of-*.gguf"))
    assert ggufkit(*command).code == 0
    assert not there.exists()
