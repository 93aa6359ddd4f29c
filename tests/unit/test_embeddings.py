"""What llama-embedding prints, which passages are compared, and which models give embeddings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ggufkit.core.errors import InputError, ToolchainError, ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import embedding_tool, evaluates, pretokenizers
from ggufkit.llama.embeddings import cosine, parse_embeddings
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.launcher import original_ids
from ggufkit.measure.similarity import passages
from ggufkit.models import token_ids
from tests import tiny

LOG = Path(__file__).parents[1] / "logs" / "embedding-cpu-bert-F16.json"


def printed(stdout: str) -> ToolOutput:
    return ToolOutput(("llama-embedding",), 0, stdout, "", 1.0, Path("x.log"))


def test_what_the_tool_printed() -> None:
    one, other = parse_embeddings(printed(LOG.read_text()))
    assert (len(one), one[0]) == (64, -0.0486119)
    assert cosine(one, one) == pytest.approx(1.0, abs=1e-12)
    assert -1 <= cosine(one, other) < 0.999


@pytest.mark.parametrize("text", ["", "[]", "[[]]", "[[1.0,2.0],[1.0]]", "[[1.0,2.0]", '{"a": 1}', '[["x"]]'])
def test_output_that_is_no_embedding(text: str) -> None:
    with pytest.raises(ToolOutputError):
        parse_embeddings(printed(text))


@pytest.mark.parametrize("odd", ["nan", "-nan", "inf"])
def test_what_is_no_number_is_no_embedding(odd: str) -> None:
    assert math.isnan(parse_embeddings(printed(f"[[0.1,{odd}]]"))[0][0])


def test_cosine_of_nothing() -> None:
    assert cosine([0.0, 0.0], [1.0, 0.0]) == 0.0
    assert cosine([1.0, 0.0], [-2.0, 0.0]) == -1.0


def test_passages_are_from_all_over_the_text_and_not_too_long() -> None:
    lines = [f"line {n} " + "ä" * 300 for n in range(100)]
    found = passages("short\n\n" + "\n".join(lines), 10, 100)
    assert [line.split()[1] for line in found] == [str(n) for n in range(0, 100, 10)]
    assert all(90 < len(line.encode()) <= 100 for line in found)
    assert passages("short\n" + lines[0], 10) == [lines[0].encode()[:400].decode(errors="ignore")]


def header(architecture: str, **metadata: int) -> GgufHeader:
    told = {f"{architecture}.{key}": value for key, value in metadata.items()}
    return GgufHeader(Path("x.gguf"), 3, {"general.architecture": architecture, **told}, (), 0, 32, 0)


@pytest.mark.parametrize(
    ("found", "embeds", "generates"),
    [
        (header("bert", pooling_type=1), True, False),
        (header("nomic-bert"), True, False),
        (header("qwen3", pooling_type=3), True, True),
        (header("qwen3"), False, True),
        (header("llama", pooling_type=0), False, True),
    ],
)
def test_which_models_give_embeddings(found: GgufHeader, embeds: bool, generates: bool) -> None:
    assert (evaluates.embeds(found), evaluates.generates(found)) == (embeds, generates)


def test_a_wordpiece_has_a_name_and_no_padding(tmp_path: Path) -> None:
    tokenizer = tiny.train_wordpiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert pretokenizers.identify(tmp_path / "tokenizer.json") == "bert-bge"
    assert pretokenizers.is_wordpiece(tmp_path)
    long = "the quick fox " * 20
    plain, whole = (original_ids(tmp_path, ["fox", long], special=special) for special in (False, True))
    assert 0 not in plain[0]
    assert len(plain[1]) > 32
    assert whole == [[2, *ids, 3] for ids in plain]


def test_bert_takes_words_apart_that_llama_cpp_leaves() -> None:
    texts, ids = ["한국어", "हिन्दी", "café", "fox"], [[1], [2], [3], [4]]
    other = [[9], [9], [3], [4]]
    assert token_ids.compare(texts, ids, other).different == ("한국어", "हिन्दी")
    found = token_ids.compare(texts, ids, other, wordpiece=True)
    assert (found.different, found.unnormalized) == ((), ("한국어", "हिन्दी"))
    wrong = token_ids.compare(texts, ids, [[1], [2], [9], [4]], wordpiece=True)
    with pytest.raises(InputError, match="1 of 4 test strings") as told:
        token_ids.require_equal(wrong, Path("bert"), wordpiece=True)
    assert "cls_token and sep_token" in str(told.value.hint)


def test_a_toolchain_that_llama_embedding_cannot_be_compiled_for(tmp_path: Path, private_cache: Path) -> None:
    (tmp_path / "libllama.so").touch()
    tools = Toolchain(tmp_path, "explicit", "abc", "cpu", "1", None)
    with pytest.raises(ToolchainError, match="has no llama-embedding") as told:
        embedding_tool.find(tools, SilentReporter())
    assert "--target llama-embedding" in str(told.value.hint)
    (tmp_path / "llama-embedding").touch()
    assert embedding_tool.find(tools, SilentReporter()) == tmp_path / "llama-embedding"
