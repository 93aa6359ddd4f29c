"""Where a repository's files are had: on the hubs, and on mirrors of them."""

from __future__ import annotations

import pytest

from ggufkit.core.errors import InputError
from ggufkit.hub import names
from ggufkit.hub.addresses import Address, require_repo

VARIABLES = ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN")


@pytest.fixture(autouse=True)
def hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_hugging_face() -> None:
    address = Address("me/x")
    assert address.page == "https://huggingface.co/me/x"
    assert address.link("a b(1)|#.gguf") == "https://huggingface.co/me/x/resolve/main/a%20b%281%29%7C%23.gguf"
    assert (address.ollama, address.environment, address.owner) == ("hf.co/me/x", "", "me")
    assert address.download("a b.gguf") == "hf download me/x 'a b.gguf' --local-dir ."
    assert address.download("a-*.gguf") == "hf download me/x --include 'a-*.gguf' --local-dir ."


def test_modelscope() -> None:
    address = Address("ms:me/x")
    assert address.page == "https://modelscope.cn/models/me/x"
    assert address.link("a.gguf") == "https://modelscope.cn/models/me/x/resolve/master/a.gguf"
    assert (address.ollama, address.environment, address.owner) == ("modelscope.cn/me/x", "", "me")
    assert address.download("a.gguf") == "modelscope download --model me/x a.gguf --local_dir ."


@pytest.mark.parametrize(
    ("repo", "variable", "host", "ollama"),
    [
        ("me/x", "HF_ENDPOINT", "https://mirror.example/hf", "mirror.example/hf/me/x"),
        ("me/x", "HF_ENDPOINT", "http://mirror.example", None),
        ("ms:me/x", "MODELSCOPE_ENDPOINT", "https://mirror.example", "mirror.example/me/x"),
    ],
)
def test_a_mirror_is_told_to_the_tools(
    repo: str, variable: str, host: str, ollama: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TLS Ollama would not speak with it."""
    monkeypatch.setenv(variable, f"{host}/")
    address = Address(repo)
    assert address.link("a.gguf").startswith(f"{host}/")
    assert address.download("a.gguf").startswith(f"{variable}={host} ")
    assert address.ollama == ollama


@pytest.mark.parametrize("given", ["x", "", "a/b/c", "../x", "hf:me/x", "me/ x", "ms:x", "me/x\n", "https://a/b"])
def test_what_is_no_repository(given: str) -> None:
    with pytest.raises(InputError, match="is not a repository"):
        require_repo(given)


def test_a_base_model_has_the_name_of_the_hub_that_a_card_is_for() -> None:
    hf, ms = "meta-llama/Llama-3.2-1B-Instruct", "LLM-Research/Llama-3.2-1B-Instruct"
    assert names.on_huggingface(f"ms:{ms}") == names.on_huggingface(hf) == hf
    assert names.on_modelscope(f"ms:{ms}") == names.on_modelscope(hf) == ms
    assert names.on_modelscope("acme/tiny") == names.on_modelscope("ms:acme/tiny") == "acme/tiny"
