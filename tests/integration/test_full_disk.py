"""A full disk, and readers that go away: the reason, the exit code, and nothing half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ggufkit.core.records import Toolchain
from tests import tiny
from tests.fake_results import FAKES, write_results
from tests.integration.run_cli import ggufkit
from tests.unit.test_gguf import write

GGUFKIT = [sys.executable, "-m", "ggufkit"]
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: the write fails
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from ggufkit.cli import main
main()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("arguments", [("inspect", "m.gguf"), ("inspect", "m.gguf", "--json"), ("--help",)])
def test_results_that_cannot_be_printed(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write(tmp_path / "m.gguf")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*GGUFKIT, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 6, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "The output cannot be written: the disk is full" in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes")
def test_a_report_that_does_not_fit(tmp_path: Path) -> None:
    out = write_results(tmp_path / "out", FAKES[:2])
    command = [sys.executable, "-c", LIMITED, "20000", "report", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "report.html" in done.stderr
    assert "a file may not be so large there" in done.stderr
    assert (out / "results.csv").is_file()
    assert not (out / "report.html").exists()
    assert not list(out.rglob("*.partial"))
    assert ggufkit("report", out).code == 0
    assert (out / "report.html").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes")
def test_a_quantized_file_that_may_not_be_so_large(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    limit = str(base.stat().st_size // 4)
    command = [sys.executable, "-c", LIMITED, limit, "quantize", str(base), "--types", "q8_0", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "llama-quantize cannot go on quantizing tiny-llama-F16.gguf to Q8_0" in " ".join(done.stderr.split())
    assert "ulimit -f" in done.stderr
    assert not list(out.glob("*.gguf"))
    assert not list(out.glob("*.partial"))


@pytest.mark.skipif(sys.platform == "win32", reason="pipes that nobody reads")
def test_a_build_that_nobody_listens_to_goes_on(base: Path, tmp_path: Path, tools: Toolchain) -> None:
    """`ggufkit build … 2>&1 | head -1`."""
    out, text = tmp_path / "out", tiny.text_file(tmp_path / "text.txt")
    command = [*GGUFKIT, "build", str(base), "--types", "q8_0", "--corpus", str(text), "--ctx", "64", "--chunks", "4",
               "--no-bench", "--out", str(out)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        running.stdout.close()
        assert running.wait(300) == 0
    assert {f.name for f in out.iterdir()} >= {"results.csv", "report.html", "tiny-llama-Q8_0.gguf"}
