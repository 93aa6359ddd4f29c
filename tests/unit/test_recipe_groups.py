"""Which tensors are measured together."""

from ggufkit.core.records import Tensor
from ggufkit.recipes.groups import group, kind_of, layer_of

KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def tensors(n_layers: int) -> list[Tensor]:
    names = [f"blk.{layer}.{kind}.weight" for layer in range(n_layers) for kind in KINDS]
    return [
        Tensor(name, (256, 8), "F16", 0, 2048, 4096) for name in ["token_embd.weight", "output.weight", *names]
    ]


def test_a_small_model_is_measured_tensor_by_tensor() -> None:
    groups = group(tensors(6), 44)
    assert [g.tensors for g in groups] == [(t.name,) for t in tensors(6)]


def test_a_large_model_is_measured_by_kind_and_depth() -> None:
    groups = group(tensors(80), 44)
    assert len(groups) == 44
    assert sorted(name for g in groups for name in g.tensors) == sorted(t.name for t in tensors(80))
    assert groups[0].tensors == ("token_embd.weight",)
    for one in groups[2:]:
        layers = [layer_of(name) or 0 for name in one.tensors]
        assert len({kind_of(name) for name in one.tensors}) == 1
        assert layers == list(range(layers[0], layers[0] + len(layers)))
    assert groups[2].label == "attn_q, layers 0 to 12"


def test_a_kind_has_no_more_slices_than_layers() -> None:
    few = [Tensor("blk.0.ffn_norm_x.weight", (256, 8), "F16", 0, 2048, 4096), *tensors(20)[2:]]
    groups = group(few, 30)
    assert [g.label for g in groups if "ffn_norm_x" in g.label] == ["ffn_norm_x, layer 0"]
    assert len(groups) == 30
