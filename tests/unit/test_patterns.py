"""Patterns of tensors' names as llama-quantize understands them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.core.errors import InputError
from ggufkit.llama import patterns


def test_a_recipe_is_told_in_patterns_of_one_name_each() -> None:
    told = patterns.exactly({"blk.0.attn_q.weight": "Q4_K", "output.weight": "Q6_K"})
    assert told == ((r"^blk\.0\.attn_q\.weight$", "Q4_K"), (r"^output\.weight$", "Q6_K"))
    assert not patterns.is_found(told[0][0], "blk.10.attn_q.weight")


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0\n"), min_size=1, max_size=20
    )
)
def test_such_a_pattern_survives_what_the_tool_does_to_it(name: str) -> None:
    ((pattern, _),) = patterns.exactly({name: "Q4_0"})
    assert "=" not in pattern
    assert pattern == pattern.lower()
    assert re.search(pattern.encode(), name.encode(), re.DOTALL) is not None


def test_pairs_as_they_are_typed(tmp_path: Path) -> None:
    assert patterns.pair("Attn_V=q8-0", "x") == ("Attn_V", "Q8_0")
    assert patterns.is_found("Attn_V", "blk.3.attn_v.weight")
    file = tmp_path / "types.txt"
    file.write_text("a=q4_k\n\tb.*c=IQ4_NL ")
    assert patterns.read_pairs(file) == (("a", "Q4_K"), ("b.*c", "IQ4_NL"))


@pytest.mark.parametrize(
    ("word", "said", "hint"),
    [
        ("attn_v", "gives no tensor a type", "PATTERN=TYPE"),
        ("=q8_0", "gives no tensor a type", "PATTERN=TYPE"),
        ("attn_v=", "gives no tensor a type", "PATTERN=TYPE"),
        ("attn_v=q4_k_m", "is a type of files", "Q4_K"),
        ("attn_v=q8", "no type 'q8' of tensors", "Q8_0"),
        ("attn_(v=q8_0", "no regular expression", "attn_v"),
        (r"attn_\D=q8_0", r"'\\D'", "lower case"),
        ("[[:digit:]]=q8_0", "'[['", "lower case"),
        ("[]a]=q8_0", "'[]'", "lower case"),
        ("attn.*+=q8_0", "'*+'", "lower case"),
        ("(?i)attn=q8_0", "'(?'", "lower case"),
        ("(?=attn)=q8_0", "'(?'", "lower case"),
    ],
)
def test_what_is_none_is_refused(word: str, said: str, hint: str) -> None:
    with pytest.raises(InputError, match=r".*") as refused:
        patterns.pair(word, "--tensor-type")
    assert said in refused.value.message
    assert hint in str(refused.value.hint)


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(" \n")
    with pytest.raises(InputError, match="is empty"):
        patterns.read_pairs(tmp_path / "x")
