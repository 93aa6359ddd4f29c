"""Start-up is light and quick."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

from ggufkit.core import process
from tests import fake_results
from tests.unit.test_gguf import write

HEAVY = {"torch", "transformers", "pandas", "matplotlib", "numpy", "huggingface_hub", "datasets"}


@pytest.mark.parametrize("code", ["import ggufkit", "from ggufkit.cli import _run\n_run(['--help'], False)"])
def test_start_up_loads_nothing_heavy(code: str) -> None:
    shown = process.run([sys.executable, "-c", f"import sys\n{code}\nprint(*sorted(sys.modules))"]).stdout
    assert not {name.split(".")[0] for name in shown.splitlines()[-1].split()} & HEAVY


def test_a_report_that_is_loaded_imports_nothing_large_to_be_written(tmp_path: Path) -> None:
    """A build loads it while the converter keeps one processor busy."""
    root = fake_results.write_results(tmp_path / "out")
    code = f"""
import sys
from pathlib import Path
from ggufkit import report
from ggufkit.core.progress import SilentReporter
from ggufkit.report.results import collect

rows = collect(Path({str(root)!r}), SilentReporter())
report.load()
before = set(sys.modules)
report.write(rows, Path({str(root)!r}))
print(*{{name.split(".")[0] for name in set(sys.modules) - before}} - {{name.split(".")[0] for name in before}})
print(len(set(sys.modules) - before))
"""
    shown = process.run([sys.executable, "-c", code])
    assert shown.returncode == 0, shown.stderr
    packages, n_modules = shown.stdout.split("\n")[:2]
    assert packages == ""
    assert int(n_modules) < 20
    assert (root / "report.html").is_file()


def seconds(*arguments: str) -> float:
    """The median wall time of a command over five runs."""
    runs = [process.run([sys.executable, "-m", "ggufkit", *arguments]) for _ in range(5)]
    assert all(run.returncode == 0 for run in runs)
    return statistics.median(run.duration_s for run in runs)


@pytest.mark.alone
def test_help_is_instant() -> None:
    assert seconds("--help") < 0.3


@pytest.mark.alone
def test_inspect_is_quick(tmp_path: Path) -> None:
    tokens = {"tokenizer.ggml.tokens": [f"token{i}" for i in range(50_000)]}
    assert seconds("inspect", str(write(tmp_path / "a.gguf", tokens))) < 0.6
