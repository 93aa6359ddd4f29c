"""How fast this machine is, by the real tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core import durations
from ggufkit.core.errors import ToolOutputError
from ggufkit.pipeline import pace
from ggufkit.pipeline.pace import Cost
from ggufkit.steps.session import Session


def test_products_and_rounding_are_tried_once(
    session: Session, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace.probe(session, ["Q4_K", "F16", "IQ2_XS"])
    found = pace.known_pace(session, durations.known())
    assert found.factor < pace._GUESSED
    assert found.weights["IQ2_XS"] < found.weights["Q4_K"], (
        "the search for the nearest point of a lattice takes long"
    )
    assert found.estimate(Cost(1, 1e9)).seconds > 1
    monkeypatch.setattr(pace, "_probe_products", lambda _session: pytest.fail("it is known"))
    pace.probe(session, ["Q4_K"])


def test_what_cannot_be_tried_stays_a_guess(
    session: Session, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_session: Session) -> None:
        raise ToolOutputError("llama-bench gave no speeds.")

    monkeypatch.setattr(pace, "_probe_products", fail)
    pace.probe(session, ["Q4_K"])
    assert pace.known_pace(session, durations.known()).factor == pace._GUESSED
