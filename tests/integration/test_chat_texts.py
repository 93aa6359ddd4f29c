"""Conversations as texts: rendered as transformers renders them, and read by llama.cpp's tools with their special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core import process
from ggufkit.core.errors import CorpusError, InputError, ToolchainError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Checkpoint, GgufFile, Toolchain
from ggufkit.llama import argv, special_tokens, vocab
from ggufkit.llama.argv import Compute, Excerpt
from ggufkit.llama.gguf import read_gguf
from ggufkit.llama.logits_file import read_logits
from ggufkit.modelfile import chat_texts
from ggufkit.models import sources
from ggufkit.texts import corpus
from ggufkit.texts.calibration import load_tokenizer
from ggufkit.texts.calibration_text import Part
from ggufkit.texts.corpus import Corpus
from tests.integration.test_hostile_templates import write
from tests.templates.catalog import meta

pytestmark = pytest.mark.usefixtures("private_cache")

CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"What is {i} and {i}?"},
            {"role": "assistant", "content": f"It is {2 * i}."},
        ]
    }
    for i in range(60)
]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BARE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ eos_token }}"


@pytest.fixture
def chats(tmp_path: Path) -> Corpus:
    """A file of conversations."""
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    return corpus.resolve(str(file))


def model(tmp_path: Path, template: str) -> GgufFile:
    """A GGUF with a template, whose tokenizer puts a BOS before every prompt."""
    path = write(tmp_path / "m.gguf", template)
    return read_gguf(path, sha256_file(path))


def rendered(chats: Corpus, of: Checkpoint | GgufFile) -> Corpus:
    return chat_texts.rendered(chats, of, SilentReporter())


def test_a_checkpoint_renders_as_transformers_does(chats: Corpus, checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (checkpoint / "chat_template.jinja").write_text(str(meta("chatml").chat_template))
    found = rendered(chats, sources.resolve(str(checkpoint)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    wanted = [tokenizer.apply_chat_template(chat["messages"], tokenize=False) for chat in CHATS]
    assert found.path.read_text() == "".join(wanted)
    assert (found.special, found.chats, found.name) == (True, False, "chat.jsonl")
    assert found.sha256 == sha256_file(found.path)


def test_samples_of_conversations_have_their_special_tokens(chats: Corpus, checkpoint: Path) -> None:
    """For AWQ and GPTQ, as for llama-imatrix."""
    (checkpoint / "chat_template.jinja").write_text(str(meta("chatml").chat_template))
    found = sources.resolve(str(checkpoint))
    content = rendered(chats, found).path.read_text()
    (ids,) = load_tokenizer(checkpoint, special=True).encode([content])
    assert ids.count(1) == content.count("<|im_end|>") == 3 * len(CHATS)


def test_each_conversation_has_one_bos(chats: Corpus, tmp_path: Path) -> None:
    """That of the first is the tool's to add."""
    text = rendered(chats, model(tmp_path, BARE)).path.read_text()
    assert text.startswith(
        "[system]Be brief.[user]What is 0 and 0?[assistant]It is 0.<|im_end|><|endoftext|>[system]"
    )
    assert text.count("<|endoftext|>") == len(CHATS) - 1
    without = rendered(chats, model(tmp_path, BARE.removeprefix("{{ bos_token }}"))).path.read_text()
    assert without == text


def test_a_system_message_that_is_refused_is_folded(chats: Corpus, tmp_path: Path) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + BARE
    assert rendered(chats, model(tmp_path, strict)).path.read_text().startswith("[user]Be brief.\nWhat is 0")


@pytest.mark.parametrize(
    ("template", "error", "said"),
    [
        (f"{{% if messages|length > 2 %}}{{{{ raise_exception('too long') }}}}{{% endif %}}{BARE}", CorpusError,
         "Entry 1 .*chat.jsonl is refused: .*too long"),
        (f"{{% if messages|length > 2 %}}{LOOPS}{{% endif %}}{BARE}", InputError, "takes more than 1 s"),
        ("{% for", InputError, "not valid Jinja"),
        ("", InputError, "has no chat template"),
    ],
    ids=["refuses", "endless", "broken", "none"],
)  # fmt: skip
def test_what_a_template_does_not_render_is_an_error(
    template: str,
    error: type[Exception],
    said: str,
    chats: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_texts, "_TURN_S", 1)
    with pytest.raises(error, match=said):
        rendered(chats, model(tmp_path, template))
    assert not list((tmp_path / "cache" / "texts").glob("*.txt"))


def test_chats_are_mixed_with_prose(chats: Corpus, tmp_path: Path) -> None:
    prose = tmp_path / "prose.txt"
    prose.write_text("prose prose prose\n" * 2000)
    parts = [Part(chats, 0.5), Part(corpus.open_text(prose), 0.5)]
    found = chat_texts.calibration(parts, model(tmp_path, BARE), SilentReporter())
    assert found.special
    assert found.name == "chat.jsonl:0.5 + prose.txt:0.5"
    content = found.path.read_text()
    assert "<|im_end|><|endoftext|>[system]" in content
    assert content.count("prose") > 100


def test_llama_perplexity_parses_special_tokens(
    chats: Corpus, base: Path, tools: Toolchain, tmp_path: Path
) -> None:
    if tools.source is None:
        pytest.skip("the toolchain has no source to tokenize with")
    text = tmp_path / "chat.txt"
    text.write_text("".join(f"<|im_end|>{chat['messages'][1]['content']}<|endoftext|>\n" for chat in CHATS))
    command = argv.first_logits(tools, base, tmp_path / "logits", Excerpt(text, 64), Compute(threads=1))
    plain = process.run(command)
    as_text = read_logits(tmp_path / "logits")
    parsed = process.run(command, surroundings=Surroundings(special_tokens.environment(SilentReporter())))
    as_chat = read_logits(tmp_path / "logits")
    (wanted,) = vocab.tokenize(tools.dir, tools.source, base, [text.read_text()], special=True)
    assert as_text is not None
    assert as_chat is not None
    assert list(as_chat.tokens) == wanted[:64] != list(as_text.tokens)
    special_tokens.require_parsed(parsed)
    with pytest.raises(ToolchainError, match="plain text"):
        special_tokens.require_parsed(plain)


def test_what_stands_before_the_tokenizer_stays_the_users_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    found = special_tokens.environment(SilentReporter())
    assert found["LD_PRELOAD"].endswith("special-tokens.so:/lib/other.so")


def test_without_a_compiler_chats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(special_tokens, "find_program", lambda _name: None)
    with pytest.raises(ToolchainError, match="no C\\+\\+ compiler"):
        special_tokens.environment(SilentReporter())
