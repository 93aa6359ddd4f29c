"""A sweep whose workers are jobs of a real Slurm: two nodes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ggufkit.core.records import Toolchain
from ggufkit.sweep import journal
from ggufkit.sweep.places import Places
from tests import slurm, tiny
from tests.slurm import Slurm

FILE = """# on the nodes `one` and `two`
models: [a, b]
types: [q8_0, q4_0]
variants: [plain]
corpora: text.txt
options: {ctx: 64, chunks: 4, bench: false}
cluster: {slurm: {partition: all, time: "0:10:00", cores: 1, memory: 2GiB, jobs: 2}}
"""
NO_SUCH_PARTITION = FILE.replace("partition: all", "partition: gpus")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Slurm, for all tests here."""
    if (reason := slurm.missing()) is not None:
        pytest.skip(reason)
    if find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed")
    with slurm.running(tmp_path_factory.mktemp("slurm") / "home") as started:
        yield started


def sweep(cluster: Slurm, file: Path) -> subprocess.CompletedProcess[str]:
    """Run `ggufkit sweep --slurm`; jobs of the queue have the environment that it was started in."""
    argv = [sys.executable, "-m", "ggufkit", "sweep", str(file), "--slurm"]
    env = {**cluster.env, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_jobs_of_slurm_are_workers(cluster: Slurm, tools: Toolchain, tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        tiny.write_llama(tmp_path / name, layers=1 + number)
    tiny.text_file(tmp_path / "text.txt", 400)
    file = tmp_path / "sweep.yaml"
    file.write_text(FILE)
    done = sweep(cluster, file)
    assert done.returncode == 0, done.stderr
    events = list(journal.read(Places(tmp_path / "sweep").journal))
    workers = {event.outcome.worker for event in events if event.kind == "ended" and event.outcome}
    assert {name.rpartition("-")[0] for name in workers} >= {"SLURMCluster"}
    for name in "ab":
        table = json.loads((tmp_path / "sweep" / name / "results.json").read_text())
        rows = {row["file"]: row for row in table}
        assert set(rows) == {f"{name}-F16.gguf", f"{name}-Q8_0.gguf", f"{name}-Q4_0.gguf"}
        assert all(row["kld_mean"] is not None for file, row in rows.items() if "F16" not in file)
    assert cluster.ask("squeue", "-h", "-t", "PENDING,RUNNING") == ""


def test_what_slurm_refuses_is_told(cluster: Slurm, tmp_path: Path) -> None:
    for name in "ab":
        tiny.write_llama(tmp_path / name, layers=1)
    tiny.text_file(tmp_path / "text.txt", 400)
    file = tmp_path / "sweep.yaml"
    file.write_text(NO_SUCH_PARTITION)
    done = sweep(cluster, file)
    assert done.returncode == 3
    assert "Slurm refuses the jobs of the sweep" in done.stderr
    assert "Invalid partition" in done.stderr
    assert "Traceback" not in done.stderr
