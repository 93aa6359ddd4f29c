"""Work on what somebody else wrote, in a process of its own: neither a crash nor endless work reaches ggufkit.

`call` runs a module, whose `serve` does the work within limits and answers, or refuses, in JSON.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ggufkit.core import errors, limits, process
from ggufkit.core.errors import GgufkitError
from ggufkit.core.limits import Limits
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import Json

_ANSWER, _REFUSAL, _NO_MEMORY = "ggufkit-answer: ", "ggufkit-refusal: ", "ggufkit-no-memory"


class Unfinished(Exception):
    """The work ended without an answer: too long, out of memory, or by a crash. `reason` is a clause that says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def call(module: str, request: Json, allowed: Limits) -> Any:
    """Let `serve` of a module do its work.

    Raises:
        GgufkitError: as the work did; of a class of `core.errors`.
        Unfinished: there is no answer.
    """
    stdin = json.dumps({"limits": asdict(allowed), "request": request}).encode()
    output = process.run([sys.executable, "-m", module], stdin=stdin)
    for line in output.stdout.splitlines():
        if line.startswith(_ANSWER):
            return json.loads(line.removeprefix(_ANSWER))
        if line.startswith(_REFUSAL):
            raise _error(json.loads(line.removeprefix(_REFUSAL)))
    raise Unfinished(how_it_ended(output, allowed))


def how_it_ended(output: ToolOutput, allowed: Limits) -> str:
    """Why a process with limits did not do its work, as a clause."""
    if output.returncode == -signal.SIGXCPU:
        turn = "" if allowed.turn_s is None else f"{allowed.turn_s} s, or "
        return f"it takes more than {turn}{allowed.cpu_s} s{' in all' if turn else ''}"
    if _NO_MEMORY in output.stdout or "bad_alloc" in output.stderr or output.returncode == -signal.SIGKILL:
        return f"it takes more than {allowed.memory_bytes / (1 << 30):.3g} GiB of memory"
    if output.returncode < 0:
        return f"reading it ended in a crash ({signal.Signals(-output.returncode).name})"
    return (output.stderr.strip().splitlines() or ["nothing says why"])[-1][:300]


def serve(work: Callable[[Any], Json]) -> None:
    """Do the work that `call` asked for; the process's whole life."""
    asked = json.load(sys.stdin)
    try:
        with limits.imposed(Limits(**asked["limits"])):
            line = _ANSWER + json.dumps(work(asked["request"]))
    except GgufkitError as error:
        line = _REFUSAL + json.dumps(_fields(error))
    except MemoryError:
        line = _NO_MEMORY
    print(line, flush=True)


def _fields(error: GgufkitError) -> dict[str, Json]:
    kinds: list[Json] = [kind.__name__ for kind in type(error).__mro__]
    details: list[Json] = list(error.details)
    log = None if error.log is None else str(error.log)
    return {"kinds": kinds, "message": error.message, "hint": error.hint, "details": details, "log": log}


def _error(fields: dict[str, Any]) -> GgufkitError:
    """The same error, of its nearest class that everybody knows."""
    known = (getattr(errors, str(name), None) for name in fields["kinds"])
    kind: type[GgufkitError] = next(k for k in known if k is not None)
    log = None if fields["log"] is None else Path(fields["log"])
    return kind(fields["message"], hint=fields["hint"], log=log, details=fields["details"])
