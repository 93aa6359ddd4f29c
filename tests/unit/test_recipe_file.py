"""Recipes of types: written as YAML and read back, from a GGUF, from llama.cpp's list; and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.core.errors import GgufError, InputError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import GgufFile
from ggufkit.llama import quants
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.pipeline.chosen import warn_of_another_base
from ggufkit.recipes.recipe_file import as_yaml, parse_recipe, read_recipe, write_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe

TENSORS = {"token_embd.weight": "F16", "blk.0.attn_norm.weight": "F32", "blk.0.attn_v.weight": "F16"}


def write(
    path: Path, types: dict[str, str], *, split: tuple[int, int] | None = None, file_type: int = 15, rows: int = 4
) -> Path:
    """A GGUF with tensors of these types."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
    for name, kind in types.items():
        row = np.ones(64 if "norm" in name else (rows, 64), np.float32)
        known = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(row, known), raw_dtype=known)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def base(tmp_path: Path) -> GgufHeader:
    return read_header(write(tmp_path / "base.gguf", TENSORS))


names = st.from_regex(r"(blk\.[0-9]{1,2}\.)?[a-z_0-9]{1,12}\.weight", fullmatch=True) | st.text(
    min_size=1, max_size=9
)
losses = st.none() | st.floats(allow_nan=False, allow_infinity=False)
choices = st.builds(
    Choice, names, st.sampled_from(quants.TENSOR_TYPES), st.integers(0, 1 << 40), losses, st.text(max_size=30)
)


@given(
    st.builds(
        TypeRecipe,
        st.lists(choices, min_size=1, max_size=5, unique_by=lambda choice: choice.tensor).map(tuple),
        st.sampled_from(["", "Q4_K_M", "NO"]),
        st.text(max_size=20),
        st.none() | st.integers(0, 1 << 50),
        losses,
        st.dictionaries(st.text(max_size=9), st.text(max_size=70), max_size=3),
        st.lists(st.text(max_size=50), max_size=3).map(tuple),
    )
)
def test_what_is_written_is_read_back(recipe: TypeRecipe) -> None:
    assert parse_recipe(as_yaml(recipe).encode(), "x") == recipe


def test_by_hand_a_name_and_a_type_are_enough(tmp_path: Path, base: GgufHeader) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("tensors:\n  token_embd.weight: q8_0\n  blk.0.attn_v.weight: {type: F16}\nversion: 1\n")
    assert dict(read_recipe(file, base).types) == {"token_embd.weight": "Q8_0", "blk.0.attn_v.weight": "F16"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("version: 1\ntensors: {", "not valid YAML"),
        ("- 1", "no mapping"),
        ("version: 2\nlater: 1", "version 2; this ggufkit reads version 1"),
        ("version: 1\ntensors: {}", "names no tensor"),
        ("version: 1\ntensors: {a: Q4_KM}", "'Q4_KM'"),
        ("version: 1\ntensors: {a: Q8_1}", "'Q8_1'"),
        ("version: 1\ntensors: {a: Q4_0}\nfile_typ: Q4_0", "'file_typ'"),
        ("version: 1\ntensors: {a: {type: Q4_0, byte: 3}}", "'byte'"),
        ("version: 1\ntensors: {a: {type: Q4_0, bytes: -3}}", "-3 bytes"),
        ("version: 1\ntensors: {a: {type: Q4_0, loss: .nan}}", "loss of nan"),
        ("version: 1\ntensors: {a: Q4_0, b: Q4_0, a: Q8_0}", "names a twice"),
        ("version: 1\ntensors: {a: &x Q4_0, b: *x}", "uses anchors"),
        ("version: 1\ntensors: !!python/object:os.system {}", "not valid YAML"),
        ("version: 1\ntensors: " + "[" * 40, "nested more than 20 deep"),
        ("version: 1\ntensors: {a: Q4_0}\n---\nb: 1", "not valid YAML"),
        ("version: 1\nremarks: [" + "a," * 120_000 + "]\ntensors: {a: Q4_0}", "longer than"),
        ("\xff", "not valid YAML"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, base: GgufHeader, text: str, said: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r".*") as refused:
        read_recipe(file, base)
    assert said in refused.value.message
    assert str(file) in refused.value.message
    assert refused.value.hint


def test_the_types_of_a_gguf_are_copied(tmp_path: Path, base: GgufHeader) -> None:
    other = {"token_embd.weight": "BF16", "blk.0.attn_norm.weight": "F32", "blk.0.attn_v.weight": "Q8_0"}
    recipe = read_recipe(write(tmp_path / "other.gguf", other), base)
    assert dict(recipe.types) == {"token_embd.weight": "BF16", "blk.0.attn_v.weight": "Q8_0"}
    assert (recipe.file_type, recipe.target) == ("Q4_K_M", "recipe:other.gguf")
    assert read_recipe(write(tmp_path / "f.gguf", other, file_type=1), base).file_type == "", (
        "a float type, which is none"
    )


def test_a_split_gguf_is_copied_from_any_of_its_parts(tmp_path: Path, base: GgufHeader) -> None:
    embedding, *layer = TENSORS
    first = write(tmp_path / "o-00001-of-00002.gguf", {embedding: "Q8_0"}, split=(0, 2))
    second = write(tmp_path / "o-00002-of-00002.gguf", {layer[0]: "F32", layer[1]: "Q4_0"}, split=(1, 2))
    expected = {embedding: "Q8_0", layer[1]: "Q4_0"}
    assert dict(read_recipe(first, base).types) == dict(read_recipe(second, base).types) == expected
    first.unlink()
    with pytest.raises(GgufError, match="00001-of-00002"):
        read_recipe(second, base)
    with pytest.raises(InputError, match="not called so"):
        read_recipe(second.rename(tmp_path / "o.gguf"), base)


def test_the_types_of_another_model_are_refused(tmp_path: Path, base: GgufHeader) -> None:
    more = write(tmp_path / "more.gguf", {**TENSORS, "output.weight": "Q8_0"})
    with pytest.raises(InputError, match=r"more\.gguf has output\.weight, which .*base\.gguf lacks"):
        read_recipe(more, base)
    with pytest.raises(InputError, match=r"more\.gguf has output\.weight, which .*base\.gguf lacks"):
        read_recipe(base.path, read_header(more))
    with pytest.raises(InputError, match=r"token_embd.weight is 64 × 5 in .*longer.gguf, 64 × 4 in the base"):
        read_recipe(write(tmp_path / "longer.gguf", TENSORS, rows=5), base)


def test_llama_cpps_list_means_the_first_pattern_that_is_found(tmp_path: Path, base: GgufHeader) -> None:
    file = tmp_path / "types.txt"
    file.write_text("Attn_V=q8_0\n.*=q4_0 attn=q5_0\n")
    recipe = read_recipe(file, base)
    assert dict(recipe.types) == {"token_embd.weight": "Q4_0", "blk.0.attn_v.weight": "Q8_0"}
    assert [choice.n_bytes for choice in recipe.choices] == [4 * 2 * 18, 4 * 2 * 34]
    for text, said in (("attn_v=q8_0 nope=q4_0", "'nope' is found in no name"), ("attn_v=q8_0 x", "gives no tensor a type"),
                       ("attn_v=q8_9", "'q8_9'"), ("(=q8_0", "no regular expression")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(InputError, match=r".*") as refused:
            read_recipe(file, base)
        assert said in refused.value.message


def test_a_recipe_that_is_not_there(tmp_path: Path, base: GgufHeader) -> None:
    for path, said in ((tmp_path / "no.yaml", "not there"), (tmp_path, "a directory")):
        with pytest.raises(InputError, match=said):
            read_recipe(path, base)


def test_a_recipe_says_what_is_in_it(tmp_path: Path) -> None:
    recipe = TypeRecipe((Choice("blk.0.attn_v.weight", "Q6_K", 96, 1e-7, "it pays"),), "Q4_K_M", "like:q4_k_m")
    write_recipe(recipe, tmp_path / "a.recipe.yaml")
    text = (tmp_path / "a.recipe.yaml").read_text()
    assert '  blk.0.attn_v.weight: {type: Q6_K, bytes: 96, loss: 1.0e-07, why: "it pays"}\n' in text
    assert "file_type: Q4_K_M  # the type that llama-quantize is given" in text
    assert "size_bytes" not in text, "what is unknown is missing"
    assert math.isclose(parse_recipe(text.encode(), "x").choices[0].loss or 0, 1e-7)


@pytest.mark.parametrize(
    ("base", "warned"),
    [(f"m-F16.gguf {'a' * 64}", False), (f"m-F16.gguf {'b' * 64}", True), ("what I had", False), ("", False)],
)
def test_types_that_were_measured_on_another_file(base: str, warned: bool) -> None:
    teller = SilentReporter()
    recipe = TypeRecipe(
        (Choice("output.weight", "Q6_K"),), target="4.5bpw", measured_on={"base": base} if base else {}
    )
    file = GgufFile(Path("mine-F16.gguf"), 1, "llama", "F16", 1, 2, {}, "a" * 64)
    warn_of_another_base(recipe, file, teller)
    warn_of_another_base(None, file, teller)
    said = "The types of 4.5bpw were measured on m-F16.gguf, not on mine-F16.gguf: there they may lose more than others."
    assert teller.warnings == ([said] if warned else [])
