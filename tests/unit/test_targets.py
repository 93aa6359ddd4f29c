"""Types that are not llama-quantize's own: how they are typed, and what their files are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core.errors import UsageError
from ggufkit.core.manifest import manifest_path, read_manifest, write_manifest
from ggufkit.core.records import Target
from ggufkit.llama import targets
from ggufkit.steps import refine
from tests.fake_results import FAKES, write_results
from tests.unit.test_quants import KNOWN


def target(text: str) -> Target:
    (kind,) = targets.resolve((text,), KNOWN)
    assert kind.target is not None
    assert kind.name == kind.target.label
    return kind.target


@pytest.mark.parametrize(
    ("typed", "label", "spec"),
    [
        ("4.5bpw", "4.50bpw", "4.5bpw"),
        (" 4.50 BPW ", "4.50bpw", "4.5bpw"),
        ("4.525bpw", "4.525bpw", "4.525bpw"),
        ("6GiB", "6GiB", "6GiB"),
        ("6144mib", "6GiB", "6GiB"),
        ("0.8GB", "800MB", "800MB"),
        ("1.5GiB", "1.5GiB", "1.5GiB"),
        ("4.7g", "4.7GB", "4.7GB"),
        ("5046586573B", "5046586573B", "5046586573B"),
        ("like:q4_k", "like-Q4_K_M", "like:q4_k_m"),
        ("Like: Q4-K-M", "like-Q4_K_M", "like:q4_k_m"),
        ("kld:0.020", "kld-0.02", "kld:0.02"),
        ("recipe:~/there/m-Q4_K_M.gguf", "recipe-m-Q4_K_M", "recipe:m-Q4_K_M.gguf"),
        ("recipe:m-4.50bpw.gguf.recipe.yaml", "recipe-m-4.50bpw", "recipe:m-4.50bpw.gguf.recipe.yaml"),
        ("q4_k+attn_v=q8_0", "Q4_K_M+attn_v=Q8_0", "q4_k_m+attn_v=q8_0"),
        ("q8_0+attn_q=q6_k+ffn_down=Q4_K", "Q8_0+attn_q=Q6_K+ffn_down=Q4_K", "q8_0+attn_q=q6_k+ffn_down=q4_k"),
    ],
)
def test_all_writings_of_the_same_have_one_label(typed: str, label: str, spec: str) -> None:
    found = target(typed)
    assert (found.label, found.spec) == (label, spec)
    if found.kind != "recipe":
        assert target(spec) == found


def test_what_a_target_holds() -> None:
    assert target("4.5bpw").number == 4.5
    assert target("6GiB").number == 6 << 30
    assert target("like:iq2_xs").preset == "IQ2_XS"
    assert target("kld:0.02").number == 0.02
    assert target("recipe:a/b.yaml").file == Path("a/b.yaml")
    mixed = target(r"q4_k_m+blk\.[0-3]+\.attn_V=q8_0+ffn=f16")
    assert (mixed.preset, mixed.tensor_types) == (
        "Q4_K_M",
        ((r"blk\.[0-3]+\.attn_v", "Q8_0"), ("ffn", "F16")),
    )
    assert [target(t).is_measured for t in ("4.5bpw", "like:q8_0", "recipe:a.yaml")] == [True, True, False]
    assert targets.resolve(("q8_0",), KNOWN)[0].target is None


def test_labels_are_safe_and_differ_where_their_originals_do() -> None:
    labels = [
        target(f"q4_k_m+{pattern}=q8_0").label for pattern in ("attn_[qv]", "attn_(q|v)", "attn_qv", "x" * 300)
    ]
    labels += [target("recipe:a b.yaml").label, target("recipe:a/c:b.yaml").label]
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert not set(label) & set(r'\/:*?"<>| []()'), label
        assert len(label) < 100


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("0bpw", "4.5bpw"),
        ("4.5.bpw", "4.5bpw"),
        ("40bpw", "at most 32"),
        ("0GiB", "6GiB"),
        ("9000000TiB", "6GiB"),
        ("4.5", "4.5bpw"),
        ("800", "800MB|6GiB"),
        ("like:", "Known: "),
        ("like:q4km", "Q4_K_M"),
        ("like:f16", "quantized one"),
        ("kld:0", "kld:0.02"),
        ("kld:nan", "kld:0.02"),
        ("kld:0.0000001", "At most 6 decimals"),
        ("recipe:", "recipe:other"),
        ("about:q4_k_m", "like:q4_k_m"),
        ("q4_k_m+attn_v", "attn_v=q8_0"),
        ("q4_k_m+attn_v=q4_k_m", "Q4_K"),
        ("q4_k_m+attn_(=q8_0", "regular expression"),
        (r"q4_k_m+attn_\D=q8_0", "lower case"),
        ("q4_k_m+attn_v=q8_0+", "attn_v=q8_0"),
        ("q4_k_m+=q8_0", "attn_v=q8_0"),
        ("attn_v=q8_0", "attn_v=q8_0"),
        ("f16+attn_v=q8_0", "quantized one"),
    ],
)
def test_bad_values_are_told_what_is_right(typed: str, right: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.resolve((typed,), KNOWN)
    assert any(part in str(caught.value.hint) for part in right.split("|"))


def test_two_of_the_same_are_one_and_two_of_one_name_are_refused() -> None:
    assert len(targets.resolve(("4.5bpw", "4.50bpw", "6GiB", "6144MiB"), KNOWN)) == 2
    with pytest.raises(UsageError, match="recipe-A"):
        targets.resolve(("recipe:x/a.yaml", "recipe:y/A.yaml"), KNOWN)


@pytest.mark.usefixtures("private_cache")
def test_a_file_is_known_by_its_label_also_where_it_is_refined(tmp_path: Path) -> None:
    file = write_results(tmp_path / "out", FAKES[3:4]) / "tiny-Q4_0.gguf"
    made = read_manifest(file)
    assert made is not None
    write_manifest(file, replace(made, notes={**made.notes, "type": "like-Q4_0"}))
    assert refine.type_of(file) == "like-Q4_0"
    manifest_path(file).unlink()
    assert refine.type_of(file) == "REFINED"
