"""Unit tests are pure: a real process may not start here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="session")
def known_fonts() -> None:
    """matplotlib asks the system for its fonts once on a new machine, which takes a process."""
    import matplotlib.font_manager  # noqa: F401 - for what its import does


@pytest.fixture(autouse=True)
def no_processes(known_fonts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make starting a process an error."""

    def refuse(*args: Any, **_kwargs: Any) -> None:
        raise AssertionError(f"a unit test started a process: {args}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(autouse=True)
def reference_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refine with torch's own functions: others are compiled, by a process."""
    if (compiled := sys.modules.get("ggufkit.refine.compiled")) is not None:
        monkeypatch.setattr(compiled, "find", lambda _: None)
        monkeypatch.setattr(sys.modules["ggufkit.refine.kernels"], "_known", {})
