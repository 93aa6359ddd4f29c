"""What may draft for a model, and what is said of what it drafts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import InputError, ResourceError, ToolOutputError, UsageError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Tensor, Toolchain
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.server_argv import Drafting, Listening
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.serving import acceptance, asking, drafts, room
from ggufkit.serving.acceptance import Answers
from ggufkit.serving.drafts import DraftOptions
from tests import tiny
from tests.openai_server import ANSWER, StandIn, speaking

GIB = 1 << 30
TOKENS = [*(f"<{i}>" for i in range(5)), *(f"word{i}" for i in range(200))]
MTP = ("blk.1.attn_norm", "blk.2.attn_norm", "blk.2.nextn.eh_proj")


def header(name: str = "m.gguf", *names: str, n_bytes: int = GIB, **told: Any) -> GgufHeader:
    metadata: dict[str, Any] = {
        "general.architecture": "llama", "llama.block_count": 32, "llama.embedding_length": 4096,
        "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8, "llama.context_length": 32768,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.bos_token_id": 1, **{key.replace("__", "."): value for key, value in told.items()},
    }  # fmt: skip
    tensors = tuple(Tensor(f"{one}.weight", (4, 4), "F16", 0, 16, 32) for one in names)
    return GgufHeader(Path(name), 3, metadata, tensors, 0, 32, n_bytes)


def other(**told: Any) -> GgufHeader:
    return header("d.gguf", **{f"tokenizer__ggml__{key}": value for key, value in told.items()})


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (
            other(tokens=[*TOKENS[:77], "other", *TOKENS[78:]]),
            "its token 77 is 'other', that of the model 'word72'",
        ),
        (other(model="llama"), "its tokenizer is llama, that of the model gpt2"),
        (other(tokens=TOKENS[:70]), "it has 70 tokens, the model 205; up to 70 they are the same"),
        (other(bos_token_id=2), "its texts begin with token 2, those of the model with token 1"),
        (other(add_bos_token=False), "its texts begin with no token added, those of the model with token 1"),
        (
            header("d.gguf", llama__attention__causal=False),
            "it is an encoder (llama), which predicts no next token",
        ),
        (header("d.gguf", *MTP[1:], llama__embedding_length=64), "its MTP layers are 64 wide, the model 4,096"),
        (
            header("d.gguf", *MTP[1:], general__architecture="qwen35"),
            "its MTP layers are of qwen35, the model is llama",
        ),
    ],
)
def test_a_draft_of_another_model(draft: GgufHeader, why: str) -> None:
    with pytest.raises(InputError) as refused:
        drafts.require_draft(draft, header())
    assert refused.value.message == f"d.gguf cannot draft for m.gguf: {why}."
    assert "same vocabulary" in str(refused.value.hint)


def test_a_draft_of_the_same_vocabulary() -> None:
    padded = [*TOKENS, *(f"[PAD{i}]" for i in range(128))]
    for draft in (other(), other(tokens=padded), other(tokens=["<s>", *TOKENS[1:]]), header("d.gguf", *MTP[1:])):
        drafts.require_draft(draft, header())
    silent = other()
    del silent.metadata["tokenizer.ggml.add_bos_token"]  # type: ignore[attr-defined]
    drafts.require_draft(silent, header())


def test_what_llama_server_is_told(tmp_path: Path) -> None:
    assert drafts.choose(header(), DraftOptions()) is None
    own = drafts.choose(header("m.gguf", *MTP), DraftOptions(mtp=True, most=4, least=1))
    assert own == Drafting(None, True, 4, 1)
    assert own.options() == ["--spec-type", "draft-mtp", "--spec-draft-n-max", "4", "--spec-draft-n-min", "1"]
    small = Drafting(tmp_path / "d.gguf", False)
    assert small.options() == ["-md", str(tmp_path / "d.gguf"), "--spec-type", "draft-simple"]
    listening = Listening("127.0.0.1", 8080, "m", 4096, "f16", 4, drafting=small, repack=False)
    assert "--no-repack" in listening.options()
    assert set(small.options()) <= set(listening.options())


@pytest.mark.parametrize(
    ("wanted", "kind", "said"),
    [
        (DraftOptions(Path("d.gguf"), mtp=True), UsageError, "both say what drafts"),
        (DraftOptions(most=4), UsageError, "nothing drafts"),
        (DraftOptions(mtp=True, most=2, least=3), UsageError, "is more than"),
        (DraftOptions(mtp=True), InputError, r"m\.gguf has no MTP layers"),
    ],
)
def test_wishes_that_cannot_be(wanted: DraftOptions, kind: type[UsageError], said: str) -> None:
    with pytest.raises(kind, match=said) as refused:
        drafts.choose(header(), wanted)
    assert refused.value.hint


def test_embeddings_are_not_drafted() -> None:
    with pytest.raises(InputError, match="there is nothing to draft"):
        drafts.choose(header(llama__attention__causal=False), DraftOptions(mtp=True))


def test_a_file_of_another_vocabulary_is_named_before_anything_starts(tmp_path: Path) -> None:
    draft = tiny.write_parrot(tmp_path / "parrot.gguf", "x", "{{ messages }}")
    with pytest.raises(InputError, match=r"parrot\.gguf cannot draft for m\.gguf: its tokenizer is llama"):
        drafts.choose(header(), DraftOptions(draft))


def test_the_draft_s_memory_is_counted() -> None:
    draft = header("d.gguf", n_bytes=GIB // 2)
    alone, both = room.choose(header(), 6 * GIB), room.choose(header(), 6 * GIB, draft=draft)
    assert (alone.n_ctx, both.n_ctx) == (16384, 8192)
    assert both.draft_bytes > GIB // 2 + 8192 * (128 << 10)
    with pytest.raises(ResourceError, match=r"m\.gguf with d\.gguf needs") as refused:
        room.choose(header(), GIB, draft=draft)
    assert "without the draft" in str(refused.value.hint)


def test_whether_the_server_drafts() -> None:
    assert drafts.are_used(b'[{"id": 0, "speculative": true}]')
    assert not drafts.are_used(b'[{"id": 0, "speculative": false}, {"id": 1}]')
    with pytest.raises(ToolOutputError):
        drafts.are_used(b"{")


ALONE = Answers(("one two three", "red"), 100, 2.0, ties=(((4, 7),), ()))


SAME, OTHER = ALONE.texts, "another answer to 'What is a llama?': 'four', not 'three'"


@pytest.mark.parametrize(
    ("drafted", "passed", "said"),
    [
        (
            Answers(SAME, 100, 1.0, 200, 150),
            True,
            "same answers; 150 of 200 drafted tokens accepted (75.0%), 2.00 times",
        ),
        (
            Answers(SAME, 100, 4.0, 3595, 0),
            True,
            "0 of 3,595 drafted tokens accepted (0.0%), 0.50 times as fast: slower",
        ),
        (Answers(("one too few", "red"), 100, 1.0, 9, 1), True, "the same answers, but for ties in 1"),
        (Answers(("one two four", "red"), 100, 1.0, 9, 1), False, OTHER),
        (Answers(("one two three", "blue"), 100, 1.0, 9, 1), False, "another answer to 'Name three colours"),
        (Answers(SAME, 100, 1.0), False, "nothing is drafted"),
    ],
)
def test_what_a_draft_is_worth(drafted: Answers, passed: bool, said: str) -> None:
    without, found = acceptance.outcomes(ALONE, ALONE, drafted)
    assert (without.name, without.tokens_per_s, without.drafted) == (acceptance.WITHOUT, 50.0, None)
    assert (found.passed, found.drafted, found.accepted) == (passed, drafted.drafted, drafted.accepted)
    assert said in found.said


def test_what_is_warned_of() -> None:
    def warnings(drafted: Answers) -> list[str]:
        reporter = SilentReporter()
        acceptance.warn(drafted, ALONE, "d.gguf", reporter)
        return reporter.warnings

    assert "Of 3,595 tokens that d.gguf guessed, none was accepted" in warnings(Answers((), 100, 1.0, 3595, 0))[0]
    assert "generates more slowly than without" in warnings(Answers((), 100, 4.0, 9, 1))[0]
    assert not warnings(Answers((), 100, 1.0, 9, 1))


def test_the_server_s_own_figures_are_read() -> None:
    pytest.importorskip("openai", reason="the extra `serve` is not installed")
    timings = {"predicted_n": 10, "predicted_ms": 500.0, "draft_n": 8, "draft_n_accepted": 6}
    tools, meta = Toolchain(Path(), "built", "c0ffee", "cpu", "1"), ChatMeta("m", "llama", None, end_tokens=())
    likely = [("A", -0.1, -0.11), (" llama", -0.1, -3.0)]
    with (
        speaking(StandIn(beside={"timings": timings}, likely=likely)) as endpoint,
        asking.client_of(endpoint) as client,
    ):
        found = acceptance.answers(asking.Asked(client, endpoint, meta, tools), ties=True)
    n = len(asking.QUESTIONS)
    assert found == Answers((f"{ANSWER} ",) * n, 10 * n, 0.5 * n, 8 * n, 6 * n, (((0, 1),),) * n)
    assert found.tokens_per_s == 20
    assert replace(found, n_tokens=0).tokens_per_s is None
