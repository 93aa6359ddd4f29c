"""Go's own template engine agrees with the renderer that proves templates at run time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggufkit.core.records import Toolchain
from ggufkit.modelfile import gotemplate, ollama_prompt, to_go_template
from ggufkit.modelfile.conversation import Conversation, Message, Parameter, Tool, ToolCall, collate
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.modelfile.prove import compare
from ggufkit.modelfile.questions import all_questions
from ggufkit.modelfile.random_conversations import random_conversations
from ggufkit.modelfile.reference import ChatTemplateError, Reference
from tests.templates.catalog import TODAY, TOKENS, converted, meta
from tests.templates.goengine import build, needs_go, render

pytestmark = needs_go
Render = Callable[[str, list[Conversation]], list[str]]

# Public templates that llama.cpp's source tree holds, of the families that users convert.
PUBLIC = (
    *("Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct"),
    *("meta-llama-Llama-3.2-3B-Instruct", "google-gemma-2-2b-it", "mistralai-Mistral-Nemo-Instruct-2407"),
    *("microsoft-Phi-3.5-mini-instruct", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "HuggingFaceTB-SmolLM3-3B"),
    *("deepseek-ai-DeepSeek-V3.1", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use"),
)


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Render conversations with Go."""
    program = build(tmp_path_factory.mktemp("go"))
    return lambda template, given: render(program, template, TODAY, given)


def ours(template: str, given: list[Conversation], today: date = TODAY) -> list[str]:
    """Render conversations as at run time."""
    parsed = gotemplate.parse(template)
    return [ollama_prompt.execute(parsed, conversation, today) for conversation in given]


@pytest.mark.parametrize("name", TOKENS)
def test_go_renders_every_conversation_alike(name: str, go: Render) -> None:
    made = converted(name)
    given = [*all_questions(made.domain), *islice(random_conversations(made.domain, 3), 250)]
    assert go(made.text, given) == ours(made.text, given)


@pytest.mark.parametrize(
    "name", ["qwen25", "llama31", "llama2", "gemma", "mistral3", "phi3", "deepseek-v3", "braces"]
)
def test_go_agrees_with_the_source_template(name: str, go: Render) -> None:
    made, reference = converted(name), Reference(meta(name), TODAY)
    pairs = [(c, reference.render(collate(c))) for c in islice(random_conversations(made.domain, 4), 400)]
    accepted = [(c, prompt) for c, prompt in pairs if prompt is not None]
    assert len(accepted) >= 200
    assert go(made.text, [c for c, _ in accepted]) == [prompt for _, prompt in accepted]


texts = st.text(
    alphabet=st.sampled_from(list("{}\"'\\`%$ \n\t\r<>&é🙂\u00a0\u2003\u3000\x1fa."))
    | st.characters(codec="utf-8")
)
messages = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=6
)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.sampled_from([0.5, -1.25]) | texts
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=2) | st.dictionaries(texts, v, max_size=2), max_leaves=4
)
tools = st.builds(
    Tool,
    texts,
    texts,
    st.lists(st.builds(Parameter, texts, st.just("string"), texts), max_size=2, unique_by=lambda p: p.name).map(
        tuple
    ),
    st.lists(texts, max_size=2).map(tuple),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(batch=st.lists(messages, min_size=5, max_size=20))
def test_fuzzed_contents(go: Render, batch: list[list[Message]]) -> None:
    given = [Conversation(tuple(m)) for m in batch]
    for name in ("llama3", "gemma", "llama2", "smollm2", "mistral3"):
        template = converted(name).text
        assert go(template, given) == ours(template, given)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(offered=st.lists(tools, max_size=3), arguments=st.dictionaries(texts, values, max_size=3), result=texts)
def test_fuzzed_tools(go: Render, offered: list[Tool], arguments: dict[str, object], result: str) -> None:
    call = ToolCall("f", arguments)
    chat = (Message("user", "u"), Message("assistant", "", (call,)), Message("tool", result))
    given = [Conversation(chat, tuple(offered))]
    for name in ("qwen25", "llama31"):
        template, reference = converted(name).text, Reference(meta(name), TODAY)
        assert go(template, given) == ours(template, given) == [reference.render(given[0])]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_templates(name: str, go: Render, tools: Toolchain) -> None:
    folder = (tools.source or Path()) / "models" / "templates"
    if not (folder / f"{name}.jinja").is_file():
        pytest.skip("this llama.cpp source tree has no model templates")
    source = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    public = ChatMeta(name, "test", source, "<bos>", "<eos>", True)
    try:
        made = to_go_template(public, TODAY)
    except ChatTemplateError:
        assert "tool_use" in name
        return
    given = list(islice(random_conversations(made.domain, 5), 200))
    compare(Reference(public, TODAY), made.text, given)
    assert go(made.text, given) == ours(made.text, given)
