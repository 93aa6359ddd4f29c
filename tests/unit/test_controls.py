"""What recipes of types are compared with in `benchmarks/recipes.py`: chance, and the line between presets."""

from __future__ import annotations

import math

import pytest

from benchmarks.controls import Point, is_met, random_types, smallest_step, spread, straight_line

_BITS = {"Q2_K": 84, "Q3_K": 110, "IQ4_XS": 136, "Q4_K": 144, "Q6_K": 210, "Q8_0": 272}
_SIZES = {f"t{i}": {kind: bits * (8 + 3 * i) for kind, bits in _BITS.items()} for i in range(12)}
_LEAST = sum(types["Q2_K"] for types in _SIZES.values())
_MOST = sum(types["Q8_0"] for types in _SIZES.values())


def _bytes(chosen: dict[str, str]) -> int:
    return sum(_SIZES[tensor][kind] for tensor, kind in chosen.items())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [_LEAST, _LEAST + 5, (_LEAST + _MOST) // 2, _MOST - 1, _MOST, 2 * _MOST])
def test_random_types_fill_the_budget(seed: int, budget: int) -> None:
    chosen = random_types(_SIZES, budget, seed)
    left = budget - _bytes(chosen)
    assert chosen.keys() == _SIZES.keys()
    assert left >= 0
    for tensor, kind in chosen.items():
        more = [size - _SIZES[tensor][kind] for size in _SIZES[tensor].values() if size > _SIZES[tensor][kind]]
        assert not more or min(more) > left, tensor


def test_random_types_are_the_seeds() -> None:
    budget = (_LEAST + _MOST) // 2
    drawn = [random_types(_SIZES, budget, seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(one.values()) for one in drawn}) == 3


def test_random_types_of_a_tensor_with_one_type() -> None:
    assert random_types({"a": {"F16": 10}, "b": {"Q2_K": 2, "Q8_0": 8}}, 17, 0) == {"a": "F16", "b": "Q2_K"}


def test_random_types_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="smallest types"):
        random_types(_SIZES, _LEAST - 1, 0)


def test_the_line_is_straight_in_the_logarithm() -> None:
    presets = [Point(100, 0.1), Point(150, 0.02), Point(200, 0.001), Point(400, 0.0001)]
    assert straight_line(presets, 125) == pytest.approx(math.sqrt(0.1 * 0.02))
    assert math.sqrt(0.1 * 0.02) < (0.1 + 0.02) / 2
    assert straight_line(presets, 150) == pytest.approx(0.02)


def test_the_line_leaves_out_presets_that_smaller_ones_beat() -> None:
    presets = [Point(100, 0.1), Point(120, 0.5), Point(200, 0.001)]
    assert straight_line(presets, 150) == pytest.approx(0.01)


@pytest.mark.parametrize("n_bytes", [99, 200, 201])
def test_no_line_beyond_the_presets(n_bytes: int) -> None:
    assert straight_line([Point(100, 0.1), Point(200, 0.001)], n_bytes) is None


def test_targets_are_spread_evenly() -> None:
    assert spread(1000, 8000, 4) == (1000, 2000, 4000, 8000)


def test_a_target_is_met_or_not() -> None:
    assert is_met(1000, 1000, 1)
    assert is_met(998, 1000, 1)
    assert not is_met(997, 1000, 1)
    assert is_met(950, 1000, 50)
    assert not is_met(1001, 1000, 50)
    assert smallest_step(_SIZES) == 8 * (144 - 136)
