"""A store that all reach by a URL: s3://bucket/path, hf://datasets/me/sweep, file:///mnt/share, whatever fsspec knows."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from ggufkit.core import extras
from ggufkit.core.errors import GgufkitError, InputError
from ggufkit.core.manifest import PARTIAL
from ggufkit.sweep.stores import BLOCK, StoreError

_RENAMING = ("file", "local", "sftp", "ssh", "smb", "hdfs", "webhdfs")
"""File systems that show a file while it is written; the others have an object when it is whole."""
_HINT = "Look at the URL, at the network and at your credentials for it."


@dataclass(frozen=True)
class UrlCarrier:
    """Bytes to and from a URL; credentials are those that fsspec's file systems find by themselves."""

    url: str

    @cached_property
    def _there(self) -> tuple[Any, str]:
        """The file system, and the sweep's directory on it."""
        extras.require("sweep", modules=("fsspec",))
        import fsspec

        try:
            system, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            hint = "fsspec has a package for each kind of URL: s3fs for s3://, huggingface_hub for hf://."
            raise InputError(f"--store {self.url} cannot be used: {error}.", hint=hint) from error
        return system, str(root).rstrip("/")

    def fetch(self, name: str, to: BinaryIO) -> bool:
        """See `Carrier`."""
        system, root = self._there
        with self._explained(f"{name} cannot be read"):
            system.invalidate_cache()  # another worker may have written it again, longer
            try:
                with system.open(f"{root}/{name}", "rb", block_size=BLOCK, cache_type="none") as file:
                    file.seek(to.tell())
                    while block := file.read(BLOCK):
                        _write_here(to, block)
            except FileNotFoundError:
                return False
        return True

    def send(self, path: Path, name: str, sha256: str) -> None:  # noqa: ARG002 - others go on where they were cut
        """See `Carrier`."""
        with self._whole(name) as (system, target):
            system.put_file(str(path), target)

    def read(self, name: str) -> bytes | None:
        """See `Carrier`."""
        system, root = self._there
        with self._explained(f"{name} cannot be read"):
            try:
                system.invalidate_cache()
                return bytes(system.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """See `Carrier`."""
        with self._whole(name) as (system, target):
            system.pipe_file(target, data)

    def names(self, prefix: str) -> list[str]:
        """See `Carrier`."""
        system, root = self._there
        with self._explained("what is there cannot be listed"):
            system.invalidate_cache()
            try:
                below = system.find(f"{root}/{prefix.rpartition('/')[0]}".rstrip("/"))
            except FileNotFoundError:
                return []
        named = (str(path).partition(root + "/")[2] for path in below)
        return sorted(name for name in named if name.startswith(prefix) and not name.endswith(PARTIAL))

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[tuple[Any, str]]:
        """Where to write a file, so that nobody sees half of it."""
        system, root = self._there
        final = f"{root}/{name}"
        with self._explained(f"{name} cannot be written"):
            if not set(_RENAMING) & {
                *([system.protocol] if isinstance(system.protocol, str) else system.protocol)
            }:
                yield system, final
                return
            partial = f"{final}.{uuid.uuid4().hex[:8]}{PARTIAL}"
            system.makedirs(final.rpartition("/")[0], exist_ok=True)
            yield system, partial
            system.mv(partial, final)

    @contextlib.contextmanager
    def _explained(self, failed: str) -> Iterator[None]:
        """Whatever a file system raises: each has errors of its own."""
        try:
            yield
        except (GgufkitError, _Here):
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"The store {self.url}: {failed}: {reason}.", hint=_HINT) from error


class _Here(OSError):
    """An error of this machine's disk, not of the store."""


def _write_here(to: BinaryIO, block: bytes) -> None:
    try:
        to.write(block)
    except OSError as error:
        raise _Here(error.errno, error.strerror, str(to.name)) from error
