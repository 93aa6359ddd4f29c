"""Pre-tokenizers are named by what tokenizer.json says, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggufkit.core.errors import TokenizerError
from ggufkit.llama.pretokenizers import FAMILIES, TokenizerFile, describe, identify
from tests import tiny


def saved(tmp_path: Path, family: str) -> Path:
    path = tmp_path / "tokenizer.json"
    tiny.train_tokenizer(family, 300).save(str(path))
    return path


@pytest.mark.parametrize("family", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_a_retrained_vocabulary_keeps_its_family(tmp_path: Path, family: str) -> None:
    assert identify(saved(tmp_path, family)) == family


def test_unknown_splitting_is_refused_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="none that ggufkit can name") as caught:
        identify(saved(tmp_path, "whitespace"))
    assert "--pre NAME" in str(caught.value.hint)
    assert any(f.name in str(caught.value.hint) for f in FAMILIES)


def test_a_vocabulary_without_its_splitting(tmp_path: Path) -> None:
    """As vocab.json and merges.txt are, which tokenizers in Python alone wrote."""
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json, which tells how text is split") as caught:
        identify(tmp_path / "tokenizer.json")
    assert f"from_pretrained('{tmp_path}').save_pretrained('{tmp_path}')" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_a_prefix_space_is_another_splitting(tmp_path: Path) -> None:
    path = saved(tmp_path, "gpt-2")
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError):
        identify(path)


def test_whole_words_matter(tmp_path: Path) -> None:
    """A tokenizer that takes known words whole cannot be a family whose words are always merged."""
    path = saved(tmp_path, "gpt-2")
    content = json.loads(path.read_text())
    content["model"]["ignore_merges"] = True
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError):
        identify(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "Unigram"}}'])
def test_what_is_no_bpe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(TokenizerError):
        identify(path)
    with pytest.raises(TokenizerError):
        identify(tmp_path / "none.json")


def test_every_family_is_told_apart() -> None:
    assert len({family.steps for family in FAMILIES}) == len(FAMILIES)
    assert describe(TokenizerFile()) == ("{}",)
