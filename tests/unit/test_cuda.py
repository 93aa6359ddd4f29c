"""CUDA without a GPU: what nvidia-smi and nvcc print is read, and misfits are named. Nothing here runs CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core.errors import ToolchainError
from ggufkit.core.progress import SilentReporter
from ggufkit.llama import build, cuda, toolchain
from ggufkit.llama.cuda import Cuda, Gpu

LISTED = """\
0, GPU-aaaa-1, NVIDIA H200, 9.0, 143000
1, GPU-bbbb-2, NVIDIA GeForce RTX 4090, 8.9, 1200
[N/A], broken line
"""
HEADING = """\
| NVIDIA-SMI 580.159.03             Driver Version: 580.159.03     CUDA Version: 13.0     |
"""
NVCC = """\
nvcc: NVIDIA (R) Cuda compiler driver
Cuda compilation tools, release 13.0, V13.0.88
Build cuda_13.0.r13.0/compiler.36424714_0
"""
H200, RTX = cuda.parse_gpus(LISTED)


def test_gpus_are_read() -> None:
    assert Gpu(0, "GPU-aaaa-1", "NVIDIA H200", "90", 143000 << 20) == H200
    assert (RTX.arch, RTX.memory_free) == ("89", 1200 << 20)
    assert cuda.parse_gpus("No devices were found") == ()


def test_versions_are_read() -> None:
    assert cuda.parse_driver(HEADING) == (13, 0)
    assert cuda.parse_nvcc(NVCC) == (13, 0)
    assert cuda.parse_driver("") is None
    assert cuda.parse_nvcc("command not found") is None


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, ["NVIDIA H200", "NVIDIA GeForce RTX 4090"]),
        ("1", ["NVIDIA GeForce RTX 4090"]),
        ("1,0", ["NVIDIA GeForce RTX 4090", "NVIDIA H200"]),
        ("GPU-bbbb", ["NVIDIA GeForce RTX 4090"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["NVIDIA H200"]),
        ("0,0", ["NVIDIA H200"]),
        ("7", []),
        ("MIG-4b1c,0", ["NVIDIA H200", "NVIDIA H200"]),
    ],
)
def test_visible_devices_keep_their_meaning(value: str | None, names: list[str]) -> None:
    env = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert [gpu.name for gpu in cuda.visible((H200, RTX), env)] == names


def test_of_a_part_of_a_gpu_nothing_is_promised() -> None:
    (part,) = cuda.visible((H200,), {"CUDA_VISIBLE_DEVICES": "MIG-4b1c"})
    assert (part.uuid, part.memory_free) == ("MIG-4b1c", 0)


def test_architectures() -> None:
    here = Cuda((H200, RTX, H200), (13, 0), None, None)
    assert cuda.architectures(here, None) == "89;90"
    assert cuda.architectures(here, "sm_80, 8.6") == "80;86"
    with pytest.raises(ToolchainError, match="no NVIDIA GPU"):
        cuda.architectures(Cuda((), None, None, None), None)


def test_a_build_for_newer_gpus_is_not_used() -> None:
    """As in a cache that machines with different GPUs share."""
    assert cuda.runs_on(["-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90"], [H200])
    assert not cuda.runs_on(["-DCMAKE_CUDA_ARCHITECTURES=90"], [H200, RTX])
    assert cuda.runs_on(["-DCMAKE_CUDA_ARCHITECTURES=86;90a"], [H200, RTX])
    assert cuda.runs_on([], [RTX])


def test_what_cannot_be_built() -> None:
    with pytest.raises(ToolchainError, match="needs nvcc") as caught:
        cuda.require_buildable(Cuda((H200,), (12, 4), None, None))
    assert "12.4" in str(caught.value.hint)
    with pytest.raises(ToolchainError, match=r"toolkit 13\.0 .* is newer than the driver, which runs CUDA 12\.4"):
        cuda.require_buildable(Cuda((H200,), (12, 4), Path("/usr/bin/nvcc"), (13, 0)))
    assert cuda.require_buildable(Cuda((H200,), (13, 0), Path("/x/nvcc"), (12, 6))) == Path("/x/nvcc")


@pytest.mark.parametrize(
    ("log", "hint"),
    [
        ("#error -- unsupported GNU version! gcc versions later than 14 are not supported!", "CUDAHOSTCXX"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_120a'", "cannot build for 120a"),
        ("something else", None),
    ],
)
def test_failed_builds_are_explained(log: str, hint: str | None) -> None:
    said = cuda.explain_build_failure(log)
    assert said is None if hint is None else hint in str(said)


@pytest.fixture
def one_gpu(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and nothing built."""
    monkeypatch.delenv("GGUFKIT_LLAMA_CPP", raising=False)
    monkeypatch.setattr(cuda, "gpus", lambda: (H200,))


@pytest.mark.usefixtures("one_gpu")
def test_auto_says_why_it_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "examine", lambda: Cuda((H200,), (13, 0), None, None))
    reporter = SilentReporter()
    assert toolchain._choose("auto", reporter).name == "cpu"
    assert "needs nvcc" in reporter.warnings[0]
    assert "The CPU is used instead" in reporter.warnings[0]


@pytest.mark.usefixtures("one_gpu")
def test_auto_takes_the_gpu_and_builds_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "examine", lambda: Cuda((H200,), (13, 0), Path("/x/nvcc"), (13, 0)))
    chosen = toolchain._choose("auto", SilentReporter())
    wanted = toolchain._build_for(chosen, None)
    assert wanted == build.BuildFor(
        chosen, ("-DCMAKE_CUDA_ARCHITECTURES=90",), (("CUDACXX", "/x/nvcc"),), check=True
    )
    assert toolchain._build_for(chosen, "80").flags == ("-DCMAKE_CUDA_ARCHITECTURES=80",)


def test_cuda_by_name_without_a_gpu(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GGUFKIT_LLAMA_CPP", raising=False)
    monkeypatch.setattr(cuda, "gpus", lambda: ())
    with pytest.raises(ToolchainError, match="no usable device for --backend cuda"):
        toolchain.find("cuda")
    assert toolchain._choose("auto", SilentReporter()).name == "cpu"
