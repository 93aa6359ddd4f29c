"""Chat templates of many shapes become Go templates that write the same prompts, or are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from ggufkit.core.errors import InputError
from ggufkit.modelfile import (
    ChatTemplateError,
    UnlearnableTemplate,
    UnprovenTemplate,
    Vocabulary,
    gotemplate,
    ollama_prompt,
    to_go_template,
)
from ggufkit.modelfile.conversation import Conversation, Message, Parameter, Tool, ToolCall
from ggufkit.modelfile.prove import prove
from ggufkit.modelfile.questions import Domain
from ggufkit.modelfile.reference import Reference
from tests.templates.catalog import REFUSED, TODAY, TOKENS, converted, meta


def prompt(name: str, *messages: tuple[str, str], today: date = TODAY, think: bool | None = None) -> str:
    """What Ollama makes of messages with a converted template."""
    conversation = Conversation(tuple(Message(*m) for m in messages), think=think)
    return ollama_prompt.execute(gotemplate.parse(converted(name).text), conversation, today)


@pytest.mark.parametrize("name", TOKENS)
def test_prompts_are_identical(name: str) -> None:
    made = converted(name)
    proof = prove(Reference(meta(name), TODAY), made.text, made.domain, count=200, seed=7)
    assert proof.conversations >= 200


@pytest.mark.parametrize("name", TOKENS)
def test_every_template_covers_plain_chats_and_says_what_else(name: str) -> None:
    domain = converted(name).domain
    assert domain.blank
    assert domain.tools == (name in ("qwen25", "llama31"))
    assert domain.thinking == (name == "qwen3")
    assert domain.system == (name not in ("gemma", "mistral"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused(name: str) -> None:
    with pytest.raises((UnlearnableTemplate, UnprovenTemplate, ChatTemplateError)):
        to_go_template(meta(name), TODAY)


def test_a_refusal_shows_the_conversation_and_the_difference() -> None:
    with pytest.raises(UnprovenTemplate) as caught:
        to_go_template(meta("long"), TODAY)
    assert "chat template: " in str(caught.value)
    assert "<|long|>" in str(caught.value.difference.expected)
    assert caught.value.hint is not None


def test_a_wrong_template_fails_its_proof() -> None:
    made = converted("chatml")
    wrong = made.text.replace("<|im_end|>\n", "<|im_end|>", 1)
    assert wrong != made.text
    with pytest.raises(UnprovenTemplate):
        prove(Reference(meta("chatml"), TODAY), wrong, made.domain)


def test_a_template_that_fails_in_go_fails_its_proof() -> None:
    with pytest.raises(UnprovenTemplate, match="error"):
        prove(
            Reference(meta("chatml")),
            "{{ range .Messages }}{{ index .Content 99 }}{{ end }}",
            converted("chatml").domain,
        )


def test_chatml() -> None:
    assert prompt("chatml", ("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_unfinished_answer_is_continued() -> None:
    assert prompt("chatml", ("user", "U"), ("assistant", "Once upon")).endswith("<|im_start|>assistant\nOnce upon")
    assert prompt("llama3", ("user", "U"), ("assistant", "Once upon ")).endswith("\n\nOnce upon")


def test_a_default_system_message_appears_only_without_one() -> None:
    assert "small but helpful" in prompt("smollm2", ("user", "U"))
    assert "small but helpful" not in prompt("smollm2", ("system", "S"), ("user", "U"))


def test_contents_are_trimmed_as_python_does() -> None:
    assert "\n\nnaïve \u3000x<|eot_id|>" in prompt("llama3", ("user", "\u2003\x85 \n naïve \u3000x \x1c\u00a0"))


def test_a_refused_system_message_is_folded_as_llama_cpp_does() -> None:
    text = prompt("gemma", ("system", "  Be brief."), ("user", "Hello  "))
    assert text == "<start_of_turn>user\nBe brief.\nHello<end_of_turn>\n<start_of_turn>model\n"
    assert any("folded" in limit or "merged" in limit for limit in converted("gemma").limits)


def test_white_space_that_is_trimmed_with_a_content_goes_with_it() -> None:
    assert prompt("llama2", ("system", "S"), ("user", " ")) == "[INST] <<SYS>>\nS\n<</SYS>> [/INST]"


def test_the_system_message_moves_to_the_last_question() -> None:
    text = prompt("mistral3", ("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"))
    assert text == "[INST]U[/INST]A</s>[INST]S\n\nV[/INST]"


def test_system_messages_are_gathered() -> None:
    messages = (("system", "S"), ("user", "U"), ("system", "T"), ("user", "V"))
    assert prompt("deepseek-v3", *messages).startswith("S\n\nT<｜User｜>U<｜User｜>V")
    assert prompt("deepseek-r1", *messages).startswith("T<｜User｜>U<｜User｜>V")


def test_an_empty_system_message_is_left_out_where_the_source_does() -> None:
    assert prompt("phi3", ("system", ""), ("user", "U")) == "<|user|>\nU<|end|>\n<|assistant|>\n"


def test_the_date_is_that_of_the_day() -> None:
    assert "Today Date: 05 Mar 2026\n" in prompt("llama32", ("user", "U"))
    assert "Today Date: 31 Dec 2027\n" in prompt("llama32", ("user", "U"), today=date(2027, 12, 31))


def test_the_thinking_switch_works() -> None:
    assert prompt("qwen3", ("user", "U"), think=False).endswith("<think>\n\n</think>\n\n")
    assert prompt("qwen3", ("user", "U"), think=True).endswith("assistant\n")
    assert prompt("qwen3", ("user", "U")).endswith("assistant\n")


@pytest.mark.parametrize("name", ["qwen3", "deepseek-r1"])
def test_ollama_can_tell_the_tags_of_reasoning(name: str) -> None:
    assert "<think>\n{{ .Thinking }}\n</think>" in converted(name).text


def test_tools_calls_and_results() -> None:
    tool = Tool("get_weather", 'A "tool" <b>', (Parameter("unit", "string", "°C\n", ("c", "f")),), ("unit",))
    call = ToolCall("get_weather", {"unit": "c", "days": [1, 2.5, None], "at": {"b": "é\t", "a": True}})
    conversation = Conversation(
        (
            Message("user", "U"),
            Message("assistant", "", (call, call)),
            Message("tool", "18"),
            Message("tool", "19"),
        ),
        (tool,),
    )
    text = ollama_prompt.execute(gotemplate.parse(converted("qwen25").text), conversation, TODAY)
    assert (
        '<tools>\n{"type": "function", "function": {"name": "get_weather", "description": "A \\"tool\\" <b>", '
        '"parameters": {"type": "object", "properties": {"unit": {"type": "string", "description": "°C\\n", '
        '"enum": ["c", "f"]}}, "required": ["unit"]}}}\n</tools>'
    ) in text
    one = (
        '\n<tool_call>\n{"name": "get_weather", "arguments": {"at": {"a": true, "b": "é\\t"}, '
        '"days": [1, 2.5, null], "unit": "c"}}\n</tool_call>'
    )
    results = "\n<tool_response>\n18\n</tool_response>\n<tool_response>\n19\n</tool_response><|im_end|>\n"
    assert f"<|im_start|>assistant{one}{one}<|im_end|>\n<|im_start|>user{results}<|im_start|>assistant\n" in text


def test_ollama_can_tell_the_tag_of_tool_calls() -> None:
    """It looks behind the first `if .ToolCalls` for text, and takes it up to the first brace."""
    _, found, after = converted("qwen25").text.partition("{{- if .ToolCalls }}\n{{- range $n, $_ := .ToolCalls }}")
    assert found
    assert after.lstrip("\n").startswith('<tool_call>\n{"name": "')


def test_bos_comes_from_the_tokenizer_or_from_the_template_never_from_both() -> None:
    with_bos = meta("llama3")
    assert "<|begin_of_text|>" not in converted("llama3").text
    without = to_go_template(replace(with_bos, add_bos=False), TODAY)
    assert "<|begin_of_text|>" in without.text
    proof = prove(Reference(replace(with_bos, add_bos=False), TODAY), without.text, without.domain, count=20)
    assert proof.bos == "template"


def fake_encode(texts: object) -> list[list[int]]:
    """One id per character, one for `<s>`."""
    assert isinstance(texts, (list, tuple))
    return [[ord(c) for c in text.replace("<s>", "\x01")] for text in texts]


def test_token_ids_are_compared() -> None:
    made = converted("mistral")
    vocabulary = Vocabulary(fake_encode, fake_encode)
    proof = prove(Reference(meta("mistral"), TODAY), made.text, made.domain, count=20, vocabulary=vocabulary)
    assert proof.token_ids
    assert proof.bos == "tokenizer"


def test_other_token_ids_are_a_difference() -> None:
    made = converted("mistral")
    vocabulary = Vocabulary(fake_encode, lambda texts: [ids[:-1] for ids in fake_encode(texts)])
    with pytest.raises(UnprovenTemplate):
        prove(Reference(meta("mistral"), TODAY), made.text, made.domain, count=20, vocabulary=vocabulary)


def test_a_template_that_refuses_everything_is_refused() -> None:
    source = "{% if messages[0].content != 'Hello' %}{{ raise_exception('x') }}{% endif %}x"
    with pytest.raises(UnlearnableTemplate, match="refuses every"):
        to_go_template(replace(meta("chatml"), chat_template=source), TODAY)


def test_a_proof_needs_enough_conversations() -> None:
    source = "{% if messages[0].content != 'Hello' %}{{ raise_exception('x') }}{% endif %}x"
    with pytest.raises(InputError, match="refuses nearly all"):
        prove(
            Reference(replace(meta("chatml"), chat_template=source)), "{{ range .Messages }}{{ end }}x", Domain()
        )


def test_the_same_template_is_made_every_time() -> None:
    assert to_go_template(meta("qwen25"), TODAY).text == converted("qwen25").text
