"""Which types a tensor may get, and in which it is measured."""

from ggufkit.core.records import Tensor
from ggufkit.recipes.allowed import (
    FAST_ON_CPU,
    FAST_ON_GPU,
    REFINABLE,
    by_backend,
    coarse,
    possible,
)
from ggufkit.refine.codecs import CODECS


def tensor(width: int) -> Tensor:
    return Tensor("blk.0.attn_v.weight", (width, 8), "F16", 0, 8 * width, 16 * width)


def test_types_that_the_shape_allows() -> None:
    assert possible(tensor(256), FAST_ON_CPU, weighed=True) == FAST_ON_CPU
    assert possible(tensor(288), FAST_ON_CPU, weighed=True) == ("IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
    assert possible(tensor(40), FAST_ON_CPU, weighed=True) == ()


def test_no_type_that_is_useless_without_a_matrix() -> None:
    assert "IQ2_S" in possible(tensor(256), FAST_ON_GPU, weighed=True)
    assert not {"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"} & set(possible(tensor(256), FAST_ON_GPU, weighed=False))
    assert "IQ3_S" in by_backend("cuda")
    assert "IQ3_S" not in by_backend("cpu")


def test_what_is_measured_is_near_to_what_it_will_be() -> None:
    assert [coarse(tensor(256), bpw) for bpw in (-1, 2.8, 4.5, 4.9)] == ["Q3_K", "Q3_K", "Q3_K", "Q4_K"]
    assert [coarse(tensor(288), bpw) for bpw in (2.8, 6.0)] == ["IQ4_NL", "IQ4_NL"]
    assert coarse(tensor(40), 4.0) == "Q8_0"


def test_a_refinement_reads_what_is_chosen_for_it() -> None:
    assert set(REFINABLE) == set(CODECS)
