"""From a few measurements to what any choice of types is expected to lose."""

import pytest

from ggufkit.recipes.groups import Group
from ggufkit.recipes.sensitivity import sensitivities

GROUPS = (Group("a", ("a",)), Group("b", ("b1", "b2")))
LOST = {
    "a": {"Q3_K": 4.0, "Q4_K": 1.0, "Q8_0": 0.01},
    "b1": {"Q3_K": 8.0, "Q4_K": 2.0},
    "b2": {"Q3_K": 2.0, "Q4_K": 0.5},
}
PROBED = {"a": {"a": "Q3_K"}, "b": {"b1": "Q3_K", "b2": "Q3_K"}}


def test_a_group_is_expected_to_lose_what_was_measured() -> None:
    found = sensitivities(GROUPS, LOST, PROBED, {"a": 0.02, "b": 0.05})
    assert found.expected({"a": "Q3_K"}) == pytest.approx(0.02)
    assert found.expected({"b1": "Q3_K", "b2": "Q3_K"}) == pytest.approx(0.05)
    assert found.of_tensor("a", "Q4_K") == pytest.approx(0.005)
    assert found.of_tensor("b1", "Q4_K") == pytest.approx(0.01)


def test_what_cannot_be_told_from_nothing_is_not_free() -> None:
    found = sensitivities(GROUPS, LOST, PROBED, {"a": -0.0001, "b": 0.05})
    assert found.of_tensor("a", "Q3_K") == pytest.approx(5e-5)


def test_two_measurements_make_a_power_law() -> None:
    first = sensitivities(GROUPS, LOST, PROBED, {"a": 0.02, "b": 0.05})
    types = {"a": "Q4_K", "b1": "Q4_K", "b2": "Q4_K"}
    found = first.closer(types, {"a": 0.01})  # half the loss at a quarter of the error
    assert found.of_tensor("a", "Q4_K") == pytest.approx(0.01)
    assert found.of_tensor("a", "Q3_K") == pytest.approx(0.02)
    assert found.of_tensor("a", "Q8_0") == pytest.approx(0.01 * 0.01**0.5)
    assert found.of_tensor("b1", "Q4_K") == first.of_tensor("b1", "Q4_K")
    both = first.closer(types, {"b": 0.0125 / 2})
    assert both.of_group(GROUPS[1], types) == pytest.approx(0.0125 / 2)


def test_a_group_that_is_split_is_worth_as_much() -> None:
    first = sensitivities(GROUPS, LOST, PROBED, {"a": 0.02, "b": 0.05})
    found = first.split(PROBED["b"], {"b1": 0.01, "b2": 0.03})
    assert [g.label for g in found.groups] == ["a", "b1", "b2"]
    assert found.expected(PROBED["b"]) == pytest.approx(0.05)
    assert found.of_tensor("b2", "Q3_K") == pytest.approx(3 * found.of_tensor("b1", "Q3_K"))
    assert found.of_tensor("a", "Q3_K") == pytest.approx(0.02)
