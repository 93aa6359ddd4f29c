"""A sweep that goes on without its shell: it is at work when the command returns, or the command says why it is not."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from ggufkit.cli import sweep_watch
from ggufkit.core.errors import BusyError
from ggufkit.sweep import journal
from ggufkit.sweep.places import Places

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a script as the interpreter")


def test_it_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Places(tmp_path / "out")
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\necho "$*"\nsleep 0.3\nmkdir -p {places.root}\necho "{{}}" > {places.journal}\nexec sleep 60\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert sweep_watch.detach(["run", "s.yaml"], places, Path("s.yaml")) == 0
    said = capsys.readouterr().out
    pid = int(said.split("process ")[1].split(";")[0])
    assert os.getsid(pid) == pid  # of no terminal
    os.kill(pid, signal.SIGKILL)
    assert places.said.read_text() == "-m ggufkit sweep run s.yaml\n"
    assert "ggufkit sweep stop s.yaml" in said


def test_it_ended_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = Places(tmp_path / "out")
    places.root.mkdir(parents=True)
    places.said.write_text("What an earlier one said.\n")
    assert sweep_watch.detach(["run", str(tmp_path / "none.yaml")], places, Path("none.yaml")) == 3
    said = capsys.readouterr().err
    assert "none.yaml is not there" in said
    assert "earlier" not in said
    assert list(journal.read(places.journal)) == []


def test_another_one_is_at_work(tmp_path: Path) -> None:
    places = Places(tmp_path / "out")
    places.root.mkdir(parents=True)
    with FileLock(places.lock), pytest.raises(BusyError, match="Another sweep is at work"):
        sweep_watch.detach(["run", "s.yaml"], places, Path("s.yaml"))
    assert not places.said.exists()
