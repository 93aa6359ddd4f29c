"""Where layers run, and how memory is given back: other programs measure on the same machine afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import traceback
from collections.abc import Iterator

import torch

from ggufkit.core.errors import DeviceMemoryError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is the GPU if torch has one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def return_freed_memory() -> None:
    """Let glibc hand back what has been freed, and large blocks from now on: its heap would keep some 100 MB of them."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 19)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 17)
        libc.malloc_trim(0)


@contextlib.contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let glibc reuse what is freed: what runs the same layer many times spends a third of its time on fresh pages."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 28)
    try:
        yield
    finally:
        return_freed_memory()


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """Let a GPU multiply float32 matrices as TF32: factors with 10 bits of mantissa, sums in float32.

    For activations and their second moments: these are then, exactly, the moments of inputs so rounded.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def fast_halves(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextlib.contextmanager
def borrowed_device(doing: str) -> Iterator[None]:
    """Give back all of the GPU's memory at the end, which torch keeps for itself.

    Raises:
        DeviceMemoryError: it ran out.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the tensors
        hint = "Close what else uses it, or repeat with --device cpu: it goes on where it stopped."
        raise DeviceMemoryError(f"The GPU's memory ran out while {doing}.", hint=hint) from None
    finally:
        gc.collect()
        torch.cuda.empty_cache()  # nothing where no GPU was used
