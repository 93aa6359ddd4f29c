"""Files of a sweep through Dask's own connections: for workers that neither see the driver's directory nor a URL.

The driver runs a small worker beside itself, the keeper. It answers to what the others ask, straight from the sweep's
directory: the scheduler has no part in it, and whatever secures Dask's connections secures these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ggufkit.core import hashing
from ggufkit.core.errors import GgufkitError
from ggufkit.core.manifest import PARTIAL
from ggufkit.sweep.stores import BLOCK, PathStore, StoreError

RESOURCE = "keeper"
"""What the keeper alone has: a job that asks for it runs where the files are."""
NAME = "ggufkit-keeper"
"""What Dask calls it: there is one at a scheduler."""
_PREFIX = "ggufkit_"
_PATIENCE_S = 60.0
_SLOWEST = 20e6
"""Bytes a second at which the slowest disk is read."""


@dataclass(frozen=True)
class Desk:
    """What the keeper does when it is asked, in its directory."""

    store: PathStore

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """By the names that Dask's servers know them by."""
        acts = (self.fetch, self.arrived, self.send, self.read, self.write, self.names)
        return {_PREFIX + act.__name__: _beside(act) for act in acts}

    def fetch(self, name: str, start: int) -> bytes | None:
        """A block of a file; None if it is not there."""
        path = self.store.place(name)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(start)
            return file.read(BLOCK)

    def arrived(self, name: str, sha256: str) -> int:
        """How many bytes of a file are here already; all of them if it is here under its name."""
        path, partial = self.store.place(name), self._partial(name, sha256)
        if path.is_file() and hashing.sha256_file(path) == sha256:
            return path.stat().st_size
        return partial.stat().st_size if partial.is_file() else 0

    def send(self, name: str, sha256: str, start: int, data: bytes, n_bytes: int) -> int:
        """Take a block; with the last one the file gets its name. Returns how many bytes are here then."""
        path, partial = self.store.place(name), self._partial(name, sha256)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("r+b" if partial.exists() else "w+b") as file:
            file.seek(start)
            file.write(data)
        if start + len(data) < n_bytes:
            return start + len(data)
        if hashing.sha256_file(partial) != sha256:
            partial.unlink()
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)
        hashing.remember(path, sha256)
        return n_bytes

    def read(self, name: str) -> bytes | None:
        """A small file."""
        return self.store.read(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        self.store.write(name, data)

    def names(self, prefix: str) -> list[str]:
        """Names that begin so."""
        return self.store.names(prefix)

    def _partial(self, name: str, sha256: str) -> Path:
        path = self.store.place(name)
        return self.store.place(f".ggufkit/arriving/{sha256}-{path.name}{PARTIAL}")


@dataclass(frozen=True)
class DaskCarrier:
    """Bytes to and from the keeper, asked by a worker's thread."""

    worker: Any
    address: str

    def fetch(self, name: str, to: BinaryIO) -> bool:
        """See `Carrier`."""
        while True:
            block = self._ask("fetch", name=name, start=to.tell())
            if not block:
                return block is not None
            to.write(block)

    def send(self, path: Path, name: str, sha256: str) -> None:
        """See `Carrier`."""
        from distributed.protocol import to_serialize

        n_bytes = path.stat().st_size
        hashing_s = n_bytes / _SLOWEST  # of what is there, and of all in the end
        done, rounds = self._ask("arrived", hashing_s, name=name, sha256=sha256), 0
        with path.open("rb") as file:
            while done < n_bytes or not (n_bytes or rounds):
                file.seek(done)
                block = to_serialize(file.read(BLOCK))
                what = {"name": name, "sha256": sha256, "start": done, "n_bytes": n_bytes}
                done = self._ask("send", hashing_s, data=block, **what)
                rounds += done == 0
                if rounds > 1:
                    raise StoreError(
                        f"{name} arrives as another file.", hint="Is it being changed? Repeat the command."
                    )

    def read(self, name: str) -> bytes | None:
        """See `Carrier`."""
        data: bytes | None = self._ask("read", name=name)
        return data

    def write(self, name: str, data: bytes) -> None:
        """See `Carrier`."""
        self._ask("write", name=name, data=data)

    def names(self, prefix: str) -> list[str]:
        """See `Carrier`."""
        return list(self._ask("names", prefix=prefix))

    def _ask(self, act: str, longer_s: float = 0.0, **what: Any) -> Any:
        from distributed.utils import sync

        hint = "Is the command that runs the sweep still running, and is its host reached from here?"
        try:
            answer = sync(self.worker.loop, self._answer, act, what, _PATIENCE_S + longer_s)
        except (OSError, asyncio.TimeoutError, TimeoutError) as error:
            raise StoreError(
                f"The sweep's directory at {self.address} does not answer: {error}.", hint=hint
            ) from error
        if "failed" in answer:
            raise StoreError(answer["failed"], hint=answer["hint"])
        return answer["value"]

    async def _answer(self, act: str, what: dict[str, Any], patience_s: float) -> Any:
        call = getattr(self.worker.rpc(self.address), _PREFIX + act)
        return await asyncio.wait_for(call(**what), patience_s)


def _beside(act: Callable[..., Any]) -> Callable[..., Any]:
    """An act as a server's handler: in a thread, for disks are slow; what fails is told, not raised."""

    async def handler(**what: Any) -> dict[str, Any]:
        from distributed.protocol import to_serialize
        from distributed.utils import offload

        what.pop("comm", None)
        try:
            value = await offload(act, **what)
        except GgufkitError as error:
            return {"failed": error.message, "hint": error.hint or ""}
        except OSError as error:
            return {
                "failed": f"The sweep's directory: {error}.",
                "hint": "Look at its disk, and repeat the command.",
            }
        return {"value": to_serialize(value) if isinstance(value, bytes) else value}

    return handler
