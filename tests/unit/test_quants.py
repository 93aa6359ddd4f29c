"""Names of types, what they promise, and variants."""

from __future__ import annotations

import pytest

from ggufkit.core import variants
from ggufkit.core.errors import UnknownType, UsageError
from ggufkit.core.records import QuantType
from ggufkit.llama import quants
from ggufkit.llama.logs import parse_types

HELP = """
 allowed quantization types
-----------------------------------------------------------------------------

   2  or  Q4_0    :  4.34G, +0.4685 ppl @ Llama-3-8B
  38  or  MXFP4_MOE :  MXFP4 MoE
  20  or  IQ2_XS  :  2.31 bpw quantization
  15  or  Q4_K    : alias for Q4_K_M
  14  or  Q4_K_S  :  4.37G, +0.2689 ppl @ Llama-3-8B
  15  or  Q4_K_M  :  4.58G, +0.1754 ppl @ Llama-3-8B
   7  or  Q8_0    :  7.96G, +0.0026 ppl @ Llama-3-8B
   1  or  F16     : 14.00G, +0.0020 ppl @ Mistral-7B
   0  or  F32     : 26.00G              @ 7B
          COPY    : only copy tensors, no quantizing
"""
KNOWN = parse_types(HELP)


def names(*wanted: str) -> list[str]:
    return [t.name for t in quants.resolve(wanted, KNOWN)]


@pytest.mark.parametrize(
    ("tensor", "after", "kind", "needed"),
    [
        ("blk.0.ffn_up.weight", "IQ2_XS", "IQ2_XS", True),
        ("blk.0.ffn_down.weight", "Q2_K", "IQ2_XS", False),
        ("blk.0.ffn_up.weight", "Q2_K", "Q2_K_S", True),
        ("output.weight", "IQ2_XS", "IQ2_XS", False),
        ("token_embd.weight", "IQ3_XXS", "IQ3_XXS", False),
    ],
)
def test_tensors_that_must_be_in_the_matrix(tensor: str, after: str, kind: str, needed: bool) -> None:
    assert quants.needs_data(tensor, after, kind) == needed


def test_any_case_aliases_and_duplicates() -> None:
    assert names("q4_k_m", "Q4_K", " q4-k-m ", "f16") == ["Q4_K_M", "F16"]


@pytest.mark.parametrize(
    ("typed", "near"), [("q4km", "Q4_K_M"), ("q8", "Q8_0"), ("fp16", "F16"), ("iq2xs", "IQ2_XS")]
)
def test_the_nearest_names_are_offered(typed: str, near: str) -> None:
    with pytest.raises(UnknownType) as caught:
        names(typed)
    assert near in str(caught.value.hint)


def test_copy_is_no_type() -> None:
    with pytest.raises(UnknownType):
        names("copy")


def test_what_a_name_promises() -> None:
    promised = {t.name: quants.nominal_bpw(t) for t in KNOWN}
    assert promised["Q4_K_M"] == pytest.approx(4.90, abs=0.01)
    assert promised["Q8_0"] == pytest.approx(8.5, abs=0.02)
    assert promised["IQ2_XS"] == 2.31
    assert promised["MXFP4_MOE"] is None


def test_smaller_types_are_general_purpose_and_close() -> None:
    assert [t.name for t in quants.smaller_types(KNOWN, 4.9)] == ["Q4_K_M", "Q4_K_S", "Q4_0"]


def test_variants_keep_the_table_s_order_and_name_files() -> None:
    found = variants.resolve(("imatrix+awq", "PLAIN"))
    assert [v.name for v in found] == ["plain", "awq+imatrix"]
    assert variants.file_name("m", found[0], "Q4_K_M") == "m-Q4_K_M.gguf"
    assert variants.file_name("m", found[1], "Q4_K_M") == "m-awq-imatrix-Q4_K_M.gguf"
    assert variants.BY_NAME["awq"].has_float_types
    assert not variants.BY_NAME["gptq"].has_float_types
    with pytest.raises(UsageError, match="no variant 'shiny'"):
        variants.resolve(("shiny",))


def test_hashable() -> None:
    assert len({QuantType("A", ""), QuantType("A", "")}) == 1
