"""NVIDIA GPUs and the CUDA toolkit of this machine: what is there, and whether it fits together."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ggufkit.core import process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.process import Surroundings
from ggufkit.llama.programs import find_program

Version = tuple[int, int]
_QUERY = "index,uuid,name,compute_cap,memory.free"
_TOOLKIT_HOMES = ("/usr/local/cuda", "/opt/cuda")
_MIB = 1 << 20
_COUNT = re.compile(r"\d{1,9}")

HIDDEN = Surroundings({"CUDA_VISIBLE_DEVICES": "-1"})
"""For tools that compute on the CPU alone: to look for GPUs takes a CUDA build longer than some of its answers."""


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in bytes, `arch` its compute capability without the dot ("90")."""

    index: int
    uuid: str
    name: str
    arch: str
    memory_free: int


@dataclass(frozen=True)
class Cuda:
    """What there is: visible GPUs, the newest CUDA that the driver runs, and the toolkit's compiler."""

    gpus: tuple[Gpu, ...]
    driver: Version | None
    nvcc: Path | None
    toolkit: Version | None


def examine() -> Cuda:
    """Ask nvidia-smi and nvcc. A machine without them has no GPUs and no toolkit; that is no error."""
    smi, nvcc = find_program("nvidia-smi"), find_nvcc()
    gpus = _list_gpus(smi, _moment()) if smi else ()
    driver = parse_driver(process.run([smi]).stdout) if smi else None
    toolkit = parse_nvcc(process.run([nvcc, "--version"]).text) if nvcc else None
    return Cuda(visible(gpus, os.environ), driver, nvcc, toolkit)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use, with their free memory in this second: to ask can take longer than that."""
    smi = find_program("nvidia-smi")
    return visible(_list_gpus(smi, _moment()), os.environ) if smi else ()


def _moment() -> int:
    return int(time.monotonic())


@lru_cache(maxsize=1)
def _list_gpus(smi: str, _moment: int) -> tuple[Gpu, ...]:
    return parse_gpus(process.run([smi, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]).stdout)


def find_nvcc() -> Path | None:
    """nvcc on PATH, in `CUDA_HOME` or `CUDA_PATH`, or where the toolkit is usually installed."""
    found = find_program("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), *_TOOLKIT_HOMES]
    candidates = [Path(found)] if found else [Path(home) / "bin" / "nvcc" for home in homes if home]
    return next((c for c in candidates if c.is_file()), None)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`; lines of another form are passed over."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and _COUNT.fullmatch(fields[0]) and _COUNT.fullmatch(fields[4]):
            arch, free = fields[3].replace(".", ""), int(fields[4]) * _MIB
            found.append(Gpu(int(fields[0]), fields[1], fields[2], arch, free))
    return tuple(found)


def parse_driver(text: str) -> Version | None:
    """The newest CUDA version that the driver runs, from nvidia-smi's heading."""
    return _version(re.search(r"CUDA (?:UMD )?Version:\s*(\d{1,4})\.(\d{1,4})", text))


def parse_nvcc(text: str) -> Version | None:
    """The toolkit's version, from `nvcc --version`: "Cuda compilation tools, release 12.4, V12.4.131"."""
    return _version(re.search(r"release (\d{1,4})\.(\d{1,4})", text))


def _version(match: re.Match[str] | None) -> Version | None:
    return (int(match[1]), int(match[2])) if match else None


def visible(found: Sequence[Gpu], env: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves, in its order; as CUDA does, the list ends at a wrong entry.

    A MIG instance counts as a GPU without free memory: nvidia-smi's list tells nothing of it, and llama.cpp finds out.
    """
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return tuple(found)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in listed.split(",")):
        if entry.startswith("MIG-") and found:
            chosen.append(replace(found[0], uuid=entry, memory_free=0))
            continue
        match = [
            g for g in found if entry == str(g.index) or (entry.startswith("GPU-") and g.uuid.startswith(entry))
        ]
        if len(match) != 1 or match[0] in chosen:
            break
        chosen.append(match[0])
    return tuple(chosen)


def architectures(cuda: Cuda, given: str | None) -> str:
    """The value of `CMAKE_CUDA_ARCHITECTURES`: what was given ("90,89"), or what the GPUs here are.

    Raises:
        ToolchainError: nothing was given and there is no GPU.
    """
    wanted = given.replace(",", ";").split(";") if given else sorted({g.arch for g in cuda.gpus})
    cleaned = [a.strip().removeprefix("sm_").replace(".", "") for a in wanted if a.strip()]
    if not cleaned:
        hint = "Name the GPU to build for: --cuda-arch 90 (H100, H200), 89 (RTX 40), 86 (RTX 30), 80 (A100)."
        raise ToolchainError("There is no NVIDIA GPU here to build for.", hint=hint)
    return ";".join(cleaned)


def runs_on(flags: Sequence[str], gpus: Sequence[Gpu]) -> bool:
    """Whether a build with these cmake flags runs on all these GPUs. For newer ones the driver compiles it anew."""
    listed = next((f for f in flags if f.startswith("-DCMAKE_CUDA_ARCHITECTURES=")), "")
    oldest = min(map(int, re.findall(r"\d+", listed)), default=0)
    return all(oldest <= int(gpu.arch) for gpu in gpus)


def require_buildable(cuda: Cuda) -> Path:
    """The compiler, if it is there and what it builds will run.

    Raises:
        ToolchainError: no nvcc, or a toolkit newer than the driver.
    """
    if cuda.nvcc is None:
        newest = f" of version {_text(cuda.driver)} or older" if cuda.driver else ""
        raise ToolchainError(
            "Building llama.cpp for CUDA needs nvcc, which is not there.",
            hint=f"Install the CUDA toolkit{newest}, and put its bin directory on PATH or set CUDA_HOME.",
        )
    if cuda.driver and cuda.toolkit and cuda.toolkit[0] > cuda.driver[0]:
        raise ToolchainError(
            f"The CUDA toolkit {_text(cuda.toolkit)} ({cuda.nvcc}) is newer than the driver, which runs CUDA "
            f"{_text(cuda.driver)} at most.",
            hint=f"Update the NVIDIA driver, or install a CUDA {cuda.driver[0]} toolkit.",
        )
    return cuda.nvcc


def explain_build_failure(text: str) -> str | None:
    """What to do about a failed CUDA build, where its log tells."""
    if "unsupported GNU version" in text or "unsupported clang version" in text or "unsupported Microsoft" in text:
        return "nvcc refuses this host compiler: install an older one and name it, e.g. CUDAHOSTCXX=g++-13."
    arch = re.search(r"Unsupported gpu architecture '(?:compute|sm)_(\d+\w*)'", text)
    if arch:
        return f"This CUDA toolkit cannot build for {arch[1]}: use a newer one, or another --cuda-arch."
    return None


def _text(version: Version | None) -> str:
    return ".".join(map(str, version)) if version else "unknown"
