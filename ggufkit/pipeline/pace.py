"""How fast this machine is, found out in two seconds: for plans of what was never done here before."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core import durations, process
from ggufkit.core.durations import Durations, Estimate
from ggufkit.core.errors import GgufkitError
from ggufkit.core.expected import timed
from ggufkit.llama import argv, logs, quants
from ggufkit.llama.argv import Compute
from ggufkit.llama.selfcheck import Shape, write_model
from ggufkit.steps.session import Session

KIND = "probe"
_FLOPS, _BYTES = "operations", "bytes"
_UNIT, _WEIGHTS = 1e9, 1e6
"""What samples of a pace are of: a billion operations or bytes, a million weights."""
_SHAPE = Shape(width=1024, layers=2, heads=8, inner=2816, context=512)
_N_PROMPT, _N_GEN = 256, 16
_ROWS, _COLUMNS = 8, 1024
_PROBED, _GUESSED = 2.0, 3.0
"""Factors of error of what is told from a pace, and where not even that was measured."""
_OF_THREAD, _OF_GPU = (1e10, 1e10, 3e6), (1e13, 1e12, 3e6)
"""Operations, bytes and weights in a second where nothing was measured."""


@dataclass(frozen=True)
class Cost:
    """What some work comes to.

    Args:
        start_s: until it begins: programs and libraries are loaded.
        operations: floating-point operations of matrix products.
        n_bytes: of weights that are read one after the other, or written.
        weights: how many are rounded, to `type`.
    """

    start_s: float = 0.0
    operations: float = 0.0
    n_bytes: float = 0.0
    weights: float = 0.0
    type: str = ""


@dataclass(frozen=True)
class Pace:
    """Operations and bytes in a second, and weights that are rounded to each type; `factor` of error."""

    operations: float
    n_bytes: float
    weights: dict[str, float] = field(default_factory=dict)
    any_weights: float = _OF_THREAD[2]
    factor: float = _GUESSED

    def estimate(self, cost: Cost) -> Estimate:
        """How long it takes."""
        rounding = cost.weights / self.weights.get(cost.type, self.any_weights)
        seconds = cost.start_s + cost.operations / self.operations + cost.n_bytes / self.n_bytes + rounding
        return Estimate(seconds, self.factor)


def known_pace(session: Session, known: Durations) -> Pace:
    """The pace as it was found before; a guess where it was not."""
    operations = known.estimate(session.work(KIND, _UNIT, _FLOPS))
    n_bytes = known.estimate(session.work(KIND, _UNIT, _BYTES))
    per_thread = 1 if session.tools.backend != "cpu" else session.threads
    usual = _OF_GPU if session.tools.backend != "cpu" else tuple(per_thread * x for x in _OF_THREAD)
    weights = known.varieties(session.work(KIND, _WEIGHTS))
    rates = {
        how: session.threads * _WEIGHTS / max(s, 1e-9) for how, s in weights.items() if how in quants.TENSOR_TYPES
    }
    return Pace(
        _UNIT / max(operations.seconds, 1e-9) if operations else usual[0],
        _UNIT / max(n_bytes.seconds, 1e-9) if n_bytes else usual[1],
        rates,
        session.threads * _OF_THREAD[2],
        _PROBED if operations and n_bytes else _GUESSED,
    )


def probe(session: Session, types: Iterable[str]) -> None:
    """Find out and remember how fast llama.cpp computes, and how fast it rounds to each type of tensors.

    What cannot be found out stays unknown.
    """
    known = durations.known()
    there = known.varieties(session.work(KIND, _WEIGHTS))
    wanted = [t for t in dict.fromkeys(types) if t not in there and not quants.is_float(t)]
    products = known_pace(session, known).factor != _PROBED
    if not (wanted or products):
        return
    with timed(session.reporter, "Finding out how fast this machine is", session.work("probing", 1)):
        try:
            if products:
                _probe_products(session)
            _probe_rounding(session, wanted)
        except (GgufkitError, OSError) as error:
            session.reporter.info(f"How fast this machine is could not be found out: {error}")


def _probe_products(session: Session) -> None:
    with tempfile.TemporaryDirectory(prefix="ggufkit-pace-") as directory:
        model = write_model(Path(directory) / "model.gguf", _SHAPE)
        compute = Compute(session.tools.backend, threads=session.threads)
        command = argv.bench(session.tools, model, compute, argv.Timing(_N_PROMPT, _N_GEN, 1))
        speeds = logs.parse_bench(process.run(command))
        n_params = _SHAPE.n_params
    for speed in speeds:
        if speed.n_prompt:
            durations.note(session.work(KIND, _UNIT, _FLOPS), _UNIT / (2 * n_params * speed.tps))
        else:
            durations.note(session.work(KIND, _UNIT, _BYTES), _UNIT / (2 * n_params * speed.tps))


def _probe_rounding(session: Session, types: Iterable[str]) -> None:
    """One thread's seconds for a million weights of each type."""
    import numpy as np

    from ggufkit.llama.libggml import LibGgml

    weights = np.random.default_rng(0).standard_normal((_ROWS, _COLUMNS), dtype=np.float32)
    importance, library = np.ones(_COLUMNS, np.float32), LibGgml(session.tools.dir)
    for kind in types:
        library.quantize(weights[:1], kind, importance)  # tables are made when a type is used first
        started = time.perf_counter()
        library.quantize(weights, kind, importance)
        seconds = (time.perf_counter() - started) * _WEIGHTS / weights.size
        durations.note(session.work(KIND, _WEIGHTS, kind), seconds)
