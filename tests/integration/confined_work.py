"""What a process with limits can be asked for in tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from ggufkit.core import confined, limits, process
from ggufkit.core.errors import InputError
from ggufkit.core.records import Json


class OwnError(InputError):
    """Of a class that nobody else knows."""


def answer() -> Json:
    print("noise")
    return {"a": ["\u2028é", 1]}


def refuse() -> Json:
    raise OwnError("no\nway", hint="h", details=["d"])


def crash() -> Json:
    os.kill(os.getpid(), signal.SIGSEGV)
    return None


def loop() -> Json:
    while True:
        pass


def turns() -> Json:
    """Two and a half seconds of processor time, a tenth of a second at a time."""
    for _ in range(25):
        limits.renew()
        began = time.process_time()
        while time.process_time() < began + 0.1:
            pass
    return None


def memory() -> Json:
    return len(b"x" * (1 << 31))


def fail() -> Json:
    raise ZeroDivisionError("inside")


def start() -> Json:
    """The limits of a process that is started through `core.process`, and of another."""
    shown = "import resource as r; print(r.getrlimit(r.RLIMIT_DATA)[0], r.getrlimit(r.RLIMIT_CPU)[0])"
    inner = process.run([sys.executable, "-c", shown]).stdout
    outer = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True).stdout
    return [inner, outer]


def work(what: str) -> Json:
    """Do what is asked for, by its name."""
    return {f.__name__: f for f in (answer, refuse, crash, loop, turns, memory, fail, start)}[what]()


if __name__ == "__main__":
    confined.serve(work)
