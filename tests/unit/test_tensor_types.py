"""Types of single tensors: what llama-quantize is told, and what is refused before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core.errors import GgufkitError, InputError, UsageError
from ggufkit.core.records import Json, QuantType, Tensor
from ggufkit.llama.argv import Overrides
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.logs import QuantizePlan, TensorPlan
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.steps import tensor_types
from ggufkit.steps.quantize import QuantizeParams

SHAPES = {
    "token_embd.weight": (320, 1000), "output.weight": (320, 1000), "blk.0.attn_norm.weight": (320,),
    "blk.0.attn_v.weight": (320, 320), "blk.1.attn_v.weight": (320, 320), "blk.1.ffn_down.weight": (512, 320),
}  # fmt: skip
KNOWN = [QuantType(name, "") for name in ("Q4_K_M", "IQ2_M", "Q8_0", "MXFP4_MOE", "Q4_0", "F16")]


def header(without: str = "", metadata: Mapping[str, Json] | None = None) -> GgufHeader:
    tensors = tuple(
        Tensor(name, shape, "F16", 0, shape[0] * (shape[1] if len(shape) > 1 else 1), 0)
        for name, shape in SHAPES.items()
        if name != without
    )
    return GgufHeader(Path("b.gguf"), 3, {"general.architecture": "llama", **(metadata or {})}, tensors, 0, 32, 0)


def recipe(file_type: str = "", **types: str) -> TypeRecipe:
    names = {
        "embd": "token_embd.weight", "v": "blk.0.attn_v.weight", "down": "blk.1.ffn_down.weight",
        "norm": "blk.0.attn_norm.weight", "gone": "blk.7.attn_v.weight",
    }  # fmt: skip
    return TypeRecipe(tuple(Choice(names[name], kind) for name, kind in types.items()), file_type)


def plan(**after: str) -> QuantizePlan:
    kinds = {name: "F32" if "norm" in name else "Q5_0" for name in SHAPES} | after
    tensors = [TensorPlan(n, SHAPES[n], "F32" if "norm" in n else "F16", kinds[n]) for n in SHAPES]
    return QuantizePlan(tuple(tensors), 5.0, 0, (), False)


def test_the_type_of_the_file_is_that_of_most_bytes() -> None:
    def of(**types: str) -> str:
        return tensor_types.file_type(recipe(**types), header(), KNOWN).name

    assert of(embd="Q8_0", v="Q4_0") == "Q8_0"
    assert of(embd="F16", v="Q4_0") == "Q4_0", "in a file of a float type, nothing is quantized"
    assert of(v="Q4_0", down="Q4_K") == "Q4_K_M"
    assert of(down="IQ2_S") == "IQ2_M"
    assert of(embd="NVFP4", v="MXFP4") == "MXFP4_MOE", "of NVFP4 there are no files"
    assert of(file_type="q4_0", embd="Q8_0") == "Q4_0", "its own"
    for odd in (recipe(v="F16"), recipe("F16", v="Q4_0"), recipe("Q4_K_X", v="Q4_0")):
        with pytest.raises(InputError):
            tensor_types.file_type(odd, header(), KNOWN)


REFUSED: list[tuple[Overrides, TypeRecipe | None, type[GgufkitError], str]] = [
    (Overrides((("attn_v", "Q8_1"),)), None, InputError, "no type 'Q8_1' of tensors"),
    (Overrides((("attn_(", "Q8_0"),)), None, InputError, "no regular expression"),
    (Overrides(output="Q4_K"), None, InputError, "output.weight Q4_K, whose blocks are 256 wide: it has 320 columns"),
    (Overrides(token_embedding="IQ2_XS"), None, InputError, "--token-embedding-type makes token_embd.weight IQ2_XS"),
    (Overrides(leave_output=True, output="F16"), None, UsageError, "exclude each other"),
    (Overrides(prune_layers=(1, 5)), None, InputError, "--prune-layers 5: b.gguf has no such layer"),
    (Overrides(prune_layers=(0, 1)), None, InputError, "leaves no layer"),
    (Overrides(kv=("a=int:-1",)), None, InputError, "--override-kv a=int:-1"),
    (Overrides(), recipe(v="Q4_K"), InputError, "The recipe makes blk.0.attn_v.weight Q4_K, whose blocks are 256 wide"),
    (Overrides(pure=True), recipe(v="Q4_0"), UsageError, "A recipe says which type each tensor has already"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "given", "kind", "said"), REFUSED)
def test_what_cannot_be_is_refused(
    overrides: Overrides, given: TypeRecipe | None, kind: type[GgufkitError], said: str
) -> None:
    with pytest.raises(kind, match=r".*") as refused:
        tensor_types.require_possible(header(), "Q4_K_M", overrides, given)
    assert said in refused.value.message
    assert refused.value.hint


def test_what_would_not_be_heeded_is_refused() -> None:
    with pytest.raises(InputError, match="does not heed --tensor-type in a file of type F16"):
        tensor_types.require_possible(header(), "F16", Overrides((("attn_v", "Q8_0"),)), None)
    with pytest.raises(InputError, match=r"has no output\.weight"):
        tensor_types.require_possible(header("output.weight"), "Q4_0", Overrides(leave_output=True), None)
    lists = header(metadata={"llama.attention.head_count_kv": [4, 8]})
    with pytest.raises(InputError, match=r"llama\.attention\.head_count_kv as it is"):
        tensor_types.require_possible(lists, "Q4_0", Overrides(prune_layers=(1,)), None)


def test_what_is_possible_is_not() -> None:
    pairs = ("a.b=int:7", "a=float:-1.5e-3", "a=bool:true", "a=str:b: c=d", "a=str:")
    some = Overrides((("attn_v", "Q4_K"),), output="Q8_0", token_embedding="F16", kv=pairs, prune_layers=(1,))
    tensor_types.require_possible(header(), "Q4_K_M", some, None)
    tensor_types.require_possible(
        header(), "Q4_K_M", Overrides(kv=pairs, prune_layers=(0,)), recipe(v="Q5_0", gone="Q4_K")
    )


@pytest.mark.parametrize("pair", ["", "a", "a=7", "=int:7", "a=int:x", "a=int:4294967296", "a=float:", "a=bool:True",
                                  "a=str:" + "x" * 128, "k" * 128 + "=int:1", "a=str:" + "ü" * 64])  # fmt: skip
def test_metadata_that_the_tool_would_not_write_as_it_stands(pair: str) -> None:
    with pytest.raises(InputError, match="--override-kv"):
        tensor_types.require_pair(pair)


def test_a_plan_that_departs_from_what_was_asked_for() -> None:
    def heeded(given: TypeRecipe | None, *patterns: str, **after: str) -> None:
        overrides = Overrides(tuple((pattern, "Q8_0") for pattern in patterns))
        tensor_types.require_heeded(plan(**after), overrides, given)

    heeded(None, "ATTN_V", "norm")
    heeded(recipe("Q4_K_M", v="Q5_0"))
    with pytest.raises(InputError, match="nope=Q8_0 matches no tensor") as refused:
        heeded(None, "attn_v", "nope")
    assert "attn_v, ffn_down" in str(refused.value.hint)
    with pytest.raises(InputError, match=r"names blk\.7\.attn_v\.weight, which the model lacks"):
        heeded(recipe("Q4_K_M", gone="Q5_0"))
    with pytest.raises(InputError, match=r"makes blk\.0\.attn_norm\.weight Q5_0, llama-quantize F32"):
        heeded(recipe("Q4_K_M", norm="Q5_0"))
    with pytest.raises(InputError, match=r"no type for token_embd\.weight, and names no type of the file"):
        heeded(recipe(v="Q5_0"))
    floats = recipe("Q4_K_M", norm="F16", v="Q5_0")
    heeded(floats)
    assert tensor_types.left_as_they_are(plan(), floats) == ["blk.0.attn_norm.weight"]


def test_what_is_pruned_is_not_counted() -> None:
    assert tensor_types.n_pruned(header(), Overrides(prune_layers=(1,))) == 2
    whole = plan()
    of_one_type = replace(whole, tensors=tuple(replace(t, after="Q4_0") for t in whole.tensors[3:5]))
    assert tensor_types.bpw(of_one_type) == 4.5


def test_parameters_that_are_not_used_do_not_appear() -> None:
    assert QuantizeParams("Q4_0").to_params() == {"type": "Q4_0", "allow_requantize": False}
    used = QuantizeParams("Q4_0", False, {"pure": True}, "ab").to_params()
    assert used["overrides"] == {"pure": True}
    assert used["recipe"] == "ab"
