"""Speeds that are not to be relied on are told, once for each file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core import process
from ggufkit.core.hashing import sha256_file
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama.gguf import read_gguf
from ggufkit.measure.bench import BenchOptions, bench
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests.unit.test_gguf import write

TOOLS = Toolchain(Path("/nowhere"), "built", "commit", "cpu", "test")
LINE = '{{"n_prompt": {}, "n_gen": {}, "avg_ts": 100.0, "stddev_ts": {}, "backends": "CPU", "n_threads": 2}}\n'


class Listener(SilentReporter):
    def __init__(self) -> None:
        super().__init__()
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.mark.parametrize(
    ("deviations", "varied"),
    [((47, 59.4), "pp512 by 47% and tg128 by 59%"), ((1, 20), "tg128 by 20%"), ((4.9, 5.0), None)],
)
def test_a_busy_machine_is_told_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    private_cache: Path,
    deviations: tuple[float, float],
    varied: str | None,
) -> None:
    told = LINE.format(512, 0, deviations[0]) + LINE.format(0, 128, deviations[1])
    monkeypatch.setattr(process, "run", lambda argv, **_: ToolOutput(tuple(argv), 0, told, "", 1.0))
    file, reporter = write(tmp_path / "m.gguf", {"tokenizer.ggml.tokens": ["a"]}), Listener()
    bench(
        read_gguf(file, sha256_file(file)),
        BenchOptions(),
        Session(TOOLS, Workspace(tmp_path), reporter, threads=2),
    )
    expected = f"The machine is busy, speeds varied between repetitions: m.gguf ({varied})."
    assert [text.partition(" Repeat on")[0] for text in reporter.warned] == ([expected] if varied else [])
