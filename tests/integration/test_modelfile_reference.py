"""The reference renders as transformers does, and llama.cpp's engine as its proof says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from ggufkit.core.errors import ToolOutputError
from ggufkit.core.records import Toolchain
from ggufkit.llama import vocab
from ggufkit.llama.gguf import read_header
from ggufkit.modelfile import (
    ModelfileRequest,
    UnprovenTemplate,
    Vocabulary,
    context_length,
    parse,
    prove_native,
    read_meta,
    renderer,
    write,
)
from ggufkit.modelfile.conversation import hf_messages, tool_schema
from ggufkit.modelfile.make import make
from ggufkit.modelfile.questions import Domain
from ggufkit.modelfile.random_conversations import random_conversations
from ggufkit.modelfile.reference import Reference
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.steps.convert import ConvertOptions, convert
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests.shared import QWEN2, needs_shared
from tests.templates.catalog import TODAY, TOKENS, meta


@pytest.mark.parametrize("name", [n for n in TOKENS if n != "llama32"])
def test_the_environment_is_that_of_transformers(name: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    reference = Reference(replace(meta(name), add_bos=False), TODAY)
    compared = 0
    for conversation in islice(
        random_conversations(Domain(tools=True, thinking=True, later_system=True, blank=True)), 120
    ):
        options = {} if conversation.think is None else {"enable_thinking": conversation.think}
        prompt = reference.render(conversation) if reference.takes_system or not conversation.has_system else None
        if prompt is None:
            continue
        rendered, _ = utils.render_jinja_template(
            [hf_messages(conversation)],
            tools=[tool_schema(t) for t in conversation.tools] or None,
            chat_template=reference.meta.chat_template,
            add_generation_prompt=True,
            bos_token=reference.meta.bos_token,
            eos_token=reference.meta.eos_token,
            **options,
        )
        assert rendered == [prompt]
        compared += 1
    assert compared >= 10


@pytest.fixture(scope="module")
def engine(tools: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that renders with llama.cpp's engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUFKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        program = renderer(tools)
        assert renderer(tools) == program
    return program


@pytest.mark.parametrize("name", [n for n in TOKENS if n != "braces"])
def test_llama_cpp_renders_alike(name: str, engine: Path) -> None:
    proof = prove_native(meta(name), engine, count=100)
    assert proof.conversations >= 100
    assert proof.domain.tools == (name in ("qwen25", "llama31", "mistral3"))


def test_a_template_that_llama_cpp_renders_otherwise_is_unproven(engine: Path) -> None:
    odd = "{% for m in messages %}{{ m.content }}{{ tools is defined }}{% endfor %}"
    with pytest.raises(UnprovenTemplate):
        prove_native(replace(meta("chatml"), chat_template=odd), engine, count=20)


def test_a_template_that_llama_cpp_cannot_read_is_an_error(engine: Path) -> None:
    with pytest.raises(ToolOutputError, match="cannot read the template"):
        prove_native(meta("braces"), engine, count=20)


@needs_shared
def test_qwen2_is_proven_with_its_own_tokenizers(tools: Toolchain, engine: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    gguf = _converted(tools, tmp_path)
    original = tokenizers.Tokenizer.from_file(str(QWEN2 / "tokenizer.json"))
    assert tools.source is not None
    source = tools.source
    vocabulary = Vocabulary(
        lambda texts: [e.ids for e in original.encode_batch(list(texts), add_special_tokens=False)],
        lambda texts: vocab.tokenize(tools.dir, source, gguf, texts),
    )
    generation = json.loads((QWEN2 / "generation_config.json").read_text())
    about = read_meta(read_header(gguf).metadata, generation)
    ctx = context_length(about, gguf.stat().st_size, 8 << 30)
    made = make(about, ModelfileRequest(f"./{gguf.name}", vocabulary=vocabulary, num_ctx=ctx, count=200))
    assert made.kind == "go"
    assert made.proof is not None
    assert made.proof.token_ids
    commands = [(c.name, c.args) for c in parse(write(made.modelfile))]
    assert ("num_ctx", "2048") in commands
    assert ("repeat_penalty", "1.05") in commands
    assert [args for name, args in commands if name == "stop"] == ["<|im_end|>", "<|endoftext|>"]
    native = make(about, ModelfileRequest(f"./{gguf.name}", kind="native", engine=lambda: engine, count=200))
    assert native.modelfile.requires == "0.30.0"
    assert native.modelfile.template is None


def _converted(tools: Toolchain, folder: Path) -> Path:
    session = Session(tools, Workspace(folder), threads=2)
    with session.workspace.locked():
        convert(open_checkpoint(QWEN2), folder / "qwen2.gguf", ConvertOptions(), session)
    return folder / "qwen2.gguf"
