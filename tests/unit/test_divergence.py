"""The rules of streaming: which way logits travel, who gets which processors, how many chunks are enough."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.llama.kld import Divergence, Row
from ggufkit.measure.logits import strategy
from ggufkit.measure.logits.precision import PILOT, chunks_needed
from ggufkit.measure.logits.strategy import Need, choose
from ggufkit.measure.shares import split_cpus, threads_on

MB = 1_000_000
NEED = Need(20, 25 * MB, 60, 8000 * MB, 500 * MB, [300 * MB] * 3, 4000 * MB, True)


def test_a_file_when_it_fits() -> None:
    chosen = choose(NEED)
    assert (chosen.name, chosen.n_chunks) == (strategy.FILE, 60)
    assert "1.4 GiB of base logits at most, which fits" in chosen.why


def test_pipes_when_it_does_not() -> None:
    chosen = choose(replace(NEED, scratch=100 * MB))
    assert (chosen.name, chosen.at_once) == (strategy.FAN_OUT, 3)
    assert "exceed the scratch limit; memory holds 3 files beside the base" in chosen.why


def test_as_many_at_once_as_memory_holds() -> None:
    assert choose(replace(NEED, scratch=0, ram_free=1200 * MB)).at_once == 2
    alone = choose(replace(NEED, scratch=0, ram_free=900 * MB))
    assert (alone.name, alone.at_once) == (strategy.PIPE, 1)
    assert choose(replace(NEED, scratch=0, ram_free=0)).name == strategy.PIPE
    mixed = replace(NEED, scratch=0, ram_free=1000 * MB, ram_files=[100 * MB, 300 * MB, 200 * MB])
    assert choose(mixed).at_once == 2  # whichever two they are


def test_fewer_chunks_where_there_are_no_pipes() -> None:
    chosen = choose(replace(NEED, scratch=100 * MB, pipes=False))
    assert (chosen.name, chosen.n_chunks) == (strategy.FEWER, 3)
    assert NEED.fixed + chosen.n_chunks * NEED.per_chunk <= 100 * MB
    assert "no named pipes" in chosen.why


@pytest.mark.parametrize("wanted", strategy.STRATEGIES)
def test_a_wish_is_granted(wanted: str) -> None:
    assert choose(NEED, wanted).name == wanted


@given(
    st.integers(1, 10**9), st.integers(1, 1000), st.integers(0, 10**12), st.booleans(), st.integers(0, 10**11),
    st.lists(st.integers(1, 10**10), min_size=1, max_size=9),
)  # fmt: skip
def test_the_limit_is_never_exceeded(
    per_chunk: int, n_chunks: int, scratch: int, pipes: bool, ram: int, files: list[int]
) -> None:
    need = Need(20, per_chunk, n_chunks, scratch, 10**9, files, ram, pipes)
    chosen = choose(need)
    on_disk = chosen.name in (strategy.FILE, strategy.FEWER)
    assert not on_disk or chosen.n_chunks == 0 or 20 + chosen.n_chunks * per_chunk <= scratch
    assert 1 <= chosen.at_once <= max(1, len(files))
    assert chosen.n_chunks == n_chunks or chosen.name == strategy.FEWER


@given(st.sets(st.integers(0, 200), min_size=1, max_size=64), st.integers(1, 20))
def test_processors_are_shared_out_whole(numbers: set[int], n: int) -> None:
    parts = split_cpus(sorted(numbers), n)
    assert len(parts) == n
    if len(numbers) >= n:
        assert sorted(c for part in parts for c in part) == sorted(numbers)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:
        assert set(parts) == {tuple(sorted(numbers))}
    assert all(threads_on(part, 8, n) >= 1 for part in parts)
    assert all(threads_on(part, 8, n) <= max(8, len(part)) for part in parts)


def test_threads_never_exceed_the_processors_of_a_share() -> None:
    assert threads_on((0,), 8, 2) == 1
    assert threads_on((0, 1, 2, 3), 8, 2) == 4
    assert threads_on((), 8, 2) == 4  # where processors cannot be told apart


def measured(n: int, kld: float, spread: float, said: float = 0.5, digits: int = 5, seed: int = 0) -> Divergence:
    """A pass over chunks whose mean KLD scatters by `spread`; the tool says `said` of the true error."""
    rng, total, rows = random.Random(seed), 0.0, []
    for k in range(1, n + 1):
        total += rng.gauss(kld, spread)
        error = said * spread / math.sqrt(k)
        rows.append(
            Row(k, (30.0, 1.0), (0.01, 0.0005), (round(total / k, digits), error), (0.03, 0.001), (0.9, 0.01))
        )
    last = rows[-1]
    return Divergence(
        n, 512, (30.0, 1.0), (29.7, 1.0), last.ln_ppl_ratio, (total / n, last.kld[1]), {}, last.rms_dp,
        last.same_top_p, tuple(rows),
    )  # fmt: skip


def test_enough_is_enough() -> None:
    assert chunks_needed([measured(PILOT, 0.02, 0.0001)], 0.02) == PILOT


def test_more_are_extrapolated_from_the_scatter_between_chunks() -> None:
    needed = chunks_needed([measured(PILOT, 0.02, 0.004)], 0.02)
    exact = (0.004 / (0.02 * 0.02)) ** 2
    assert needed == pytest.approx(1.1 * exact, rel=0.5)
    assert needed > 2 * exact * 0.5**2  # what the tool's errors alone would give
    assert needed % 4 == 0


@given(st.integers(0, 1000))
def test_chunks_that_were_extrapolated_are_mostly_enough(seed: int) -> None:
    needed = chunks_needed([measured(PILOT, 0.02, 0.004, seed=seed)], 0.02)
    again = chunks_needed([measured(needed, 0.02, 0.004, seed=seed + 1)], 0.02)
    assert again <= 4 * needed


def test_the_hungriest_file_decides() -> None:
    small, large = measured(PILOT, 0.02, 0.001), measured(PILOT, 0.02, 0.006)
    assert chunks_needed([small, large], 0.02) == chunks_needed([large, small], 0.02)
    assert chunks_needed([small, large], 0.02) >= chunks_needed([large], 0.02) > PILOT


def test_rounding_is_not_taken_for_scatter() -> None:
    """The rows of a good file show two digits: what they scatter by is mostly rounding."""
    fine = measured(200, 0.0004, 0.00003)
    assert chunks_needed([fine], 0.02) == 200
    rough = measured(200, 0.0004, 0.00003 * 40)
    assert chunks_needed([rough], 0.02) > 200


def test_the_perplexity_ratio_must_be_sharp_too() -> None:
    blunt = replace(measured(PILOT, 0.02, 0.0001), ln_ppl_ratio=(0.01, 0.004))
    assert chunks_needed([blunt], 0.02) == pytest.approx(PILOT * (0.004 / 0.002) ** 2 * 1.1, abs=4)


def test_errors_that_are_no_numbers_ask_for_nothing() -> None:
    equal = replace(measured(PILOT, 0.0, 0.0), ln_ppl_ratio=(0.0, math.nan), kld=(0.0, 0.0))
    assert chunks_needed([equal], 0.02) == PILOT
