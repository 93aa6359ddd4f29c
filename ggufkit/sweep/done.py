"""What workers note of jobs that they have done, before anybody hears of it.

A result is with its worker alone until the driver has it. If the worker dies then, or the scheduler, the job is given to
another one, which finds the note and need not do it again.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from ggufkit.sweep.places import file_name
from ggufkit.sweep.records import Outcome
from ggufkit.sweep.station import Station
from ggufkit.sweep.stores import HOME, StoreError


def noted(job: str, here: Station) -> Outcome | None:
    """How a job ended in this sweep, if it was done; None where that is not known."""
    import msgspec

    with contextlib.suppress(StoreError, msgspec.DecodeError):
        text = here.store.read(_name(job, here))
        return None if text is None else msgspec.json.decode(text, type=Outcome)
    return None


def note(outcome: Outcome, here: Station) -> None:
    """Note how a job ended whose files are in the store. One that cannot be noted may be done again."""
    import msgspec

    with contextlib.suppress(StoreError, OSError):
        here.store.write(_name(outcome.job, here), msgspec.json.encode(outcome))


def _name(job: str, here: Station) -> str:
    return f"{HOME}/done/{here.run}/{file_name(job)}.json"


def forget(out: Path) -> None:
    """Remove what was noted for sweeps that have ended."""
    shutil.rmtree(out / HOME / "done", ignore_errors=True)
