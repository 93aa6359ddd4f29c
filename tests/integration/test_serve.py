"""A real server on a tiny real model: proven by a client, ended in good order, one to a port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from filelock import FileLock

import ggufkit
from ggufkit.core import escape
from ggufkit.core.errors import DeviceMemoryError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import server_tool
from ggufkit.serving import server
from ggufkit.serving.server import ServeOptions, free_port
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests import tiny
from tests.integration.run_cli import fails
from tests.integration.run_cli import ggufkit as command

TEMPLATES = Path(__file__).parents[1] / "templates"
CALLS = {
    "qwen25": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    "llama31": '{"name": "get_weather", "parameters": {"city": "Paris"}}',
    "mistral3": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdefghi"}]',
}
"""Templates that know tools, and how they want a call written."""
QUICK = ("--backend", "cpu", "--threads", 1)


@pytest.fixture(scope="module", autouse=True)
def program(tools: Toolchain) -> Path:
    """llama-server, where it is built: that takes minutes, and nothing else needs it."""
    if not tools.binary(server_tool.NAME).is_file():
        pytest.skip("llama-server is not built: ggufkit toolchain install --server")
    return tools.binary(server_tool.NAME)


@pytest.fixture(scope="module")
def talking(converted: Path, whole_run: Path) -> Path:
    """A file of random weights with a template that knows tools."""
    made = whole_run / "served" / "talking.gguf"
    with FileLock(whole_run / "served.lock"):
        if not made.exists():
            made.parent.mkdir(exist_ok=True)
            template = (TEMPLATES / "qwen25.jinja").read_text(encoding="utf-8")
            argv = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--chat-template", template]
            subprocess.run([*argv, converted, made], check=True, capture_output=True)
    return made


@pytest.mark.parametrize(("name", "call"), CALLS.items(), ids=[*CALLS])
def test_a_client_gets_what_it_asks_for(name: str, call: str, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the extra `serve` is not installed")
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    calling = tiny.write_parrot(tmp_path / "calling.gguf", call, template)
    ended = command(
        "serve", calling, "--check", "--json", "--port", free_port(), *QUICK, env={"LLAMA_API_KEY": "k"}
    )
    assert ended.code == 0, ended.out + ended.err
    found = {one["name"]: one for one in json.loads(ended.out)}
    assert {one["passed"] for one in found.values()} == {True}
    assert found["template"]["said"].endswith("prompts are the proven ones")
    assert found["streaming"]["first_token_s"] > 0 < found["together"]["tokens_per_s"]


def test_answers_are_those_of_chat(talking: Path) -> None:
    how = ("--temperature", 0, "--max-tokens", 12, "--threads", 1, "--backend", "cpu")
    said = command("chat", talking, "What is a llama?", *how)
    assert said.code == 0, said.err
    with ggufkit.serve(talking, backend="cpu", threads=1, quiet=True, name="mine") as endpoint:
        assert endpoint.model == "mine"
        asked: Any = {
            "messages": [{"role": "user", "content": "What is a llama?"}],
            "temperature": 0,
            "max_tokens": 12,
        }
        reply = requests.post(f"{endpoint.base_url}/chat/completions", json=asked, timeout=60).json()
    assert reply["choices"][0]["message"]["content"].strip() == said.out.strip()


def _answer(gguf: Path, **how: Any) -> str:
    """What a client of a served model gets."""
    asked: Any = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 12}
    with ggufkit.serve(gguf, backend="cpu", threads=1, quiet=True, **how) as endpoint:
        reply = requests.post(f"{endpoint.base_url}/chat/completions", json=asked, timeout=60).json()
    return str(reply["choices"][0]["message"]["content"]).strip()


def test_adapters_change_answers_alike(talking: Path, tmp_path: Path) -> None:
    lora, how = tiny.write_lora(tmp_path / "a,b.gguf", talking), ("--temperature", 0, "--max-tokens", 12, *QUICK)
    said = [
        command("chat", talking, "Hi", *how, *more).out.strip()
        for more in (
            (),
            ("--lora", lora),
            ("--lora", f"{lora}=0.5", "--lora", f"{lora}=0.5"),
            ("--lora", f"{lora}=0"),
        )
    ]
    assert said[0] == said[3] != said[1] == said[2]
    assert _answer(talking, lora=f"{lora}=1.0") == said[1]
    vector = tiny.write_control_vector(tmp_path / "vector.gguf", 256, 0.5)
    assert _answer(talking, control_vector=[vector]) not in (said[0], said[1])


def test_an_adapter_of_another_model(talking: Path, tmp_path: Path) -> None:
    lora = tiny.write_lora(tmp_path / "lora.gguf", talking, tensor="attn_k")
    for name in ("serve", "chat", "modelfile"):
        said = fails(3, name, talking, "--lora", lora)
        assert "lora.gguf is no adapter of talking.gguf: it changes blk.0.attn_k.weight of 256 × 256" in said


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_conversation_has_the_answers_of_a_client(talking: Path) -> None:
    from tests.terminal import Terminal

    asked, how = ["What is a llama?", "And a\ncamel?"], ("--temperature", 0, "--max-tokens", 8, *QUICK)
    with Terminal("chat", talking, "--ctx", 256, *how) as terminal:
        terminal.until("> ")
        first = terminal.answer(asked[0])
        second = terminal.answer('"""And a', 'camel?"""')
        assert "[The context of 256 tokens is full: " in [terminal.answer("And? " * 8) for _ in range(6)][-1]
        assert "tokens, the context 256. Give the context more" in terminal.answer("And? " * 100)
        terminal.answer("/set num_predict all")
        terminal.say("Tell me all.")
        terminal.more()
        terminal.interrupt()
        assert "settings stay" in terminal.answer("/clear")
        assert terminal.answer(asked[0]).startswith(first.partition("\n[The answer ends")[0])
        terminal.say("/bye")
        assert terminal.ended() == 0
    with ggufkit.serve(talking, backend="cpu", threads=1, quiet=True) as endpoint:
        said: list[Any] = []
        for text in asked:
            said.append({"role": "user", "content": text})
            body: Any = {"messages": said, "temperature": 0, "max_tokens": 8}
            reply = requests.post(f"{endpoint.base_url}/chat/completions", json=body, timeout=60).json()
            said.append(reply["choices"][0]["message"])
    answers = [escape.terminal(message["content"], lines=True).strip() for message in said[1::2]]
    assert answers == [
        shown.partition("\n[The answer ends after 8 tokens")[0].strip() for shown in (first, second)
    ]


def test_an_end_under_load_and_one_server_to_a_port(talking: Path) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "ggufkit", "serve", talking, "--port", port, *QUICK]
    running = subprocess.Popen(
        list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        _wait_for(port)
        assert f"Port {port} of 127.0.0.1 is taken" in fails(1, "serve", talking, "--port", port, *QUICK)
        asking = [threading.Thread(target=_ask, args=(port,), daemon=True) for _ in range(8)]
        for one in asking:
            one.start()
        time.sleep(0.3)
        begun = time.monotonic()
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=20)
        assert time.monotonic() - begun < 5
    finally:
        running.kill()
    assert running.returncode == 0, err
    assert f"base URL  http://127.0.0.1:{port}/v1" in out
    assert "The server has ended." in err
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/health", timeout=5)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not come up")


def _ask(port: int) -> None:
    asked: Any = {"prompt": "The quick", "max_tokens": 400, "ignore_eos": True}
    with contextlib.suppress(requests.RequestException):
        requests.post(f"http://127.0.0.1:{port}/v1/completions", json=asked, timeout=30)


def test_a_model_of_embeddings(tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the extra `serve` is not installed")
    gguf = tiny.write_parrot(tmp_path / "pooled.gguf", "x" * 40, "{{ messages }}", pooled=True)
    ended = command("serve", gguf, "--check", "--port", free_port(), *QUICK)
    assert ended.code == 0, ended.out + ended.err
    assert "64 values" in ended.out


def test_what_cannot_be_served(tmp_path: Path, talking: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    assert "x.gguf" in fails(3, "serve", tmp_path / "x.gguf", "--port", free_port())
    own = tmp_path / "own"
    own.mkdir()
    for tool in ("llama-quantize", "llama-perplexity", "llama-imatrix", "llama-bench"):
        (own / tool).write_text("#!/bin/sh\necho 'version: 1 (c0ffee0)'\n")
        (own / tool).chmod(0o755)
    said = fails(4, "serve", talking, "--port", free_port(), env={**os.environ, "GGUFKIT_LLAMA_CPP": str(own)})
    assert "has no llama-server" in said


_FULL_GPU = f"""#!{sys.executable}
import http.server, sys
words = sys.argv
layers = int(words[words.index("-ngl") + 1]) if "-ngl" in words else 99
if layers > 1:
    sys.exit("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
"""


def test_fewer_layers_on_a_full_gpu(converted: Path, tmp_path: Path, private_cache: Path) -> None:
    program = tmp_path / server_tool.NAME
    program.write_text(_FULL_GPU, encoding="utf-8")
    program.chmod(0o755)
    reporter = SilentReporter()
    session = Session(Toolchain(tmp_path, "explicit", "c0ffee", "cuda", "1"), Workspace(tmp_path), reporter, 1)
    plan = server.plan(converted, ServeOptions(port=free_port()), session)
    with server.serving(plan, None, session) as running:
        assert running.ngl == 1, "the file has two layers"
        log = running.service.log
    assert [warning.rpartition(". ")[2] for warning in reporter.warnings] == [
        "Trying again with 1 layers on the GPU."
    ]
    assert log.with_name(f"{log.stem}-out-of-memory-all.log").is_file()
    full = pytest.raises(DeviceMemoryError, match="The GPU ran out of memory while loading tiny-llama-F16")
    with full, server.serving(plan, 2, session):
        pass
