"""What `serve` does: a model as an endpoint, its proof, and what others start it with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ggufkit.core import extras
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.llama.mmproj import read_projector
from ggufkit.request import RunOptions
from ggufkit.serving import check as checking
from ggufkit.serving import server
from ggufkit.serving.asking import Outcome
from ggufkit.serving.server import Plan, ServeOptions, Server
from ggufkit.steps.session import Session


@contextlib.contextmanager
def serve(gguf: Path, how: ServeOptions, run: RunOptions, reporter: Reporter) -> Iterator[Server]:
    """A model served for the length of a context. Raises GgufkitError."""
    server.require_possible_plan(gguf, how)
    server.require_free(how.host, how.port)
    session = _session(run, reporter)
    with server.serving(server.plan(gguf, how, session), run.ngl, session) as running:
        yield running


def check(gguf: Path, how: ServeOptions, run: RunOptions, reporter: Reporter) -> list[Outcome]:
    """Serve a model, ask it in all the ways that clients ask, and end it. Raises GgufkitError."""
    extras.require("serve")
    with serve(gguf, how, run, reporter) as running:
        tools, mmproj = _session(run, reporter).tools, running.plan.beside.mmproj
        sees = mmproj is not None and read_projector(mmproj).sees
        return checking.check(running.endpoint, gguf, tools, reporter, sees=sees)


def plan(gguf: Path, how: ServeOptions, run: RunOptions, reporter: Reporter) -> Plan:
    """What a model would be served with. Raises GgufkitError."""
    server.require_possible_plan(gguf, how)
    return server.plan(gguf, how, _session(run, reporter))


def _session(run: RunOptions, reporter: Reporter) -> Session:
    return run.session(cache_dir() / "serve", reporter)
