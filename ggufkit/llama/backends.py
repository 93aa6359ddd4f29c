"""TABLE of compute backends: how llama.cpp is built for each, and how to tell that a machine has it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from ggufkit.llama import cuda


@dataclass(frozen=True)
class Backend:
    """One backend.

    Args:
        flags: cmake flags that build llama.cpp for it.
        compilers: programs that the build needs besides a C++ compiler.
        present: whether this machine has its device.
        install: what to do when `compilers` are missing.
        devices: how llama.cpp's tools name its devices and buffers: a prefix.
    """

    name: str
    flags: tuple[str, ...]
    compilers: tuple[str, ...]
    present: Callable[[], bool]
    install: str
    devices: str


def _has(*programs: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(p) for p in programs)


BACKENDS: tuple[Backend, ...] = (
    Backend(
        "cuda", ("-DGGML_CUDA=ON", "-DGGUFKIT_FAST_LOGITS=ON"), (), lambda: bool(cuda.gpus()),
        "Install the NVIDIA driver and the CUDA toolkit.", "CUDA",
    ),
    Backend(
        "hip", ("-DGGML_HIP=ON",), ("hipcc",), _has("rocminfo", "hipcc"),
        "Install ROCm with hipcc, and put it on PATH.", "ROCm",
    ),
    Backend(
        "metal", ("-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"), (), lambda: platform.system() == "Darwin",
        "Metal needs macOS and the Xcode command line tools: xcode-select --install.", "Metal",
    ),
    Backend(
        "vulkan", ("-DGGML_VULKAN=ON",), ("glslc",), _has("vulkaninfo", "glslc"),
        "Install the Vulkan SDK (glslc and the headers).", "Vulkan",
    ),
    Backend(
        "cpu", ("-DGGML_METAL=OFF",), (), lambda: True, "", "CPU",
    ),
)  # fmt: skip

BY_NAME = {backend.name: backend for backend in BACKENDS}
CHOICES = ("auto", *sorted(BY_NAME))


def candidates() -> list[Backend]:
    """The backends whose device this machine has, the fastest first; the CPU is always the last. Vulkan is never
    guessed: a machine with a Vulkan driver is often faster on its CPU."""
    return [backend for backend in BACKENDS if backend.name != "vulkan" and backend.present()]
