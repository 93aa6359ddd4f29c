"""What the bad end of a tool means: one error, with the tool's own reason and the way out."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from ggufkit.core import oserrors
from ggufkit.core.errors import DeviceMemoryError, GgufkitError, ResourceError, ToolError, ToolKilled
from ggufkit.core.process import ToolOutput

_DEVICE_MEMORY = re.compile(
    r"cudamalloc failed|(cuda|hip|rocm|musa) error: out of memory|unable to allocate (cuda|rocm|vulkan|metal|sycl)"
    r"|failed to allocate (cuda|rocm|vulkan|metal|sycl)\S* buffer|erroroutofdevicememory"
    r"|(cuda|hip|rocm|musa) error: (the resource allocation failed|the library was not initialized)"
    r"|(cu|hip|roc)blas_status_(alloc_failed|not_initialized)"
)
_SUMMARY = re.compile(r"(\w+\s*: )?(error: )?failed to \w+( context with)? (the )?model( from)?\b.*")
"""The last line of a tool that gave its reason before."""


def require_success(output: ToolOutput, doing: str) -> None:
    """Raise the error that explains a tool's bad end; return if it ended well."""
    if output.returncode != 0:
        raise explain(output, doing)


def explain(output: ToolOutput, doing: str, why: str | None = None) -> GgufkitError:
    """The error for a tool that did not do its work.

    Args:
        doing: what was being done, on which file: "quantizing x.gguf to Q4_K_M".
        why: the reason, if the caller knows it better than the exit code does.
    """
    tool = Path(output.argv[0]).name
    text = output.text.lower()
    if "no space left" in text or "errno 28" in text:
        message = f"The disk filled up while {doing} ({tool})."
        return ResourceError(message, hint="Free some space and repeat the command.", log=output.log)
    if _DEVICE_MEMORY.search(text):
        return full_gpu(output, doing)
    if output.returncode == -getattr(signal, "SIGXFSZ", 25):
        return oserrors.too_large(f"{tool} cannot go on {doing}", output.log)
    if output.returncode < 0:
        return _killed(output, f"{tool} was killed by {_signal_name(-output.returncode)} while {doing}.")
    reason = why or _last_words(output)
    ended = "" if output.returncode == 0 else f" (exit code {output.returncode})"
    return ToolError(f"{tool} failed while {doing}{ended}: {reason}", log=output.log)


def full_gpu(output: ToolOutput, doing: str) -> DeviceMemoryError:
    """The error for a tool that the GPU's memory was too small for."""
    message = f"The GPU ran out of memory while {doing} ({Path(output.argv[0]).name})."
    hint = "Free its memory (nvidia-smi lists who holds it), or put fewer layers on it with --ngl."
    return DeviceMemoryError(message, hint=hint, log=output.log)


def _killed(output: ToolOutput, message: str) -> GgufkitError:
    hint = "Repeat the command; what was finished is kept."
    if output.returncode == -signal.SIGKILL:
        hint = (
            "The system may have run out of memory: close other programs, or use a smaller model or --ctx. " + hint
        )
    if output.returncode == -getattr(signal, "SIGILL", 4):
        hint = "The tools were built on a machine with another processor: set GGUFKIT_CACHE to a directory for this one."
        return ToolError(message, hint=hint, log=output.log)
    return ToolKilled(message, hint=hint, log=output.log)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(output: ToolOutput) -> str:
    """The line that most likely holds the reason: why a model was not loaded, the last one that speaks of an error and
    says more than that it failed, or the last one."""
    lines = [line.strip() for line in output.text.splitlines() if line.strip()]
    not_loaded = next(
        (re.sub(r"^.*?(?=error loading model)", "", x) for x in lines if "error loading model:" in x), None
    )
    if not_loaded is not None:
        return not_loaded[:300]
    telling = [x for x in lines if "error" in x.lower() or "failed" in x.lower() or "unable" in x.lower()]
    reasons = [x for x in telling if _SUMMARY.fullmatch(x) is None]
    return (reasons or telling or lines or ["it printed nothing"])[-1][:300]
