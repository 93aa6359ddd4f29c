"""How the types of two files differ, in words."""

from __future__ import annotations

import pytest

from ggufkit.recipes.difference import counts, differences, ranges
from ggufkit.recipes.type_map import type_map


def model(n_layers: int = 10, /, **types: str) -> dict[str, str]:
    """The types of a model's tensors: of a kind in all layers, or of one layer as `attn_v_3`."""
    found = {"token_embd.weight": "Q8_0"}
    for layer in range(n_layers):
        for kind in ("attn_q", "attn_v", "ffn_down"):
            found[f"blk.{layer}.{kind}.weight"] = types.get(f"{kind}_{layer}", types.get(kind, "Q4_K"))
    return found


def test_ranges_of_layers_are_merged() -> None:
    richer = model(**{f"attn_v_{layer}": "Q6_K" for layer in range(8)})
    assert differences(richer, model()) == ["attn_v Q6_K against Q4_K in layers 0 to 7"]
    assert differences(model(), richer) == ["attn_v Q4_K against Q6_K in layers 0 to 7"]


def test_files_of_the_same_types_differ_in_nothing() -> None:
    assert differences(model(), model()) == []


def test_kinds_that_differ_alike_are_told_together() -> None:
    assert differences(model(attn_q="Q5_K", attn_v="Q5_K"), model()) == [
        "attn_q and attn_v Q5_K against Q4_K in all layers"
    ]


def test_several_pairs_of_one_kind_are_told_one_by_one() -> None:
    mixed = model(ffn_down="Q5_K", ffn_down_0="Q6_K", ffn_down_4="Q6_K")
    assert differences(mixed, model()) == [
        "ffn_down Q6_K against Q4_K in layers 0 and 4",
        "ffn_down Q5_K against Q4_K in layers 1 to 3 and 5 to 9",
    ]


def test_what_belongs_to_no_layer_names_none() -> None:
    other = model() | {"token_embd.weight": "Q6_K"}
    assert differences(other, model()) == ["token_embd Q6_K against Q8_0"]


def test_a_tensor_that_only_one_has_is_told() -> None:
    untied = model() | {"output.weight": "Q6_K"}
    assert differences(untied, model()) == ["output Q6_K, which the other lacks"]
    assert differences(model(), untied) == ["output none, Q6_K in the other"]


def test_experts_kept_one_by_one_are_a_cell() -> None:
    own = {f"blk.0.ffn_gate.{expert}.weight": kind for expert, kind in enumerate(("Q4_K", "Q6_K"))}
    assert differences(own, dict.fromkeys(own, "Q4_K")) == ["ffn_gate Q4_K, Q6_K against Q4_K in all layers"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [([3], "3"), ([0, 1], "0 and 1"), ([0, 1, 2], "0 to 2"), ([9, 0, 1, 2, 4, 5], "0 to 2, 4, 5 and 9")],
)
def test_numbers_in_words(numbers: list[int], said: str) -> None:
    assert ranges(numbers) == said


def test_counts_of_a_kind() -> None:
    rows = {row.kind: row for row in type_map(model(ffn_down_0="Q6_K"))}
    assert counts(rows["ffn_down"]) == "Q4_K ×9, Q6_K"
    assert counts(rows["token_embd"]) == "Q8_0"
