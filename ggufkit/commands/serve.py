"""What `serve` does: a model as an endpoint, its proof, and what others start it with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ggufkit.core import extras
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama.mmproj import read_projector
from ggufkit.request import RunOptions
from ggufkit.serving import acceptance, server
from ggufkit.serving import check as checking
from ggufkit.serving.acceptance import Answers
from ggufkit.serving.asking import Outcome
from ggufkit.serving.drafts import DraftOptions
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
    tools = _session(run, reporter).tools
    with serve(gguf, how, run, reporter) as running:
        mmproj, cache = running.plan.beside.mmproj, running.plan.cache
        sees = mmproj is not None and read_projector(mmproj).sees
        outcomes = checking.check(running.endpoint, gguf, tools, reporter, sees=sees)
        drafted = _answers(running, gguf, tools) if how.drafts.are_wanted else None
    if drafted is None:
        return outcomes
    plain = replace(how, drafts=DraftOptions(), ctx=cache.n_ctx, kv_type=cache.kv_type)
    with serve(gguf, plain, run, reporter) as running:
        alone = alike = _answers(running, gguf, tools)
    if not acceptance.are_same(alone, drafted):
        with serve(gguf, replace(plain, repack=False), run, reporter) as running:
            alike = _answers(running, gguf, tools, ties=True)
    name = how.drafts.model.name if how.drafts.model is not None else "its MTP layers"
    acceptance.warn(drafted, alone, name, reporter)
    return [*outcomes, *acceptance.outcomes(alone, alike, drafted)]


def _answers(running: Server, gguf: Path, tools: Toolchain, *, ties: bool = False) -> Answers:
    with checking.asked(running.endpoint, gguf, tools) as asked:
        return acceptance.answers(asked, ties=ties)


def plan(gguf: Path, how: ServeOptions, run: RunOptions, reporter: Reporter) -> Plan:
    """What a model would be served with. Raises GgufkitError."""
    server.require_possible_plan(gguf, how)
    return server.plan(gguf, how, _session(run, reporter))


def _session(run: RunOptions, reporter: Reporter) -> Session:
    return run.session(cache_dir() / "serve", reporter)
