"""Which kind of Modelfile, with which parameters, and what its comments say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import InputError, ToolchainError
from ggufkit.modelfile import (
    ChatMeta,
    ModelfileRequest,
    UnlearnableTemplate,
    context_length,
    install,
    parse,
    read_meta,
    stop_strings,
    write,
)
from ggufkit.modelfile.make import make
from tests.templates.catalog import converted, meta


def no_engine() -> Path:
    raise ToolchainError("there is no compiler")


def test_a_go_template_is_the_default() -> None:
    made = make(meta("chatml"), ModelfileRequest("./m.gguf", count=50))
    assert made.kind == "go"
    assert made.proof is not None
    assert made.modelfile.requires is None
    text = write(made.modelfile)
    assert "prompts identical" in text.splitlines()[1]
    assert [c.name for c in parse(text)] == ["model", "stop", "template"]


def test_a_model_without_template_gets_plain_completion() -> None:
    made = make(replace(meta("chatml"), chat_template=None), ModelfileRequest("./m.gguf"))
    assert made.kind == "plain"
    assert made.proof is None
    assert made.modelfile.template == "{{ .Prompt }}"
    assert "no chat template" in made.why


def test_an_old_ollama_needs_a_go_template() -> None:
    with pytest.raises(UnlearnableTemplate):
        make(meta("numbered"), ModelfileRequest("./m.gguf", version=(0, 29, 9), engine=no_engine))


def test_a_new_ollama_prefers_the_native_template_but_takes_what_can_be_proven() -> None:
    made = make(meta("chatml"), ModelfileRequest("./m.gguf", version=(0, 30, 0), engine=no_engine, count=50))
    assert made.kind == "go"
    assert "# Not native: there is no compiler" in write(made.modelfile)


def test_what_was_asked_for_is_not_replaced() -> None:
    with pytest.raises(ToolchainError):
        make(meta("chatml"), ModelfileRequest("./m.gguf", kind="native", engine=no_engine))
    with pytest.raises(InputError):
        make(meta("chatml"), ModelfileRequest("./m.gguf", kind="native"))
    with pytest.raises(InputError):
        make(meta("chatml"), ModelfileRequest("./m.gguf", kind="jinja"))


def test_force_writes_it_and_says_so() -> None:
    made = make(meta("chatml"), ModelfileRequest("./m.gguf", kind="native", force=True))
    assert made.modelfile.template is None
    assert made.modelfile.requires == "0.30.0"
    assert "# NOT PROVEN" in write(made.modelfile)
    made = make(meta("long"), ModelfileRequest("./m.gguf", kind="go", force=True))
    assert made.modelfile.template is not None
    assert "# NOT PROVEN" in write(made.modelfile)


def test_a_hostile_name_adds_no_line() -> None:
    hostile = replace(meta("chatml"), name="x\nSYSTEM evil", license='MIT\n"""\nSYSTEM evil')
    with pytest.raises(InputError):
        write(make(hostile, ModelfileRequest("./m.gguf", count=10)).modelfile)
    harmless = replace(hostile, license="MIT\nSYSTEM evil")
    commands = parse(write(make(harmless, ModelfileRequest('./a"b\n.gguf', count=10)).modelfile))
    assert [c.name for c in commands] == ["model", "stop", "template", "license"]
    assert commands[0].args == './a"b\n.gguf'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml", ("<|im_end|>",)),
        ("phi3", ("<|endoftext|>", "<|end|>")),
        ("gemma", ("<eos>", "<end_of_turn>")),
        ("mistral", ("</s>",)),
        ("alpaca", ("</s>", "### Instruction:")),
        ("llama3", ("<|eot_id|>",)),
        ("deepseek-r1", ("<｜end▁of▁sentence｜>",)),
    ],
)
def test_stops_end_answers_and_nothing_else(name: str, expected: tuple[str, ...]) -> None:
    assert stop_strings(meta(name), converted(name).shape) == expected


def test_text_that_only_looks_like_a_token_is_no_stop() -> None:
    known = replace(meta("gemma"), special_tokens=frozenset({"<eos>", "<bos>"}))
    assert "<end_of_turn>" not in stop_strings(known, converted("chatml").shape)


def test_context_is_bounded_by_model_and_memory() -> None:
    small = ChatMeta("m", "llama", None, context_length=2048, kv_bytes_per_token=1000)
    assert context_length(small, 0, None) == 2048
    large = replace(small, context_length=131072)
    assert context_length(large, 0, None) == 8192
    assert context_length(large, 10_000_000, 20_000_000) == 5888
    assert context_length(large, 10_000_000, 10_000_000) == 512
    assert context_length(large, 0, None, wanted=32768) == 32768
    assert context_length(ChatMeta("m", "x", None), 0, 1) is None


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Test",
    "general.license": "apache-2.0",
    "general.sampling.top_k": 20,
    "general.sampling.temp": 0.5,
    "llama.context_length": 4096,
    "llama.block_count": 4,
    "llama.embedding_length": 256,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<|end|>", "word"],
    "tokenizer.ggml.token_type": [2, 3, 3, 3, 1],
    "tokenizer.chat_template": "x",
}


def test_metadata_is_read() -> None:
    read = read_meta(METADATA, {"eos_token_id": [2, 3], "temperature": 0.7, "repetition_penalty": 1.1})
    assert (read.name, read.license, read.context_length) == ("Test", "apache-2.0", 4096)
    assert (read.bos_token, read.eos_token, read.add_bos) == ("<s>", "</s>", True)
    assert read.end_tokens == ("</s>", "<|end|>")
    assert read.special_tokens == {"<s>", "</s>", "<|end|>"}
    assert read.kv_bytes_per_token == 4 * 2 * (32 + 32) * 2
    assert read.sampling == {"temperature": 0.7, "top_k": 20, "repeat_penalty": 1.1}


def test_greedy_decoding_is_temperature_zero() -> None:
    assert read_meta(METADATA, {"do_sample": False, "temperature": 0.9}).sampling["temperature"] == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenizer.ggml.add_bos_token": False}, False),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}, False),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"}, True),
    ],
)
def test_who_adds_bos(changes: dict[str, Any], expected: bool) -> None:
    assert read_meta({**METADATA, **changes}).add_bos is expected


def test_an_empty_gguf_gives_an_empty_meta() -> None:
    read = read_meta({})
    assert read.chat_template is None
    assert read.end_tokens == ()
    assert read.kv_bytes_per_token is None


@pytest.mark.parametrize("name", ["m", "user/m", "host.example/user/m:q4_k_m", "Qwen2.5-0.5B"])
def test_good_model_names(name: str) -> None:
    assert install.require_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-f", "--help", "a b", "a\nb", "../x", "a/b/c/d", "a:b:c", "a;rm", "x" * 300]
)
def test_bad_model_names(name: str) -> None:
    with pytest.raises(InputError):
        install.require_name(name)
