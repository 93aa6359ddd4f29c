"""The aliases: complete, unambiguous, and leading to both hubs."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ggufkit.core.errors import UsageError
from ggufkit.hub import names
from ggufkit.hub.names import aliases, find_alias, matching, on_huggingface, places

FAMILIES = {
    "Qwen2.5", "Qwen3", "Llama 3", "Gemma 2", "Gemma 3", "Phi-3", "Phi-4", "Mistral", "SmolLM2",
    "DeepSeek-R1-Distill",
}  # fmt: skip
ID = re.compile(r"[\w.-]+/[\w.-]+")


def test_every_family_is_there() -> None:
    assert {alias.family for alias in aliases()} == FAMILIES


@pytest.mark.parametrize("alias", aliases(), ids=lambda a: a.name)
def test_an_alias_is_whole(alias: names.Alias) -> None:
    assert re.fullmatch(r"[a-z0-9.-]+", alias.name)
    assert ID.fullmatch(alias.huggingface)
    assert alias.modelscope is not None
    assert ID.fullmatch(alias.modelscope)
    assert alias.architecture.endswith(("ForCausalLM", "ForConditionalGeneration"))
    size = re.search(r"(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", alias.name)
    if size is not None and "distill" not in alias.name:
        stated = float(size[1]) * (1e9 if size[2] == "b" else 1e6)
        assert 0.65 * stated < alias.n_params < 1.35 * stated


def test_no_two_aliases_are_the_same() -> None:
    for key in ("name", "huggingface", "modelscope"):
        counts = Counter(getattr(alias, key) for alias in aliases())
        assert counts.most_common(1)[0][1] == 1, key
    assert len({names._key(alias.name) for alias in aliases()}) == len(aliases())


@pytest.mark.parametrize(
    "name", ["qwen2.5-0.5b", "llama3.1-8b", "gemma2-2b", "gemma3-1b", "mistral-7b", "smollm2-135m"]
)
def test_a_family_has_its_base_model(name: str) -> None:
    base = find_alias(f"{name}-base")
    assert base is not None
    assert not base.huggingface.endswith(("-Instruct", "-it"))


@pytest.mark.parametrize(
    "written", ["qwen2.5-0.5b", "Qwen2.5-0.5B", "qwen2.5:0.5b", "Qwen2.5-0.5B-Instruct", "QWEN2.5_0.5B"]
)
def test_spelling_does_not_matter(written: str) -> None:
    found = find_alias(written)
    assert found is not None
    assert found.huggingface == "Qwen/Qwen2.5-0.5B-Instruct"


def test_filters_by_any_word() -> None:
    assert {a.family for a in matching("qwen3 base")} == {"Qwen3"}
    assert all(a.name.endswith("-base") for a in matching("qwen3 base"))
    assert matching("LlamaForCausalLM smollm2")
    assert matching("no-such-thing") == []
    assert len(matching()) == len(aliases())


def where(model: str, source: str = "auto") -> list[str]:
    return [f"{place.hub.KEY}:{place.repo}" for place in places(model, source)]


def test_places_in_order() -> None:
    both = ["hf:meta-llama/Llama-3.2-1B-Instruct", "ms:LLM-Research/Llama-3.2-1B-Instruct"]
    assert where("llama3.2-1b") == both
    assert where("meta-llama/Llama-3.2-1B-Instruct") == both
    assert where("llama3.2-1b", "hf") == both[:1]
    assert where("llama3.2-1b", "modelscope") == both[1:]
    assert where("ms:LLM-Research/Llama-3.2-1B-Instruct") == both[1:]


def test_an_unknown_id_is_looked_for_where_it_was_said_to_be() -> None:
    assert where("acme/llama-22m") == ["hf:acme/llama-22m"]
    assert where("acme/llama-22m", "modelscope") == ["ms:acme/llama-22m"]
    assert where("ms:acme/llama-22m@v1") == ["ms:acme/llama-22m@v1"]


def test_a_revision_belongs_to_one_hub() -> None:
    assert where("qwen2.5-0.5b@v2") == ["hf:Qwen/Qwen2.5-0.5B-Instruct@v2"]
    assert where("acme/x@refs/pr/1") == ["hf:acme/x@refs/pr/1"]


def test_contradictions_are_usage_errors() -> None:
    with pytest.raises(UsageError):
        places("ms:acme/x", "hf")


@pytest.mark.parametrize("model", ["", "x", "/tmp/x", "a/b/c", "../x", "a b/c", "acme/../x", "-a/b", "acme/.x"])
def test_what_is_no_hub_s_name(model: str) -> None:
    assert places(model) == []


def test_near_names_are_suggested() -> None:
    assert "qwen2.5-0.5b" in str(names.unknown("qwen2.5-0.5").hint)


def test_a_modelscope_source_has_its_name_on_hugging_face() -> None:
    assert on_huggingface("ms:LLM-Research/Llama-3.2-1B-Instruct") == "meta-llama/Llama-3.2-1B-Instruct"
    assert on_huggingface("ms:acme/x") == "acme/x"
    assert on_huggingface("acme/x") == "acme/x"
