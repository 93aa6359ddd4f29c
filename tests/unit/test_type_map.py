"""Tensors find their row and column by their names, and all of them are shown."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ggufkit.core.records import Tensor
from ggufkit.recipes.type_map import layers, lines, matrices, type_map

_LLAMA = ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")


def llama(n_layers: int) -> dict[str, str]:
    types = {"token_embd.weight": "Q4_K", "output.weight": "Q6_K"}
    for i in range(n_layers):
        types |= {f"blk.{i}.{kind}.weight": "Q4_K" for kind in _LLAMA}
    return types | {f"blk.{i}.attn_v.weight": "Q6_K" for i in range(n_layers // 3)}


def test_kinds_come_in_the_order_of_a_layer() -> None:
    kinds = [row.kind for row in type_map(llama(3))]
    assert kinds == [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "token_embd",
        "output",
    ]


def test_types_of_all_layers_in_a_line() -> None:
    said = dict(lines(llama(24)))
    assert said["attn_v"] == "Q6_K ×8, Q4_K ×16"
    assert said["attn_q"] == "Q4_K ×24"
    assert said["output"] == "Q6_K"


def test_experts_follow_the_rest_of_a_layer() -> None:
    types = {
        "blk.0.ffn_up_exps.weight": "Q3_K", "blk.0.ffn_gate_shexp.weight": "Q6_K", "blk.0.attn_v.weight": "Q6_K",
        "blk.1.ffn_up.weight": "Q4_K", "output.weight": "Q6_K",
    }  # fmt: skip
    assert [row.kind for row in type_map(types)] == ["attn_v", "ffn_up", "ffn_gate_shexp", "ffn_up_exps", "output"]


def test_experts_that_are_tensors_of_their_own_share_a_cell() -> None:
    types = {f"blk.2.ffn_gate.{i}.weight": "Q5_K" if i == 1 else "Q4_K" for i in range(4)}
    (row,) = type_map(types)
    assert (row.kind, row.runs) == ("ffn_gate", "Q4_K, Q5_K")
    assert row.cells[2].types == types


def test_layers_that_lack_a_kind_have_no_cell() -> None:
    types = {f"blk.{i}.attn_q.weight": "Q4_K" for i in (3, 7, 11)} | {
        f"blk.{i}.ssm_in.weight": "Q5_K" for i in range(12)
    }
    rows = type_map(types)
    assert list(rows[0].cells) == [3, 7, 11]
    assert layers(rows) == list(range(12))
    assert rows[0].runs == "Q4_K ×3"


def test_odd_names_have_a_place() -> None:
    types = {
        "weight": "F16", "strange": "F16", "mm.0.weight": "F16", "enc.blk.1.attn_q.weight": "F16",
        "blk.99999999999.attn_q.weight": "F16", "blk.1.2.3.weight": "F16",
    }  # fmt: skip
    rows = type_map(types)
    assert {name for row in rows for cell in row.cells.values() for name in cell.types} == set(types)
    assert layers(rows) == [0, 1]  # no name makes a map of millions of columns
    assert {"weight", "strange", "mm", "enc.attn_q"} < {row.kind for row in rows}
    assert type_map({}) == ()


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.sampled_from(["Q4_K", "Q6_K", "F16"]), max_size=12))
def test_every_tensor_is_shown_once(types: dict[str, str]) -> None:
    shown = [item for row in type_map(types) for cell in row.cells.values() for item in cell.types.items()]
    assert sorted(shown) == sorted(types.items())


def test_norms_and_biases_are_no_matrices() -> None:
    tensors = [
        Tensor("blk.0.attn_norm.weight", (64,), "F32", 0, 64, 256),
        Tensor("blk.0.ffn_up_exps.bias", (64, 8), "F32", 0, 512, 2048),
        Tensor("blk.0.attn_q.weight", (64, 64), "Q4_K", 0, 4096, 2304),
    ]
    assert matrices(tensors) == {"blk.0.attn_q.weight": "Q4_K"}
