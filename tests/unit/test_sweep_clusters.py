"""Where workers come from, and what queues are asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.imports import imported
from ggufkit.sweep import clusters
from ggufkit.sweep.clusters import SYSTEMS, local_workers
from ggufkit.sweep.spec import Queue
from ggufkit.sweep.station import Versions

ASKED = Queue("long", "lab", "4:00:00", gpus=2, cores=16, memory_bytes=64 << 30)


def script(asked: Queue, system: str = "slurm") -> str:
    """The job that dask-jobqueue submits."""
    if find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed")
    told = clusters.queue_arguments(system, asked, Path("/logs"))
    del told["scheduler_options"]
    kind = getattr(imported("dask_jobqueue"), SYSTEMS[system].cluster)
    return str(kind.job_cls(scheduler="tcp://10.0.0.1:8786", name="0", **told).job_script())


def test_one_worker_a_gpu_and_one_that_quantizes() -> None:
    workers = local_workers(None, 32, ["GPU-a", "GPU-b"])
    assert [(w.name, w.gpu, w.threads) for w in workers] == [
        ("gpu-0", "GPU-a", 10),
        ("gpu-1", "GPU-b", 10),
        ("cpu-0", "", 10),
    ]
    environments = [w.options["env"].get("CUDA_VISIBLE_DEVICES") for w in workers]
    assert environments == ["GPU-a", "GPU-b", None]
    assert [w.options["resources"]["GPU"] for w in workers] == [1, 1, 0]
    assert [w.options["resources"]["CPU"] for w in workers] == [0, 0, 1]


def test_workers_without_gpus_divide_the_processors() -> None:
    assert [(w.name, w.threads) for w in local_workers(3, 8, [])] == [("cpu-0", 2), ("cpu-1", 2), ("cpu-2", 2)]
    assert [(w.name, w.threads) for w in local_workers(None, 8, [])] == [("cpu-0", 8)]
    assert [w.threads for w in local_workers(4, 2, [])] == [1, 1, 1, 1]


def test_fewer_workers_than_gpus_may_be_wanted() -> None:
    assert [w.name for w in local_workers(1, 8, ["GPU-a", "GPU-b"])] == ["gpu-0", "cpu-0"]


def test_a_job_of_slurm_is_one_worker_with_all_that_the_job_has() -> None:
    text = script(replace(ASKED, extra=("--constraint=h100",)))
    for line in (
        "-p long",
        "-A lab",
        "-t 4:00:00",
        "--cpus-per-task=16",
        "--mem=64G",
        "--gpus=2",
        "--constraint=h100",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "tcp://10.0.0.1:8786" in text
    assert "--nworkers" not in text
    assert "--resources 'threads=16'" in text


def test_where_no_time_is_said_the_site_decides() -> None:
    assert "#SBATCH -t" not in script(replace(ASKED, time=None))
    assert "walltime" not in script(replace(ASKED, time=None), "pbs")


def test_what_a_site_needs_besides_is_in_the_job() -> None:
    text = script(replace(ASKED, prologue=("module load cuda",), interface="ib0", scratch="/local"))
    assert "\nmodule load cuda\n" in text
    assert "--interface ib0" in text
    assert "--local-directory /local" in text


def test_a_job_without_gpus_offers_none() -> None:
    assert "--resources 'threads=16 GPU=0'" in script(replace(ASKED, gpus=0))


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        (
            "pbs",
            [
                "#PBS -q long",
                "#PBS -A lab",
                "#PBS -l select=1:ncpus=16:ngpus=2:mem=67108864kb",
                "#PBS -l walltime=4:00:00",
            ],
        ),
        ("lsf", ["#BSUB -q long", '#BSUB -P "lab"', "#BSUB -gpu num=2", "#BSUB -n 16"]),
        ("sge", ["#$ -q long", "#$ -P lab", "#$ -l gpu=2"]),
        ("htcondor", ["request_gpus = 2", "RequestCpus = MY.DaskWorkerCores"]),
    ],
)
def test_other_queues_are_asked_in_their_own_words(system: str, lines: list[str]) -> None:
    time = "4:00" if system == "lsf" else "4:00:00"
    text = script(replace(ASKED, time=time), system)
    for line in lines:
        assert line in text


def test_a_queue_without_a_word_for_gpus_wants_the_sites_own() -> None:
    with pytest.raises(UsageError, match="OAR has no directive for GPUs"):
        clusters.queue_arguments("oar", ASKED, Path("/logs"))
    assert "#OAR -q long" in script(replace(ASKED, gpus=0), "oar")


def test_a_queue_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    for name, system in SYSTEMS.items():
        with pytest.raises(InputError, match=f"{system.title} is not installed here: there is no {system.submit}"):
            clusters.require_system(name)


def test_versions_must_agree() -> None:
    ours = Versions("1.0", "0123456789abcdef")
    assert ours.difference(ours, "HOST") is None
    assert ours.difference(replace(ours, ggufkit="0.9"), "HOST") == "HOST has ggufkit 0.9, this machine 1.0."
    told = ours.difference(replace(ours, llama_cpp="fedcba9876543210"), "HOST")
    assert told == "HOST has llama.cpp fedcba987654, this machine 0123456789ab."
