"""Fixtures: a quiet environment, small checkpoints, and the real toolchain where a test asks for it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from ggufkit.core.errors import ToolchainError
from ggufkit.core.records import Checkpoint, Toolchain
from ggufkit.llama import toolchain
from ggufkit.models import sources
from ggufkit.steps import convert
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests import hubserver, tiny
from tests.hubserver import HubServer

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell; the commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Tests run side by side: how long an example takes says nothing.
settings.register_profile("ggufkit", deadline=None)
settings.load_profile("ggufkit")

# Tests run side by side: threads that spin while they wait would take the processors from each other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each worker, and all that it starts, on one processor: tools for tiny models spend more time on waiting for the
    # other's threads than on computing.
    _cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cpus[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(_cpus)]})

# A tiny model has nothing that two threads of torch would share: they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, so that it leaves nothing in the user's."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("GGUFKIT_CACHE", str(cache))
    return cache


@pytest.fixture
def own_hub_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_cache: Path) -> None:
    """Caches of hubs' clients of the test's own, and no proxy in between."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HF_HOME": tmp_path / "hf", "MODELSCOPE_CACHE": tmp_path / "ms", "NO_PROXY": "*"}.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Both hubs, on the loopback and empty so far."""
    with hubserver.serve({}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        yield server


@pytest.fixture(scope="session")
def tools() -> Toolchain:
    """The real CPU toolchain: built on first use, then from the cache."""
    try:
        return toolchain.find("cpu")
    except ToolchainError as error:
        pytest.skip(f"no llama.cpp toolchain: {error.message}")


@pytest.fixture
def session(tools: Toolchain, tmp_path: Path) -> Iterator[Session]:
    """A session that works in a directory of its own."""
    work = Session(tools, Workspace(tmp_path / "work"), threads=2)
    with work.workspace.locked():
        yield work


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny random Llama checkpoint that llama.cpp converts."""
    return tiny.write_llama(tmp_path / "tiny-llama")


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of a run share: what one has made there, the others need not make again."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def converted(tools: Toolchain, whole_run: Path) -> Path:
    """That checkpoint's F16 GGUF, to be left as it is; its manifest and the checkpoint lie beside it.

    Made once: a conversion costs as much as twenty other commands, for what the converter imports.
    """
    home = whole_run / "converted"
    output = home / "tiny-llama-F16.gguf"
    with FileLock(whole_run / "converted.lock"):
        if not output.exists():
            found = sources.resolve(str(tiny.write_llama(home / "tiny-llama")))
            assert isinstance(found, Checkpoint)
            convert.convert(found, output, ConvertOptions(), Session(tools, Workspace(home)))
    return output


@pytest.fixture
def base(converted: Path, tmp_path: Path) -> Path:
    """A copy of that F16 GGUF, in a directory of its own."""
    copy = tmp_path / "base" / converted.name
    copy.parent.mkdir()
    return Path(shutil.copyfile(converted, copy))
