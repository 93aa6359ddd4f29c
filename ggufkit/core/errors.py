"""The error tree. Each class carries the exit code of the contract; the command line turns them into messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class GgufkitError(Exception):
    """Any failure that ggufkit can explain.

    Args:
        message: what failed, and on which file; one sentence or a few, on one line.
        details: lines to show below it.
        hint: what to do next.
        log: where the whole output of the tool is, if a tool ran.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, log: Path | None = None, details: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        """All of it, as a traceback and a notebook show it."""
        log = "" if self.log is None else f"Log: {self.log}"
        return "\n".join(filter(None, (self.message, *self.details, self.hint, log)))


class BusyError(GgufkitError):
    """Another command, or another server, is using the same directory or port."""


class UsageError(GgufkitError):
    """The request itself makes no sense."""

    exit_code = 2


class InputError(GgufkitError):
    """An input is missing, malformed, unsupported or unreachable."""

    exit_code = 3


class CheckpointError(InputError):
    """A Hugging Face checkpoint directory that cannot be used as it is."""


class UnsupportedArchitecture(InputError):
    """An architecture that the converter, or a fold table, does not know."""


class TokenizerError(InputError):
    """A tokenizer that cannot be converted, or was converted to something else."""


class GgufError(InputError):
    """A `.gguf` file that is not one, is truncated, or holds the wrong thing."""


class CorpusError(InputError):
    """An evaluation or calibration text that cannot be used."""


class UnknownType(InputError):
    """A quantization type that this toolchain does not know."""


class SourceError(InputError):
    """A hub, a repository or a file on it could not be reached or read."""


class MissingExtra(InputError):
    """Packages are not installed that only some commands need."""


class ToolchainError(GgufkitError):
    """No usable llama.cpp toolchain."""

    exit_code = 4


class DeviceMemoryError(GgufkitError):
    """A GPU's memory ran out."""

    exit_code = 6


class ToolError(GgufkitError):
    """A tool failed, or ended without a result."""

    exit_code = 5


class ToolKilled(ToolError):
    """A tool was killed by a signal: the same may work another time, or on another machine."""


class ToolOutputError(ToolError):
    """A tool ended well but did not print the result it was run for."""


class ResourceError(GgufkitError):
    """Not enough disk or memory for what was asked."""

    exit_code = 6


class Interrupted(GgufkitError):
    """Stopped by the user; what was finished stays."""

    exit_code = 130
