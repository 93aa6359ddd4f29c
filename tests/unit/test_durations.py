"""How long work takes, told from what it took before."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core import durations
from ggufkit.core.durations import Durations, Estimate, Sample, Work, total


def sample(units: float, seconds: float, kind: str = "quantize", how: str = "Q4_K_M", on: str = "cpu") -> Sample:
    return Sample(kind, units, how, durations._here(on), seconds)


def estimated(samples: list[Sample], units: float, how: str = "Q4_K_M") -> Estimate:
    found = Durations(samples).estimate(Work("quantize", units, how, "cpu"))
    assert found is not None
    return found


def test_what_was_measured_takes_as_long_again_whatever_one_bad_day_says() -> None:
    days = [sample(1e9, s) for s in (60, 61, 59, 400, 62)]
    assert estimated(days, 1e9).seconds == 61
    assert estimated(days, 1e9).factor < 1.4


def test_other_sizes_lie_on_the_line_and_larger_ones_beyond_it() -> None:
    two = [sample(1e8, 10), sample(1e9, 55)]
    assert estimated(two, 5.5e8).seconds == pytest.approx(32.5)
    assert estimated(two, 8e9).seconds == pytest.approx(55 + 7e9 * 45 / 9e8)
    assert estimated(two, 8e9).factor > estimated(two, 1e9).factor
    assert 5 < estimated(two, 5e7).seconds < 10, "starting takes its time"


def test_another_variety_is_a_worse_guess_and_another_kind_none() -> None:
    one = [sample(1e9, 60)]
    assert estimated(one, 1e9, "Q8_0") == Estimate(60, durations._OTHER)
    assert Durations(one).estimate(Work("imatrix", 1e9, "", "cpu")) is None
    assert Durations(one).estimate(Work("quantize", 1e9, "Q4_K_M", "cuda")) is None


def test_they_are_kept_in_the_cache_the_newest_of_each_size(private_cache: Path) -> None:
    work = Work("bench", 1000.0, "", "cpu")
    for seconds in range(20):
        durations.note(work, seconds)
    durations.note(Work("bench", 9000.0, "", "cpu"), 100)
    found = durations.known().estimate(work)
    assert found is not None
    assert found.seconds == 16, "the median of 13 to 19"
    (private_cache / "durations.json").write_text('{"samples": [1]}')
    assert durations.known().estimate(work) is None, "damaged: nothing is known"
    durations.note(work, 5)
    assert durations.known().estimate(work) is not None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "file" / "cache"))
    durations.note(Work("bench", 1.0), 1)


def test_the_error_of_the_longest_counts_most() -> None:
    assert total([Estimate(90, 1.3), Estimate(10, 2.3)]) == Estimate(100, (90 * 1.3 + 10 * 2.3) / 100)
    assert total([]).seconds == 0


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(0.3, 1.25), "about 1 s, give or take a quarter"),
        (Estimate(43, 1.35), "about 45 s, give or take a third"),
        (Estimate(178, 1.5), "about 3 min, give or take half"),
        (Estimate(7900, 2.2), "about 2 h 10 min, give or take a factor of two"),
        (Estimate(10800, 4), "about 3 h, give or take a factor of three"),
    ],
)
def test_as_people_say_it(estimate: Estimate, shown: str) -> None:
    assert durations.words(estimate) == shown


def test_work_that_took_next_to_no_time_is_remembered_and_a_cache_that_says_none_is_healed(
    private_cache: Path,
) -> None:
    work = Work("machine", 1e9, "FLOPS", "cuda")
    durations.note(work, 2e-5)
    found = durations.known().estimate(work)
    assert found is not None
    assert found.seconds == pytest.approx(2e-5)
    file = next(private_cache.rglob(durations.FILE))
    file.write_text(file.read_text().replace("2e-05", "0.0"))
    assert durations.known().estimate(work) is None
