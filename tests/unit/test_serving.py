"""A served model: where it is reached, what fits, what others start it with; and what a client finds wrong."""

from __future__ import annotations

import ast
import shlex
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ggufkit.commands import serve as commands
from ggufkit.core.errors import BusyError, GgufError, InputError, ResourceError, ToolchainError, UsageError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import server_tool
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.server_argv import Listening
from ggufkit.modelfile.metadata import ChatMeta
from ggufkit.request import RunOptions
from ggufkit.serving import answers, asking, deploy, room, server
from ggufkit.serving import check as checking
from ggufkit.serving.answers import ANSWERING
from ggufkit.serving.asking import Asked
from ggufkit.serving.endpoint import KEY, Endpoint, is_loopback
from ggufkit.serving.room import Cache
from ggufkit.serving.server import Plan
from ggufkit.serving.vectors import EMBEDDING
from tests.openai_server import StandIn, speaking

GIB = 1 << 30
HERE = Endpoint("127.0.0.1", 8080, "llama")


def header(n_bytes: int = GIB, **told: Any) -> GgufHeader:
    """Of a model with 32 layers whose KV cache in F16 takes 128 KiB for a token."""
    sizes = {
        "block_count": 32, "embedding_length": 4096, "feed_forward_length": 14336, "context_length": 32768,
        "attention.head_count": 32, "attention.head_count_kv": 8, **told,
    }  # fmt: skip
    named = {f"llama.{name}": value for name, value in sizes.items()}
    return GgufHeader(Path("m.gguf"), 3, {"general.architecture": "llama", **named}, (), 0, 32, n_bytes)


def test_the_snippets_are_what_they_say() -> None:
    words = shlex.split(HERE.curl())
    assert words[:2] == ["curl", "http://127.0.0.1:8080/v1/chat/completions"]
    assert yaml.safe_load(words[-1])["model"] == "llama"
    ast.parse(HERE.python())
    strange = Endpoint("::1", 1, "l'\"\n", "secret", embeds=True)
    ast.parse(strange.python())
    assert strange.base_url == "http://[::1]:1/v1"
    assert "secret" not in strange.curl() + strange.python()
    assert "/embeddings" in strange.curl()
    assert replace(HERE, host="0.0.0.0").root == "http://127.0.0.1:8080"
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.1.2", "me")] == [
        True, True, True, False, False, False]  # fmt: skip


@pytest.mark.parametrize(
    ("free", "found"),
    [
        (16 * GIB, (32768, "f16")),
        (5 * GIB, (16384, "f16")),
        (2.4 * GIB, (8192, "q8_0")),
        (2.0 * GIB, (4096, "q8_0")),
    ],
)
def test_a_context_that_fits(free: float, found: tuple[int, str]) -> None:
    cache = room.choose(header(), int(free))
    assert (cache.n_ctx, cache.kv_type) == found
    assert cache.fits
    assert cache.n_bytes == found[0] * (128 << 10) * (1 if found[1] == "f16" else 34 / 64)


def test_what_does_not_fit() -> None:
    with pytest.raises(ResourceError, match=r"m\.gguf needs .* for 512 tokens; 1 GiB are free") as refused:
        room.choose(header(), GIB)
    assert refused.value.exit_code == 6
    assert not room.choose(header(), GIB, n_ctx=4096).fits, "the user decides"
    assert room.choose(header(), 16 * GIB, kv_type="q4_0").kv_type == "q4_0"
    narrow = header(**{"attention.key_length": 80})
    assert room.choose(narrow, int(2.4 * GIB)).kv_type == "f16", "heads of 80 values do not divide into blocks"
    encoder = header(**{"attention.causal": False, "context_length": 512})
    assert room.choose(encoder, 2 * GIB) == Cache(512, "f16", 0)


def plan(**more: Any) -> Plan:
    endpoint = replace(HERE, **more)
    listening = Listening(endpoint.host, 8080, endpoint.model, 4096, "f16", 4)
    return Plan(
        Path("/opt/llama-server"), Path("/m/a b%.gguf"), endpoint, listening, Cache(4096, "f16", 1), 2, "cpu"
    )


def test_a_unit_of_systemd() -> None:
    unit = deploy.systemd(plan(), None)
    started = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert started.startswith('ExecStart=/opt/llama-server -m "/m/a b%%.gguf" --host 127.0.0.1 --port 8080')
    assert "EnvironmentFile" not in unit
    keyed = deploy.systemd(plan(host="0.0.0.0", api_key="secret"), None)
    assert "EnvironmentFile=%h/.config/ggufkit/llama.env" in keyed
    assert "secret" not in keyed
    lines = deploy.systemd(plan(model="a\nExecStartPre=/bin/x", host="fe80::1%eth0"), None).splitlines()
    assert not any(line.startswith("ExecStartPre") for line in lines)
    assert next(line for line in lines if line.startswith("Description=")).count("%%eth0") == 1


def test_the_users_own_key_is_not_that_of_a_server_without_one() -> None:
    assert plan().environment()[KEY] == ""
    assert plan(api_key="secret").environment()[KEY] == "secret"


@pytest.mark.parametrize("key", ["a,b", 'a"b', "a\nb"])
def test_a_key_that_would_be_several(key: str) -> None:
    with pytest.raises(UsageError, match="An API key has no commas"):
        server._require_one_key(key)
    server._require_one_key("sk-1_ä")
    server._require_one_key(None)


def test_a_configuration_of_llama_swap(tmp_path: Path) -> None:
    file = tmp_path / "swap.yaml"
    deploy.llama_swap(plan(), None, file)
    deploy.llama_swap(plan(model="other", host="0.0.0.0", api_key="secret"), 7, file)
    found = yaml.safe_load(file.read_text(encoding="utf-8"))["models"]
    assert list(found) == ["llama", "other"]
    words = shlex.split(found["other"]["cmd"])
    assert words[words.index("--port") + 1] == "${PORT}"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("-m") + 1] == "/m/a b%.gguf"
    assert "secret" not in file.read_text(encoding="utf-8")
    for written, expected in (("models:\n", ["llama"]), ("models: [x]\n", "no mapping of names to entries")):
        file.write_text(deploy._HEAD + written, encoding="utf-8")
        if isinstance(expected, list):
            deploy.llama_swap(plan(), None, file)
            assert list(yaml.safe_load(file.read_text(encoding="utf-8"))["models"]) == expected
        else:
            with pytest.raises(InputError, match=expected):
                deploy.llama_swap(plan(), None, file)
    file.write_text("models: {}\n", encoding="utf-8")
    with pytest.raises(InputError, match="ggufkit did not write it"):
        deploy.llama_swap(plan(), None, file)


def test_an_address_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BusyError, match="another server listens there"):
            server.require_free("127.0.0.1", other.getsockname()[1])
    with pytest.raises(InputError, match=r"Nothing can listen on 192\.0\.2\.1"):
        server.require_free("192.0.2.1", 8080)


def test_a_build_of_one_s_own_without_the_server(tmp_path: Path) -> None:
    own = Toolchain(tmp_path, "explicit", "c0ffee", "cpu", "1")
    with pytest.raises(ToolchainError, match="has no llama-server, which serving needs"):
        server_tool.find(own, SilentReporter())
    (tmp_path / "llama-server").touch()
    assert server_tool.find(own, SilentReporter()) == tmp_path / "llama-server"


@pytest.fixture
def meta() -> ChatMeta:
    """A file without a template: then no program renders one."""
    return ChatMeta("m", "llama", None, end_tokens=("<|im_end|>",))


CHECKS = {"models": checking._models, "key": checking._key, **ANSWERING, **EMBEDDING}
CHECKS["answers together"] = ANSWERING["together"]  # embeddings are asked for together, too


def outcome(name: str, meta: ChatMeta, *faults: str, **more: Any) -> asking.Outcome:
    pytest.importorskip("openai", reason="the extra `serve` is not installed")
    with speaking(StandIn(faults, **more)) as endpoint:
        asked = Asked(asking.client_of(endpoint), endpoint, meta, Toolchain(Path(), "built", "c0ffee", "cpu", "1"))
        with asked.client:
            return checking._outcome(name, CHECKS[name], asked)


@pytest.mark.parametrize("name", [*CHECKS])
def test_what_clients_expect(name: str, meta: ChatMeta) -> None:
    found = outcome(name, meta, api_key="secret")
    assert found.passed is (None if name == "template" else True), found.said
    timed = ("chat", "streaming", "together", "embeddings", "answers together")
    assert (found.tokens_per_s is not None) == (name in timed)


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("models", "model", "the list of models has ['other']"),
        ("key", "key", "a wrong key is accepted"),
        ("chat", "silent", "it says nothing"),
        ("chat", "error", "no slot is free"),
        ("streaming", "stream", "it streams"),
        ("streaming", "silent", "it says nothing"),
        ("stop tokens", "leak", "it shows ['<|im_end|>']"),
        ("stop tokens", "stop", "it goes on after"),
        ("JSON schema", "schema", "it says '{'"),
        ("tool call", "tool", "it calls 'get_weather' with '{'"),
        ("embeddings", "vector", "the same text has embeddings"),
        ("together", "error", "no slot is free"),
        ("answers together", "silent", "it says nothing"),
    ],
)
def test_what_a_client_finds_wrong(name: str, fault: str, said: str, meta: ChatMeta) -> None:
    found = outcome(name, meta, fault, api_key="secret")
    assert found.passed is False
    assert said in found.said


def test_an_answer_that_ends_at_once_is_one(meta: ChatMeta) -> None:
    found = outcome(
        "answers together", meta, says=lambda asked: "" if "egg" in asked["messages"][0]["content"] else "So."
    )
    assert found.passed, found.said


@pytest.mark.parametrize(
    ("streamed", "whole", "same"),
    [
        ("a llama", "a llama", True),
        ("a llama ", "a llama \ufffd", True),
        ("a \ufffdb", "a \ufffdbcd", True),
        ("a llama", "a llama.", False),
        ("a ", "a \ufffdllama", False),
        ("a llama\ufffd", "a llama", False),
    ],
)
def test_a_character_that_an_answer_ends_within_need_not_be_streamed(
    streamed: str, whole: str, same: bool
) -> None:
    assert answers._same(streamed, whole) is same


def test_what_does_not_apply(meta: ChatMeta) -> None:
    assert outcome("key", meta).passed is None
    assert outcome("tool call", meta, tools=False).said == "the template knows no tools"


def test_what_is_no_model_is_said_before_tools_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggufkit.commands.serve._session", lambda *_: pytest.fail("tools were looked for"))
    file = tmp_path / "hosts"
    file.write_text("no model")
    given = (file, server.ServeOptions(), RunOptions(), SilentReporter())
    with pytest.raises(GgufError, match="is not a GGUF"):
        commands.plan(*given)
    with pytest.raises(GgufError, match="is not a GGUF"), commands.serve(*given):
        pytest.fail("it is served")
