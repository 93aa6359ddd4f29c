"""A sample of `benchmarks/mutations.py`: refused are exactly the checkpoints that cannot become a right GGUF."""

from __future__ import annotations

import sys

from benchmarks.record import ROOT
from ggufkit.core import process
from ggufkit.core.process import Surroundings
from ggufkit.core.records import Toolchain

# A dtype and a rope that are right; a gate and a rope of another function; a head that is not there; a shape.
_SEEDS = (0, 10, 13, 12, 23, 14)


def test_exactly_the_bad_are_refused(tools: Toolchain) -> None:
    command = [sys.executable, "-m", "benchmarks.mutations", "--no-save", "--seeds", ",".join(map(str, _SEEDS))]
    ended = process.run(command, surroundings=Surroundings(cwd=ROOT))
    assert ended.returncode == 0, ended.text
    said = " ".join(ended.stdout.split())
    assert "good 2 0 bad 0 4" in said
    assert "computes silu where hidden_act is relu" in said
    assert "loses attention_factor 1.4 of rope type yarn" in said
    assert "has no lm_head.weight" in said
