"""What an error of the operating system means: one message, with the reason and the way out."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from ggufkit.core.errors import GgufkitError, InputError, ResourceError

_OUT = "Choose another place with --out; GGUFKIT_CACHE moves ggufkit's own files."
_FULL = {
    errno.ENOSPC: ("the disk is full", "Free some space and repeat the command; what was finished is kept."),
    errno.EDQUOT: ("your share of the disk is used up", f"Free some space, or have the quota raised. {_OUT}"),
    errno.EFBIG: ("a file may not be so large there", f"Raise `ulimit -f`, or use another file system. {_OUT}"),
    errno.EIO: ("the disk or the terminal failed", "Look into the system's log (dmesg), and repeat the command."),
}


_LOOP = re.compile("Symlink loop from '(.+)'", re.DOTALL)


def of_links(error: RuntimeError) -> OSError | None:
    """What `Path.resolve` of Pythons before 3.13 means where links lead in a circle; None for another error."""
    found = _LOOP.fullmatch(str(error))
    return found and OSError(errno.ELOOP, os.strerror(errno.ELOOP), found[1])


def explained(error: Exception) -> GgufkitError | None:
    """What the user is told of any error; None where it is a bug."""
    if isinstance(error, MemoryError):
        return ResourceError("The memory ran out.", hint="Close other programs, or use a smaller model.")
    if isinstance(error, RuntimeError):
        error = of_links(error) or error
    if isinstance(error, OSError):
        return explain(error)
    return error if isinstance(error, GgufkitError) else None


def is_of_disk(error: BaseException) -> bool:
    """Whether an error says that a disk has no room, or failed."""
    return isinstance(error, OSError) and error.errno in _FULL


def explain(error: OSError, failed: str | None = None) -> GgufkitError | None:
    """The error that tells what an OSError means; None for one that no user can do anything about.

    Args:
        failed: what failed: "x.gguf cannot be written"; by default this is said of the file that the error names.
    """
    named = None if error.filename is None else Path(os.fsdecode(error.filename))
    said = error.strerror or str(error)
    if error.errno in _FULL:
        reason, hint = _FULL[error.errno]
        what = failed or f"{named or 'The output'} cannot be written"
        return ResourceError(f"{what}: {reason} ({said}).", hint=hint)
    if named is None:
        return None
    what = f"{failed}: " if failed else ""
    if error.errno == errno.ENAMETOOLONG:
        name = f"name {named} is too long for its file system."
        message = f"{what}the {name}" if what else f"The {name}"
        return InputError(message, hint="Choose a shorter name, for results with --out.")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        message = f"{what}{_in_the_way(named)} is a file where a directory is needed."
        return InputError(message, hint="Move it away, or choose another --out.")
    if error.errno == errno.ELOOP:
        return InputError(
            f"{what}{named} is a link that leads back to itself.", hint="Remove it, or give another name."
        )
    if error.errno == errno.EISDIR:
        message = f"{what}{named} is a directory where a file is needed."
        return InputError(message, hint="Move it away, or give another name.")
    message = f"{what}{named} cannot be used: {said}."
    return ResourceError(message, hint=f"Check its permissions. {_OUT}")


def too_large(failed: str, log: Path | None) -> ResourceError:
    """The error for a tool that was ended because a file grew beyond what is allowed (SIGXFSZ)."""
    reason, hint = _FULL[errno.EFBIG]
    return ResourceError(f"{failed}: {reason}.", hint=hint, log=log)


def _in_the_way(path: Path) -> Path:
    """The part of a path that is no directory."""
    return next((p for p in (*reversed(path.parents), path) if p.exists() and not p.is_dir()), path)
