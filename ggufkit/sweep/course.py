"""How a sweep is driven, as a command chooses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ggufkit.request import BuildRequest
from ggufkit.sweep import work
from ggufkit.sweep.at_work import Look
from ggufkit.sweep.inputs import Given
from ggufkit.sweep.keys import Keys
from ggufkit.sweep.records import Cell, Outcome, StoredFile


@dataclass(frozen=True)
class Course:
    """How a sweep is driven.

    Args:
        window: cells at work at once: the next ones are fetched while the first is measured.
        on_gpu: workers with GPUs do what a GPU is good for.
        at_files: a resource of the workers that see all files of a cell, "" where all do.
        patience_s: how long a scheduler that is gone is waited for.
        do: what a worker does with a job.
        offer: lets workers elsewhere have the files that a request names.
        bring: brings files of a cell that was finished elsewhere to where the sweep's directory is.
        is_stopped: whether somebody asked to stop.
        look: how a job ended before, by its id and its key, if nothing is to be done for it.
        keys: of a cell's jobs.
    """

    window: int = 4
    on_gpu: bool = False
    at_files: str = ""
    patience_s: float = 600.0
    do: Callable[..., Outcome] = work.run
    offer: Callable[[BuildRequest], tuple[Given, ...]] = lambda _request: ()
    bring: Callable[[str, Sequence[StoredFile]], None] = lambda _cell, _files: None
    is_stopped: Callable[[], bool] = lambda: False
    look: Look = lambda _job, _key: None
    keys: Callable[[Cell], Keys | None] = lambda _cell: None
