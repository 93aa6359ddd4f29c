"""What a build tells llama-quantize besides types: for which files, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufkit.core import variants
from ggufkit.core.errors import GgufkitError, InputError, UsageError
from ggufkit.core.records import QuantType
from ggufkit.llama.argv import Overrides
from ggufkit.pipeline import overridden
from ggufkit.request import BuildRequest


def told(types: tuple[str, ...] = ("q4_0",), asked: tuple[str, ...] = ("plain",), **options: Any) -> Overrides:
    return overridden.require_used(BuildRequest("x", types=types, **options), variants.resolve(asked))


def test_options_become_what_llama_quantize_is_told(tmp_path: Path) -> None:
    (tmp_path / "types.txt").write_text("b=q5_0 c=iq4_nl")
    given = told(tensor_type=("a=q8_0",), tensor_type_file=str(tmp_path / "types.txt"), output_tensor_type="Q6_k",
                 override_kv=("a=int:1",), prune_layers=(3, 1, 3), pure=True)  # fmt: skip
    pairs = (("a", "Q8_0"), ("b", "Q5_0"), ("c", "IQ4_NL"))
    assert given == Overrides(pairs, output="Q6_K", pure=True, kv=("a=int:1",), prune_layers=(1, 3))
    assert overridden.of_kind(given, QuantType("F16", "")) == overridden.NONE
    assert overridden.of_kind(given, QuantType("Q4_0", "")) == given
    assert overridden.of_whole_model(given).prune_layers == ()
    assert overridden.shown(Overrides((("a b", "Q8_0"),))) == "--tensor-type 'a b=q8_0'"


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"tensor_type": ("a=q8_1",)}, InputError, "no type 'q8_1' of tensors"),
        ({"tensor_type_file": "/no/such/file"}, InputError, "cannot be read"),
        ({"token_embedding_type": "q4_k_m"}, InputError, "is a type of files"),
        ({"override_kv": ("a",)}, InputError, "--override-kv a"),
        ({"types": ("f16", " BF16"), "pure": True}, UsageError, "float types are conversions"),
        ({"asked": ("plain", "awq+gptq"), "prune_layers": (1,)}, UsageError, "cannot go with --variants awq+gptq"),
        ({"types": ("q4_0", "4.5bpw"), "pure": True}, UsageError, "the file for 4.5bpw"),
        ({"types": ("recipe:a.yaml",), "tensor_type": ("a=q8_0",)}, UsageError, "the file for recipe:a.yaml"),
        ({"fits": 1 << 30, "leave_output_tensor": True}, UsageError, "the file for --fits"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_looked_up(
    given: dict[str, Any], kind: type[GgufkitError], said: str
) -> None:
    with pytest.raises(kind, match=r".*") as refused:
        told(**given)
    assert said in refused.value.message
    assert refused.value.hint


def test_metadata_may_be_set_of_any_file() -> None:
    assert told(("q4_0", "4.5bpw", "recipe:a.yaml"), override_kv=("a=int:1",), fits=1 << 30) == Overrides(
        kv=("a=int:1",)
    )
    assert told(("q4_0+a=q8_0",), tensor_type=("b=q8_0",)) == Overrides((("b", "Q8_0"),))
