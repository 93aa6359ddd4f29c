"""Where ggufkit keeps things: the cache outside every project, and the private directory inside an output directory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import platformdirs


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path that a user wrote: `~/x` is in their home, as for a shell; `./~x` is a name, and so is `~x` of nobody."""
    path = os.path.expanduser(given)  # noqa: PTH111 - pathlib's fails where there is no such user, and forgets `./`
    is_name = Path(path).parts[:1] and Path(path).parts[0].startswith("~")
    return Path.cwd() / path if is_name else Path(path)


def cache_dir() -> Path:
    """The cache: `GGUFKIT_CACHE`, or the platform's user cache."""
    configured = os.environ.get("GGUFKIT_CACHE")
    return user_path(configured) if configured else Path(platformdirs.user_cache_dir("ggufkit"))


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file under another name, too: whole at once, and without its bytes again where the file system can.

    Raises:
        FileExistsError: there is one of that name.
        OSError: it cannot be written.
    """
    try:
        target.hardlink_to(source)
        return
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links
        partial = target.with_name(f"{target.name}.{os.getpid()}.ggufkit.partial")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
