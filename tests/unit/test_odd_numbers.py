"""Numbers and kinds that nobody writes but who changes a file by hand: refused, or left as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggufkit.core.records import Measurement
from ggufkit.formats import known
from ggufkit.llama import task_log
from ggufkit.measure.measurements import against_own_base
from tests.fake_results import CONDITIONS


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_perplexity_that_is_none_has_no_ratio(value: float) -> None:
    where = replace(CONDITIONS, corpus_sha256="ab" * 32)
    found = [
        Measurement("a", "ppl", value, None, "", where),
        Measurement("a", "ln_ppl_ratio", 0.5, None, "", where),
    ]
    base = [Measurement("b", "ppl", 30.0, None, "", where)]
    assert against_own_base(found, base) == found


def test_a_score_beyond_all_tasks_is_no_score() -> None:
    assert task_log._is_interval(4, 75.0, 30.0642, 95.4413)
    assert not task_log._is_interval(4, 175.0, 30.0, 95.0)


@pytest.mark.parametrize(
    "group", [{"weights": {"num_bits": [8], "type": "int"}}, {"weights": {"num_bits": 8, "type": {}}}]
)
def test_a_scheme_of_odd_kinds_is_unknown(group: object) -> None:
    assert known._scheme(group) == ""
