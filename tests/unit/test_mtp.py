"""Layers that predict further tokens: which they are, the type they get, and what a checkpoint says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import CheckpointError, InputError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Checkpoint, Json, QuantType, Tensor
from ggufkit.llama import kinship, memory, mtp, patterns
from ggufkit.llama.argv import Conversion, Overrides
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.logs import QuantizePlan, TensorPlan
from ggufkit.models import mtp as stored
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.steps import quantize, tensor_types, whole
from ggufkit.steps.convert import ConvertParams
from ggufkit.steps.quantize import QuantizeOptions
from tests import tiny

Q4 = QuantType("Q4_K_M", "")


def header(*names: str, **told: Json) -> GgufHeader:
    tensors = tuple(Tensor(f"{name}.weight", (256, 256), "F16", 0, 256 * 256, 2 * 256 * 256) for name in names)
    sizes = {"block_count": 6, "embedding_length": 256, "attention.head_count": 4, **told}
    metadata: dict[str, Json] = {
        "general.architecture": "glm4moe",
        **{f"glm4moe.{n}": v for n, v in sizes.items()},
    }
    return GgufHeader(Path("m.gguf"), 3, metadata, tensors, 0, 32, 0)


WHOLE = ("token_embd", *(f"blk.{i}.attn_v" for i in range(6)), "blk.4.nextn.eh_proj", "blk.5.nextn.eh_proj")
PLAIN = WHOLE[:-2]
ALONE = ("token_embd", "output", "blk.5.attn_v", "blk.5.nextn.eh_proj")


def test_which_layers_they_are() -> None:
    assert mtp.layers(header(*WHOLE)) == (4, 5)
    assert mtp.tensors(header(*WHOLE)) == {
        f"blk.{n}.weight" for n in ("4.attn_v", "5.attn_v", "4.nextn.eh_proj", "5.nextn.eh_proj")
    }
    assert mtp.n_run(header(*WHOLE)) == 4
    assert mtp.layers(header(*PLAIN)) == ()
    assert mtp.tensors(header(*PLAIN)) == frozenset()
    assert [mtp.drafts_alone(header(*names)) for names in (WHOLE, PLAIN, ALONE, ())] == [False, False, True, False]
    assert memory.kv_bytes(header(*ALONE), 100) * 6 == memory.kv_bytes(header(*WHOLE), 100), "one layer of six"


def test_the_type_they_get() -> None:
    base = header(*WHOLE)
    ((pattern, kind),) = mtp.types(base, "IQ2_XS")
    assert kind == "Q8_0"
    found = [t.name for t in base.tensors if patterns.is_found(pattern, t.name)]
    assert set(found) == mtp.tensors(base)
    assert mtp.types(base, "F16") == mtp.types(header(*PLAIN), "Q4_K_M") == ()
    assert mtp.types(base, "Q4_K_M", pruned=(1, 5)) == ((r"^blk\.(3)\.", "Q8_0"),), "those after are counted anew"


def test_a_users_own_wish_comes_first() -> None:
    base, wish = header(*WHOLE), Overrides((("nextn", "Q4_K"),))
    told = tensor_types.with_mtp(wish, base, "Q4_K_M")
    assert told.tensor_types == (("nextn", "Q4_K"), *mtp.types(base, "Q4_K_M"))
    assert tensor_types.with_mtp(pure := Overrides(pure=True), base, "Q4_K_M") == pure
    assert tensor_types.with_mtp(Overrides(), header(*PLAIN), "Q4_K_M") == Overrides()
    plan = QuantizePlan(
        tuple(TensorPlan(t.name, t.shape, t.type, "Q8_0") for t in base.tensors), 8.5, 0, (), False
    )
    silent = TypeRecipe(tuple(Choice(t.name, "Q8_0") for t in base.tensors if t.name not in mtp.tensors(base)))
    tensor_types.require_heeded(plan, Overrides(), silent, mtp.tensors(base))
    with pytest.raises(InputError, match=r"The recipe has no type for blk\.4\.attn_v\.weight"):
        tensor_types.require_heeded(plan, Overrides(), silent)


def test_the_manifest_says_it_where_there_are_some() -> None:
    def params(base: GgufHeader, options: QuantizeOptions | None = None) -> dict[str, Json]:
        return quantize.params_of(Q4, options or QuantizeOptions(), base).to_params()

    assert params(header(*WHOLE)) == {**params(header(*PLAIN)), "mtp": "Q8_0"}
    assert "mtp" not in params(header(*PLAIN))
    assert "mtp" not in params(header(*WHOLE), QuantizeOptions(overrides=Overrides(pure=True)))
    assert "Layers 4 to 5 predict" in mtp.remark(header(*WHOLE))
    assert "Layer 5 predicts" in mtp.remark(header(*ALONE))
    assert mtp.remark(header(*PLAIN)) == ""


def test_a_publisher_s_file_may_lack_them() -> None:
    assert kinship.strangeness(header(*PLAIN[:5]), header(*WHOLE)) == []
    assert kinship.strangeness(header(*WHOLE), header(*PLAIN[:5])) == []
    assert "it lacks blk.3.attn_v.weight" in kinship.strangeness(header(*PLAIN[:4]), header(*WHOLE))[0]


@pytest.mark.parametrize(
    ("names", "config", "is_stored"),
    [
        (["mtp.fc.weight"], {}, True),
        (["model.mtp.layers.0.eh_proj.weight"], {}, True),
        (["model.layers.46.mlp.up_proj.weight"], {"num_hidden_layers": 46}, True),
        (["model.language_model.layers.4.mlp.up_proj.weight"], {"text_config": {"num_hidden_layers": 4}}, True),
        (["model.layers.45.mlp.up_proj.weight", "lm_head.weight"], {"num_hidden_layers": 46}, False),
        (["vision.layers.60.mlp.weight"], {"num_hidden_layers": 46}, False),
    ],
)
def test_whether_a_checkpoint_has_some(names: list[str], config: dict[str, Any], is_stored: bool) -> None:
    assert stored.are_stored(names, config) == is_stored


def test_whether_it_says_so() -> None:
    assert stored.are_announced({"text_config": {"mtp_num_hidden_layers": 1}})
    assert stored.are_announced({"num_nextn_predict_layers": 1})
    assert not stored.are_announced({"num_nextn_predict_layers": 0})


def test_what_the_converter_is_told() -> None:
    assert Conversion("f16", "m").options() == ["--outtype", "f16", "--model-name", "m"]
    assert Conversion("f16", "m", "gpt-2", mtp=False).options()[-3:] == ["--pre", "gpt-2", "--no-mtp"]
    assert "mtp" not in ConvertParams("f16", "m").to_params()
    assert ConvertParams("f16", "m", mtp=False).to_params()["mtp"] is False


def test_a_wish_that_the_file_does_not_fulfil(tmp_path: Path) -> None:
    def of(path: Path) -> Checkpoint:
        return Checkpoint(path, path.name, str(path), None, "Qwen3_5ForCausalLM", 1, 1)

    some, none = of(tiny.write_qwen35(tmp_path / "some")), of(tiny.write_qwen35(tmp_path / "none", mtp="none"))
    whole.require_mtp(some, header(*WHOLE), True)
    whole.require_mtp(none, header(*PLAIN), None)
    for checkpoint, made, wanted, said in (
        (some, PLAIN, True, "converter leaves the MTP layers of"),
        (none, PLAIN, True, "has no MTP layers"),
        (some, WHOLE, False, "cannot leave the MTP layers of"),
    ):
        with pytest.raises(CheckpointError, match=said) as refused:
            whole.require_mtp(checkpoint, header(*made), wanted)
        assert refused.value.hint
    heard = SilentReporter()
    for checkpoint, made, wanted in (
        (some, WHOLE, True),
        (some, PLAIN, True),
        (none, PLAIN, True),
        (none, PLAIN, False),
    ):
        whole.tell_of_mtp(checkpoint, header(*made), heard, wanted=wanted)
    assert [said.partition(",")[0] for said in heard.warnings] == [
        "llama.cpp's converter leaves the MTP layers of some out: it knows none of its kind.",
        "none has no MTP layers",
    ]
