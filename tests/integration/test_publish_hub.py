"""Uploads to loopback hubs: a look first, then each file once, going on after a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import manifest_path, read_manifest, write_manifest
from ggufkit.core.records import Manifest
from ggufkit.llama.gguf import read_header
from ggufkit.modelfile import read_meta
from ggufkit.modelfile.prove import prove
from ggufkit.modelfile.reference import Reference
from tests import hubserver
from tests.fake_results import FAKES, split, write_results
from tests.hubserver import HubServer
from tests.integration.run_cli import Ended, fails, ggufkit
from tests.templates.catalog import converted, meta


@pytest.fixture
def root(tmp_path: Path, private_cache: Path) -> Path:
    root = write_results(tmp_path / "out", FAKES[:3])
    for file in root.glob("*.gguf"):
        made = read_manifest(file)
        assert made is not None
        write_manifest(file, Manifest(**{**vars(made), "output": {"sha256": sha256_file(file), "size_bytes": 1}}))
    return root


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hubserver.serve({}) as server:
        yield server


@pytest.fixture(params=["", "ms:"], ids=["hf", "ms"])
def repo(request: pytest.FixtureRequest) -> str:
    if request.param:
        pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    return f"{request.param}me/tiny-GGUF"


@pytest.fixture
def env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "HF_TOKEN": "hf_x", "MODELSCOPE_API_TOKEN": "ms-x",
        "HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_HOME": str(tmp_path / "ms-home"), "NO_PROXY": "*",
    }  # fmt: skip


def publish(root: Path, repo: str, env: dict[str, str], *more: str) -> Ended:
    ended = ggufkit("publish", root, repo, *more, env=env)
    assert ended.code == 0, ended.err
    return ended


def writes(hub: HubServer) -> list[str]:
    return [request.path for request in hub.asked if request.method in ("POST", "PUT")]


def test_without_yes_nothing_is_sent(root: Path, repo: str, hub: HubServer, env: dict[str, str]) -> None:
    shown = publish(root, repo, env).out
    assert "tiny-Q8_0.gguf" in shown
    assert "Nothing was uploaded" in shown
    assert writes(hub) == []


def test_everything_is_sent_once(root: Path, repo: str, hub: HubServer, env: dict[str, str]) -> None:
    assert "Uploaded:" in publish(root, repo, env, "--yes").out
    there = hub.repos["me/tiny-GGUF"]
    assert there.keys() >= {"README.md", *(f.name for f in root.glob("*.gguf"))}
    assert all((root / name).read_bytes() == body for name, body in there.items())
    assert not any(name.endswith((".manifest.json", ".log")) for name in there)
    hub.asked.clear()
    assert "all of it already" in publish(root, repo, env, "--yes").out
    assert writes(hub) == []


def test_the_card_follows_unless_it_was_edited_on_the_hub(
    root: Path, repo: str, hub: HubServer, env: dict[str, str]
) -> None:
    publish(root, repo, env, "--yes")
    there, card = hub.repos["me/tiny-GGUF"], root / "README.md"
    card.write_text("My own words.")
    publish(root, repo, env, "--yes")
    assert there["README.md"] == b"My own words."
    there["README.md"] = b"Words from the browser."
    card.write_text("My next words.")
    assert "--replace-card" in publish(root, repo, env, "--yes").out
    assert there["README.md"] == b"Words from the browser."
    publish(root, repo, env, "--yes", "--replace-card")
    assert there["README.md"] == b"My next words."


def test_one_directory_for_two_repositories(root: Path, repo: str, hub: HubServer, env: dict[str, str]) -> None:
    """Each has a card of its own, and neither was edited there."""
    publish(root, repo, env, "--yes")
    publish(root, "me/other", env, "--yes")
    gone = root / "tiny-Q5_0.gguf"
    manifest_path(gone).unlink()
    gone.unlink()
    for name in (repo, "me/other"):
        assert "left out" not in publish(root, name, env, "--yes").out
        card = hub.repos[name.removeprefix("ms:")]["README.md"].decode()
        assert "Q5_0" not in card
        assert name.removeprefix("ms:") in card


def test_an_interrupted_upload_goes_on(root: Path, repo: str, hub: HubServer, env: dict[str, str]) -> None:
    hub.faults.lost_uploads = 99
    message = fails(3, "publish", root, repo, "--yes", env=env)
    assert "did not accept" in message
    done = dict(hub.repos["me/tiny-GGUF"])
    assert "README.md" in done
    assert not any(name.endswith(".gguf") for name in done)
    hub.faults.lost_uploads = 0
    hub.asked.clear()
    publish(root, repo, env, "--yes")
    assert hub.repos["me/tiny-GGUF"].keys() > done.keys()
    sent = sum(request.sent[0] for request in hub.asked if request.path.startswith("lfs/"))
    assert sent == sum(f.stat().st_size for f in root.glob("*.gguf"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_may_not_write(
    root: Path, repo: str, status: int, hub: HubServer, env: dict[str, str]
) -> None:
    hub.faults.refuse_writes = (status, {})
    assert "token that may write" in fails(3, "publish", root, repo, "--yes", env=env)


@pytest.fixture
def chatting(tmp_path: Path, private_cache: Path) -> Path:
    """Two files with a chat template, one of them in parts; the user wrote a Modelfile for the other."""
    root = write_results(tmp_path / "out", FAKES[:2], template=str(meta("chatml").chat_template))
    split(root / "tiny-F16.gguf", 2)
    (root / "Modelfile.Q8_0").write_text('FROM ./tiny-Q8_0.gguf\nSYSTEM "Be brief."\nPARAMETER temperature 0.7\n')
    (root / "results.csv").write_text("name,variant,type,file,size_bytes,n_params,bpw\n")
    return root


FOR_OLLAMA = {"template", "system", "params"}
SENT = {
    "tiny-F16-00001-of-00002.gguf",
    "tiny-F16-00002-of-00002.gguf",
    "tiny-Q8_0.gguf",
    "Modelfile.Q8_0",
    "README.md",
}


def test_what_ollama_reads_goes_up_with_its_proof(
    chatting: Path, repo: str, hub: HubServer, env: dict[str, str]
) -> None:
    shown = {str(f): f.read_bytes() for f in chatting.rglob("*") if f.is_file()}
    listed = json.loads(publish(chatting, repo, env, "--json", "--dry-run").out)
    assert {str(f): f.read_bytes() for f in chatting.rglob("*") if f.is_file()} == shown
    publish(chatting, repo, env, "--yes")
    there = hub.repos["me/tiny-GGUF"]
    reports = {"results.csv", "results.json", "measurements.csv", "report.md", "report.html"}
    assert there.keys() == SENT | FOR_OLLAMA | reports
    assert {u["name"]: u["size_bytes"] for u in listed["uploads"]} == {n: len(b) for n, b in there.items()}
    assert there["system"] == b"Be brief."
    assert json.loads(there["params"]) == {"temperature": 0.7, "stop": ["<|im_end|>"]}
    told = read_meta(read_header(chatting / "tiny-Q8_0.gguf").metadata)
    prove(Reference(told), there["template"].decode(), converted("chatml").domain, count=30)
    card = there["README.md"].decode()
    assert all(f"[`{name}`]({hub.url}/" in card for name in FOR_OLLAMA)
    assert "prompts identical" in card
    assert "<|im_start|>user" in card


def test_links_lead_to_the_files(chatting: Path, repo: str, hub: HubServer, env: dict[str, str]) -> None:
    """On the hub in use, which here is a mirror; each names a file that is there."""
    publish(chatting, repo, env, "--yes", "--include", "*F16*")
    there = hub.repos["me/tiny-GGUF"]
    card = there["README.md"].decode()
    links = [link for link in re.findall(r"\]\((http[^)]*)\)", card) if "/resolve/" in link]
    assert {link.rpartition("/")[2] for link in links} >= SENT - {"tiny-Q8_0.gguf", "Modelfile.Q8_0", "README.md"}
    assert all(link.startswith(f"{hub.url}/") and link.rpartition("/")[2] in there for link in links)
    assert "tiny-Q8_0.gguf](" not in card
