"""Downloads from loopback hubs that behave as real ones do, and misbehave."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ggufkit.core.errors import CheckpointError, ResourceError, SourceError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Checkpoint
from ggufkit.models import sources
from ggufkit.models.sources import SourceOptions
from tests import hubserver, tiny
from tests.hubserver import COMMIT, Faults, HubServer
from tests.integration.run_cli import fails
from tests.shared import LLAMA, needs_shared

WEIGHTS = "model.safetensors"
ID = "acme/tiny-llama"
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_cache: Path) -> None:
    """Caches of the test's own, a token to lose, and no proxy in between."""
    for name in (
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HTTP_PROXY",
        "http_proxy",
        "MODELSCOPE_DOMAIN",
    ):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "HF_HOME": tmp_path / "hf", "MODELSCOPE_CACHE": tmp_path / "ms", "MODELSCOPE_HOME": tmp_path / "ms-home",
        "HF_TOKEN": "hf_secret", "MODELSCOPE_API_TOKEN": "ms-secret", "NO_PROXY": "*", "no_proxy": "*",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small checkpoint, its weights a few megabytes."""
    return hubserver.files_of(tiny.write_llama(tmp_path_factory.mktemp("model") / "tiny-llama"))


@pytest.fixture
def hub(content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hubserver.serve({ID: content}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        yield server


@pytest.fixture(params=["", "ms:"], ids=["hf", "ms"])
def model(request: pytest.FixtureRequest) -> str:
    """The model's name on either hub."""
    if request.param:
        pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    return f"{request.param}{ID}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that wait no time at all between attempts."""
    quick = types.SimpleNamespace(**{**vars(time), "sleep": lambda _s: None})
    monkeypatch.setattr("ggufkit.hub.failures.time", quick)
    monkeypatch.setattr("ggufkit.hub.downloads.pause", lambda _cancel, _s: None)


def get(model: str, hub: str = "auto", **options: bool) -> Checkpoint:
    found = sources.resolve(model, SourceOptions(hub, **options), SilentReporter())
    assert isinstance(found, Checkpoint)
    return found


def same(found: Checkpoint, content: dict[str, bytes]) -> bool:
    return all((found.path / name).read_bytes() == body for name, body in content.items())


def test_a_model_is_downloaded_once(model: str, hub: HubServer, content: dict[str, bytes]) -> None:
    found = get(model)
    assert same(found, content)
    assert (found.name, found.revision, found.source) == ("tiny-llama", COMMIT, model)
    assert {len(hub.content_requests(name)) for name in content} == {1}
    hub.asked.clear()
    assert get(model).path == found.path
    assert hub.asked == []


def test_asked_for_by_hub_only_the_commit_is_asked(model: str, hub: HubServer) -> None:
    get(model)
    hub.asked.clear()
    get(model, "modelscope" if model.startswith("ms:") else "hf")
    assert hub.asked
    assert hub.content_requests() == []


def test_offline_uses_what_is_there(model: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        get(model)
    assert hub.asked == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    online = get(model)
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(model) == online
    assert hub.asked == []


def test_a_hub_that_is_down_is_replaced_by_its_cache(
    model: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = get(model)
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    reporter = SilentReporter()
    chosen = SourceOptions("modelscope" if model.startswith("ms:") else "hf")
    assert sources.resolve(model, chosen, reporter) == online
    assert any("from the cache" in warning for warning in reporter.warnings)


def test_the_next_hub_answers_for_the_first(content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    with hubserver.serve({"LLM-Research/Llama-3.2-1B-Instruct": content}) as server:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        found = get("llama3.2-1b")
    assert found.source == "ms:LLM-Research/Llama-3.2-1B-Instruct"
    assert same(found, content)


def test_no_hub_answers(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="cannot be reached") as refused:
        get("acme/x")
    assert "HF_ENDPOINT=https://hf-mirror.com" in str(refused.value.hint)


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_download_goes_on(
    seed: int, model: str, hub: HubServer, content: dict[str, bytes], impatient: None
) -> None:
    size = len(content[WEIGHTS])
    cut = random.Random(seed).randrange(size)
    hub.faults.cuts[WEIGHTS] = [cut]
    assert same(get(model), content)
    sent = [sum(request.sent) for request in hub.content_requests(WEIGHTS)]
    assert sent[0] == cut
    # What came before the cut is not sent again, but for what was still in a buffer.
    assert sum(sent) <= size + (1 << 20)


@needs_shared
def test_a_connection_that_breaks_twenty_times(
    model: str, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    content = hubserver.files_of(LLAMA)
    size = len(content[WEIGHTS])
    choice = random.Random(1)
    with hubserver.serve({ID: content}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        hub.faults.cuts[WEIGHTS] = [choice.randrange(size // 10) for _ in range(20)]
        assert same(get(model), content)
        assert sum(sum(request.sent) for request in hub.content_requests(WEIGHTS)) < 1.6 * size


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_goes_on_in_the_next_process(
    how: signal.Signals, hub: HubServer, content: dict[str, bytes], tmp_path: Path
) -> None:
    size = len(content[WEIGHTS])
    hub.faults.stall[WEIGHTS] = size * 2 // 3
    argv = [sys.executable, "-m", "ggufkit", "convert", ID, "--out", str(tmp_path / "out")]
    running = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    blob = tmp_path / "hf" / "hub" / "models--acme--tiny-llama" / "blobs" / hubserver._sha256(content[WEIGHTS])
    unfinished = blob.with_name(f"{blob.name}.incomplete")
    deadline = time.monotonic() + 60
    while not (unfinished.is_file() and unfinished.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(how)
    running.wait(timeout=10)
    there = unfinished.stat().st_size
    hub.faults = Faults()
    hub.asked.clear()
    assert same(get(ID), content)
    assert [sum(request.sent) for request in hub.content_requests(WEIGHTS)] == [size - there]


def test_a_leftover_of_something_else_is_found_out(
    hub: HubServer, content: dict[str, bytes], tmp_path: Path
) -> None:
    blobs = tmp_path / "hf" / "hub" / "models--acme--tiny-llama" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hubserver._sha256(content[WEIGHTS])}.incomplete").write_bytes(b"\0" * 1000)
    with pytest.raises(SourceError, match="SHA-256"):
        get(ID)
    assert same(get(ID), content)


def test_finished_files_are_kept_when_another_fails(model: str, hub: HubServer, content: dict[str, bytes]) -> None:
    hub.faults = Faults(slow={WEIGHTS}, answers={WEIGHTS: [(404, {"X-Error-Code": "EntryNotFound"})] * 9})
    with pytest.raises(SourceError, match=r"model\.safetensors"):
        get(model)
    hub.faults = Faults()
    hub.asked.clear()
    assert same(get(model), content)
    assert {request.query.get("FilePath", WEIGHTS) for request in hub.content_requests()} == {WEIGHTS}
    assert all(WEIGHTS in str((request.path, request.query)) for request in hub.content_requests())


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_wrong_hash_is_found_and_removed(
    model: str, file: str, hub: HubServer, content: dict[str, bytes], impatient: None
) -> None:
    hub.faults.corrupt.add(file)
    with pytest.raises(SourceError, match=file.replace(".", r"\.")):
        get(model)
    hub.faults = Faults()
    assert same(get(model), content)


def test_a_file_damaged_in_the_cache_is_fetched_again(
    model: str, hub: HubServer, content: dict[str, bytes]
) -> None:
    found = get(model)
    weights = (found.path / WEIGHTS).resolve()
    weights.write_bytes(b"\0" * weights.stat().st_size)
    hub.asked.clear()
    assert same(get(model), content)
    assert [request.query.get("FilePath", WEIGHTS) for request in hub.content_requests()] == [WEIGHTS]


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_how_to_get_access(model: str, status: int, hub: HubServer) -> None:
    hub.faults.refuse = (status, GATED)
    with pytest.raises(SourceError, match="gated") as refused:
        get(model)
    assert "Ask for access at" in str(refused.value.hint)
    assert "log in" in str(refused.value.hint)


def test_what_is_not_there(model: str, hub: HubServer) -> None:
    with pytest.raises(SourceError, match="acme/tiny-llamax"):
        get(f"{model}x")
    with pytest.raises(SourceError, match="nope"):
        get(f"{model}@nope")


def test_a_busy_hub_is_waited_for(model: str, hub: HubServer, content: dict[str, bytes]) -> None:
    wait = (429, {"Retry-After": "1"})
    hub.faults = Faults(api_answers=[wait], answers={WEIGHTS: [wait]})
    started = time.monotonic()
    assert same(get(model), content)
    assert time.monotonic() - started >= 2


def test_a_hub_that_stays_busy(model: str, hub: HubServer, impatient: None) -> None:
    hub.faults.answers[WEIGHTS] = [(429, {"Retry-After": "1"})] * 99
    with pytest.raises(SourceError, match="429"):
        get(model)


def test_the_token_does_not_follow_to_another_host(model: str, hub: HubServer, content: dict[str, bytes]) -> None:
    with hubserver.serve({ID: content}, host="localhost") as storage:
        hub.faults.storage = storage.url
        assert same(get(model), content)
        assert {"secret" in str(request.token) for request in hub.asked} == {True}
        assert storage.asked
        assert {request.token for request in storage.asked} == {None}


def test_a_stalling_hub_ends_in_one_message(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.faults.stall[WEIGHTS] = 0
    with pytest.raises(SourceError, match="stalled"):
        get(ID)


def test_the_command_line_says_it_once(model: str, hub: HubServer, tmp_path: Path) -> None:
    hub.faults.stall[WEIGHTS] = 0
    env = {
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "MODELSCOPE_DOWNLOAD_TIMEOUT": "1",
        "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
    }
    message = fails(3, "convert", model, "--out", tmp_path / "out", env=env)
    assert "stalled" in message or "cannot be reached" in message
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_found_before_the_download(
    model: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggufkit.core.machine.free_disk", lambda _path: 1000)
    with pytest.raises(ResourceError, match="disk"):
        get(model)
    assert hub.content_requests() == []


@pytest.mark.parametrize("path", ["../../x", "/etc/x", "a/../../x"])
def test_a_path_outside_is_refused(model: str, path: str, hub: HubServer, tmp_path: Path) -> None:
    hub.faults.extra_entries.append(path)
    with pytest.raises(SourceError, match="outside"):
        get(model)
    assert hub.content_requests() == []


def test_what_another_tool_downloaded_is_used(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, private_cache: Path
) -> None:
    found = get(ID)
    shutil.rmtree(private_cache)
    hub.asked.clear()
    assert get(ID) == found
    assert hub.asked == []
    (found.path / WEIGHTS).unlink()
    assert get(ID) == found
    assert len(hub.content_requests()) <= 1


def test_what_another_tool_left_half_done_is_completed(hub: HubServer, private_cache: Path) -> None:
    found = get(ID)
    shutil.rmtree(private_cache)
    (found.path / "tokenizer.json").unlink()
    assert get(ID) == found
    assert (found.path / "tokenizer.json").is_file()


def test_pickled_weights(hub: HubServer, content: dict[str, bytes], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load

    tensors = load(content[WEIGHTS])
    file = tmp_path / "pytorch_model.bin"
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, file)
    hub.repos[ID] = {n: b for n, b in content.items() if n != WEIGHTS} | {file.name: file.read_bytes()}
    with pytest.raises(SourceError) as refused:
        get(ID)
    assert "--allow-pickle" in str(refused.value.hint)
    found = get(ID, allow_pickle=True)
    again = load((found.path / WEIGHTS).read_bytes())
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    assert (found.name, found.revision, found.source) == ("tiny-llama", COMMIT, ID)


class Evil:
    """What a pickle can do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_runs_no_code(hub: HubServer, content: dict[str, bytes], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"model.embed_tokens.weight": Evil(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    evil = (tmp_path / "pytorch_model.bin").read_bytes()
    hub.repos[ID] = {n: b for n, b in content.items() if n != WEIGHTS} | {"pytorch_model.bin": evil}
    with pytest.raises(CheckpointError, match="cannot be read"):
        get(ID, allow_pickle=True)
    assert not (tmp_path / "ran").exists()
