"""One sweep at a time works on a store.

In a directory a lock file tells. In a store that is reached by a URL there are none: whoever works there counts up a number
every few seconds, and who comes looks whether it changes. So no clocks are compared.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from ggufkit.core.concurrency import worker_pool
from ggufkit.core.errors import BusyError, GgufkitError
from ggufkit.sweep.stores import HOME, Store

CLAIM = f"{HOME}/claim"
BEAT_S = 5.0
_BEATS = 4
"""So many times longer than between two beats nobody is silent who lives."""
_FREE = b"free"
_LOOK_S = 1.0
"""Who only looks whether it is held has a lock for a moment, too."""
_WAY_OUT = "Wait until it ends, stop it with `ggufkit sweep stop`, or give this one another --out and --store."


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold a sweep's directory. Raises BusyError where another sweep does."""
    lock = FileLock(out / HOME / "lock", timeout=_LOOK_S)
    (out / HOME).mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(f"Another sweep is at work in {out}.", hint=_WAY_OUT) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alone_at(
    url: str, store: Store, say: Callable[[str], None], lost: Callable[[], None], beat_s: float = BEAT_S
) -> Iterator[None]:
    """Hold a store that is reached by a URL.

    Args:
        say: is told why it takes a while.
        lost: called should somebody else take it, who could not see for long that this one was at work.

    Raises:
        BusyError: another sweep is at work there.
        StoreError: it cannot be reached.
    """
    claim = _Claim(store, beat_s)
    claim.take(url, say)
    with worker_pool(1) as beside:
        beside.submit(claim.hold, lost)
        try:
            yield
        finally:
            claim.release()


@dataclass
class _Claim:
    store: Store
    beat_s: float
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    _ended: threading.Event = field(default_factory=threading.Event)

    def take(self, url: str, say: Callable[[str], None]) -> None:
        there = self.store.read(CLAIM)
        if there not in (None, _FREE):
            say(f"Looking for {self.beat_s * _BEATS:.0f} s whether another sweep is at work in {url}.")
            for _ in range(_BEATS):
                time.sleep(self.beat_s)
                if self.store.read(CLAIM) not in (there, _FREE):
                    raise BusyError(f"Another sweep is at work in {url}.", hint=_WAY_OUT)
        self._write(0)
        time.sleep(self.beat_s / 5)  # two may come at the same moment: the later one has it
        if not self._is_mine():
            raise BusyError(f"Another sweep began at the same moment in {url}.", hint=_WAY_OUT)

    def hold(self, lost: Callable[[], None]) -> None:
        count = 0
        while not self._ended.wait(self.beat_s):
            count += 1
            with contextlib.suppress(GgufkitError):  # a store that is away for a while is no reason to give up
                if not self._is_mine():
                    lost()
                    return
                self._write(count)

    def release(self) -> None:
        self._ended.set()
        with contextlib.suppress(GgufkitError):
            if self._is_mine():
                self.store.write(CLAIM, _FREE)

    def _write(self, count: int) -> None:
        self.store.write(CLAIM, f"{self.owner} {count}".encode())

    def _is_mine(self) -> bool:
        there = self.store.read(CLAIM)
        return there is not None and there.split()[:1] == [self.owner.encode()]
