"""Accuracies, flips and McNemar's test, against scipy."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.measure.tasks.flips import Flips, accuracy, compare

binomtest = pytest.importorskip("scipy.stats", reason="scipy is what p is compared with").binomtest


@given(st.integers(0, 400), st.integers(0, 400))
def test_p_is_that_of_the_exact_binomial_test(lost: int, gained: int) -> None:
    flips = Flips(1000, lost, gained)
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert flips.p == pytest.approx(expected, rel=1e-12)


def test_p_of_thousands_of_flips_is_no_number_that_overflows() -> None:
    assert Flips(20_000, 4000, 3000).p == pytest.approx(binomtest(4000, 7000).pvalue, rel=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_flips_are_counted_question_by_question(pairs: list[tuple[bool, bool]]) -> None:
    base, file = [b for b, _ in pairs], [f for _, f in pairs]
    found = compare(base, file)
    assert found.lost == pairs.count((True, False))
    assert found.gained == pairs.count((False, True))
    assert found.share.value == (found.lost + found.gained) / len(pairs)
    assert accuracy(file).value - accuracy(base).value == pytest.approx((found.gained - found.lost) / len(pairs))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2))
def test_the_change_has_the_error_of_paired_differences(pairs: list[tuple[bool, bool]]) -> None:
    found = compare([b for b, _ in pairs], [f for _, f in pairs]).change
    differences = [int(f) - int(b) for b, f in pairs]
    assert found.value == pytest.approx(statistics.fmean(differences))
    assert found.stderr == pytest.approx(statistics.stdev(differences) / math.sqrt(len(pairs)))


def test_the_error_is_that_of_a_sample() -> None:
    assert accuracy([True] * 30 + [False] * 70).stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert accuracy([True]).stderr is None


def test_answers_to_other_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare([True], [True, False])
