"""llama.cpp for workers: built on one machine, and had by the others of its kind."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from ggufkit.core.errors import ToolchainError
from ggufkit.core.records import Toolchain
from ggufkit.llama import build
from ggufkit.sweep import toolchains
from ggufkit.sweep.stores import PathStore
from tests.listening import Listener


@pytest.fixture(scope="module")
def store(tools: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> PathStore:
    """A store to which this machine's toolchain was sent."""
    out = PathStore(tmp_path_factory.mktemp("store"))
    toolchains.offer("cpu", out)
    if not out.names(f"{toolchains.PLACE}/"):
        pytest.skip("this llama.cpp was not built by ggufkit")
    return out


@pytest.fixture
def no_build(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no llama.cpp, and cannot build it."""

    def refuse(*_given: object) -> Path:
        raise ToolchainError("It would be built.")

    monkeypatch.setenv("PATH", str(private_cache))
    monkeypatch.setattr(build, "build", refuse)


@pytest.mark.usefixtures("no_build")
def test_a_machine_of_the_same_kind_gets_it(store: PathStore, tools: Toolchain, private_cache: Path) -> None:
    found = toolchains.provide("cpu", store, Listener(), nullcontext)
    assert found.commit == tools.commit
    assert found.dir.is_relative_to(private_cache)
    assert found.source is not None
    assert found.source.is_relative_to(private_cache)
    assert {file.name for file in found.dir.iterdir()} == {file.name for file in tools.dir.iterdir()}
    assert toolchains.provide("cpu", PathStore(private_cache / "empty"), Listener(), nullcontext) == found


@pytest.mark.usefixtures("no_build")
def test_what_does_not_compute_here_is_built_anew(store: PathStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_result(_tools: Toolchain) -> None:
        raise ToolchainError("An instruction is unknown.")

    monkeypatch.setattr(toolchains, "self_check", no_result)
    listener = Listener()
    with pytest.raises(ToolchainError, match=r"It would be built|could not be fetched"):
        toolchains.provide("cpu", store, listener, nullcontext)


@pytest.mark.usefixtures("no_build")
def test_another_kind_of_machine_does_not_take_it(store: PathStore, monkeypatch: pytest.MonkeyPatch) -> None:
    here = toolchains.kind_of_machine("cpu")
    monkeypatch.setattr(toolchains, "_features", lambda: ["avx9"])
    assert toolchains.kind_of_machine("cpu") != here
    with pytest.raises(ToolchainError):
        toolchains.provide("cpu", store, Listener(), nullcontext)
