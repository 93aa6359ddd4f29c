"""Files speak: through the toolchain's own libraries, with their own templates, quickly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core.errors import GgufError, InputError, ToolchainError, ToolError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.limits import Limits
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Checkpoint, GgufFile, Toolchain
from ggufkit.llama import binding, server_tool
from ggufkit.llama.gguf import read_gguf
from ggufkit.measure import chat
from ggufkit.measure.chat import ChatOptions
from ggufkit.models import sources
from ggufkit.steps import convert, quantize
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests.integration.run_cli import fails, ggufkit
from tests.shared import LLAMA, QWEN2, needs_shared
from tests.terminal import Terminal

GREEDY = ChatOptions(max_tokens=12, temperature=0.0, threads=2)


@pytest.fixture(scope="module")
def speech() -> None:
    """The binding: in this Python, or installed into the cache now."""
    try:
        binding.ensure_installed(SilentReporter())
    except ToolchainError as error:
        pytest.skip(f"no llama-cpp-python: {error.message}")


def convert_here(path: Path, root: Path, tools: Toolchain) -> GgufFile:
    """The F16 file of a checkpoint."""
    checkpoint = sources.resolve(str(path))
    assert isinstance(checkpoint, Checkpoint)
    made = convert.convert(
        checkpoint, root / f"{path.name}-F16.gguf", ConvertOptions(), Session(tools, Workspace(root))
    )
    return read_gguf(made.path, made.sha256)


@pytest.fixture(scope="module")
def small(converted: Path) -> GgufFile:
    """A file of random weights, without a chat template."""
    return read_gguf(converted, sha256_file(converted))


def quantized(base: GgufFile, kind: str, session: Session) -> GgufFile:
    known = {t.name: t for t in quantize.known_types(session.tools)}
    output = session.workspace.root / base.path.name.replace("F16", kind)
    made = quantize.quantize(base, output, known[kind], QuantizeOptions(), session)
    return read_gguf(made.path, made.sha256)


@needs_shared
def test_a_base_model_completes_and_streams(speech: None, session: Session) -> None:
    file = quantized(convert_here(LLAMA, session.workspace.root, session.tools), "Q4_K_M", session)
    pieces: list[str] = []
    long = replace(GREEDY, max_tokens=300)
    streamed = chat.chat(file.path, long, session.tools, session.reporter, on_text=pieces.append)
    assert "".join(pieces) == streamed.text
    assert len(pieces) > 1
    reply = chat.chat(file.path, GREEDY, session.tools, session.reporter)
    assert len(reply.tokens) == 12
    assert not reply.templated
    assert reply.tokens_per_s is not None


@needs_shared
@pytest.mark.alone
def test_the_first_token_comes_within_a_second(speech: None, session: Session) -> None:
    file = quantized(convert_here(LLAMA, session.workspace.root, session.tools), "Q4_K_M", session)
    shown = [ggufkit("chat", file.path, "The", "--max-tokens", 2, "--threads", 2).err for _ in range(3)]
    assert min(float(re.findall(r"first after ([\d.]+) s", err)[0]) for err in shown) < 1


@needs_shared
def test_the_file_s_own_template_is_used(speech: None, session: Session) -> None:
    file = convert_here(QWEN2, session.workspace.root, session.tools)
    plain = chat.chat(file.path, replace(GREEDY, prompt="Hi"), session.tools, session.reporter)
    assert plain.templated
    system = replace(GREEDY, prompt="Hi", system="You are a very short-spoken llama.")
    longer = chat.chat(file.path, system, session.tools, session.reporter)
    assert longer.n_prompt > plain.n_prompt > 5
    again = chat.chat(file.path, replace(GREEDY, prompt="Hi"), session.tools, session.reporter)
    assert again.tokens == plain.tokens


def test_the_command_line(speech: None, small: GgufFile) -> None:
    ended = ggufkit("chat", small.path, "The quick", "--max-tokens", 4, "--temperature", 0, "--threads", 2)
    assert ended.code == 0, ended.err
    assert ended.out.strip()
    assert re.search(r"\[4 tokens, [\d.]+ tokens/s; first after [\d.]+ s; no chat template", ended.err)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1/0 }}", "division by zero"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 2 s"),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "of memory",
        ),
        ("{{ 9 ** (9 ** 9) }}", "more than 2 s"),
    ],
)
def test_a_hostile_template(
    speech: None, small: GgufFile, tools: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    template: str, reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(chat, "_LIMITS", Limits(cpu_s=2, memory_bytes=1 << 28))
    argv = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--chat-template", template]
    subprocess.run([*argv, small.path, tmp_path / "x.gguf"], check=True, capture_output=True)
    with pytest.raises(InputError, match=f"The chat template of .*x.gguf is refused: .*{reason}") as refused:
        chat.chat(tmp_path / "x.gguf", GREEDY, tools, SilentReporter())
    assert refused.value.exit_code == 3


def test_a_full_context(speech: None, small: GgufFile) -> None:
    done = ggufkit("chat", small.path, "Once", "--ctx", 64, "--max-tokens", 500, "--temperature", 0)
    assert done.code == 0, done.err
    assert "context is full" in done.err
    assert "Give a larger --ctx" in fails(3, "chat", small.path, "Once upon a time " * 100, "--ctx", 64)


def test_a_broken_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    assert "x.gguf" in fails(3, "chat", tmp_path / "x.gguf")


def test_a_file_that_llama_cpp_cannot_load(speech: None, session: Session, tmp_path: Path) -> None:
    from tests.unit.test_gguf import write

    with pytest.raises((GgufError, ToolError)):
        chat.chat(write(tmp_path / "x.gguf"), GREEDY, session.tools, session.reporter)


def test_without_shared_libraries_it_says_so(tmp_path: Path, small: GgufFile, tools: Toolchain) -> None:
    with pytest.raises(ToolchainError, match="libllama"):
        chat.chat(small.path, GREEDY, replace(tools, dir=tmp_path / "bin"), SilentReporter())


def test_a_binding_that_cannot_be_installed(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "VERSION", "0.0.0")
    with pytest.raises(ToolchainError) as refused:
        binding.ensure_installed(SilentReporter())
    assert "CMAKE_ARGS=-DLLAMA_BUILD=OFF" in str(refused.value.hint)
    assert "llama-cpp-python==0.0.0" in str(refused.value.hint)


def test_a_step_speaks_once(speech: None, small: GgufFile, session: Session) -> None:
    first = chat.speak(small, session)
    assert not first.fresh
    assert chat.speak(small, session).fresh
    reply = chat.read_reply(first.path)
    assert len(reply.tokens) <= chat.SMOKE_TOKENS
    assert json.loads(first.path.read_text())["text"] == reply.text


def test_build_smoke(speech: None, small: GgufFile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = ("build", small.path, "--types", "q8_0", "--no-eval", "--no-bench", "--smoke", "--out", out)
    ended = ggufkit(*wanted)
    assert ended.code == 0, ended.err
    assert (out / ".ggufkit" / "measurements" / "tiny-llama-Q8_0.speak.json").is_file()
    assert "Nothing had to be done again" in ggufkit(*wanted).out


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_conversation_at_a_terminal(tools: Toolchain, small: GgufFile) -> None:
    if not tools.binary(server_tool.NAME).is_file():
        pytest.skip("llama-server is not built: ggufkit toolchain install --server")
    with Terminal("chat", small.path, "--max-tokens", 4, "--threads", 1) as terminal:
        assert "It has no chat template" in terminal.until("> ")
        assert len(terminal.answer("The quick")) > len("\n"), "four tokens of an answer"
        assert "/bye or Ctrl-D ends" in terminal.interrupt(), "Ctrl-C does not end it"
        terminal.say("/bye")
        assert terminal.ended() == 0
