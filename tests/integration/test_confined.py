"""A process with limits answers or refuses; whatever else becomes of it is told in a clause."""

from __future__ import annotations

import sys
import time

import pytest

from ggufkit.core import confined, process
from ggufkit.core.errors import InputError
from ggufkit.core.limits import Limits
from ggufkit.core.process import Surroundings

WORK, ALLOWED = "tests.integration.confined_work", Limits(1, 256 << 20)
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")


def test_an_answer() -> None:
    assert confined.call(WORK, "answer", ALLOWED) == {"a": ["\u2028é", 1]}


def test_a_refusal_is_the_same_error() -> None:
    with pytest.raises(InputError) as refused:
        confined.call(WORK, "refuse", ALLOWED)
    error = refused.value
    assert (type(error), error.message, error.hint, error.details) == (InputError, "no\nway", "h", ("d",))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("crash", "reading it ended in a crash (SIGSEGV)"),
        ("loop", "it takes more than 1 s"),
        pytest.param("memory", "it takes more than 0.25 GiB of memory", marks=linux),
        ("fail", "ZeroDivisionError: inside"),
    ],
)
def test_what_does_not_end_well(what: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(confined.Unfinished) as ended:
        confined.call(WORK, what, ALLOWED)
    assert ended.value.reason == reason
    assert time.monotonic() - began < 60


def test_every_turn_has_its_time() -> None:
    assert confined.call(WORK, "turns", Limits(60, 256 << 20, turn_s=1)) is None
    with pytest.raises(confined.Unfinished, match="it takes more than 1 s, or 1 s in all"):
        confined.call(WORK, "turns", Limits(1, 256 << 20, turn_s=1))


@linux
def test_what_it_starts_is_free_of_its_limits() -> None:
    inner, outer = confined.call(WORK, "start", ALLOWED)
    assert inner != outer
    shown = "import resource as r; print(r.getrlimit(r.RLIMIT_DATA)[0], r.getrlimit(r.RLIMIT_CPU)[0])"
    assert process.run([sys.executable, "-c", shown]).stdout == inner


def test_a_tool_with_limits() -> None:
    surroundings = Surroundings(limits=ALLOWED)
    output = process.run([sys.executable, "-c", "while True: pass"], surroundings=surroundings)
    assert confined.how_it_ended(output, ALLOWED) == "it takes more than 1 s"
