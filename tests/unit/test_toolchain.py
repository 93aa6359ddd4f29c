"""Finding llama.cpp, without building it: sources, stamps, origins, and what is said when something is missing."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from ggufkit import cli as command_line
from ggufkit.core import process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import backends, build, cuda, programs, source, toolchain
from ggufkit.llama.cuda import Gpu
from ggufkit.llama.source import CONVERTER, PINNED_COMMIT, Source

CPU = backends.BY_NAME["cpu"]


@pytest.fixture(autouse=True)
def _quiet(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GGUFKIT_LLAMA_CPP", raising=False)
    monkeypatch.setattr(source, "submodule", lambda: None)


def make_tree(root: Path, prefix: str = "") -> Path:
    """A directory that looks like llama.cpp's source."""
    tree = root / prefix if prefix else root
    for folder in ("ggml", "tools/ui", "tools/quantize", "models", "tests"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
        (tree / folder / "file.txt").write_text(folder)
    (tree / "CMakeLists.txt").write_text("project(x)")
    (tree / CONVERTER).write_text("print()")
    return tree


def fake_build(
    directory: Path, commit: str = PINNED_COMMIT, backend: str = "cpu", flags: Sequence[str] = ()
) -> Path:
    """A finished build without a compiler."""
    (directory / "bin").mkdir(parents=True)
    for tool in build.TOOLS:
        (directory / "bin" / tool).write_text("#!/bin/sh\n")
        (directory / "bin" / tool).chmod(0o755)
    stamp = {
        "commit": commit,
        "backend": backend,
        "flags": list(flags),
        "version": "1",
        "source": "x",
        "seconds": 1.0,
    }
    (directory / build.STAMP).write_text(json.dumps(stamp))
    return directory


def archive(tmp_path: Path, prefix: str) -> Path:
    tree = make_tree(tmp_path / "tree", prefix)
    (tree / source.COMMIT_FILE).write_text("a" * 40)
    path = tmp_path / "llama.cpp.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "tree", arcname=".")
    return path


@pytest.mark.parametrize("prefix", ["", "llama.cpp-master", "llama_cpp_python-0.3.36/vendor/llama.cpp"])
def test_an_archive_is_unpacked_once_and_trimmed(tmp_path: Path, prefix: str) -> None:
    path = archive(tmp_path, prefix)
    found = source.unpack_archive(path)
    assert found.commit == "a" * 40
    assert (found.path / "tools" / "quantize" / "file.txt").is_file()
    assert not (found.path / "tools" / "ui").exists()
    assert not (found.path / "models").exists()
    marker = found.path / "marker"
    marker.write_text("")
    assert source.unpack_archive(path).path == found.path
    assert marker.exists()


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "x.tar.gz"
    broken.write_bytes(b"no archive")
    with pytest.raises(ToolchainError, match="cannot be unpacked"):
        source.unpack_archive(broken)
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        tar.add(broken, arcname="hello.txt")
    with pytest.raises(ToolchainError, match=r"holds no llama.cpp source tree"):
        source.unpack_archive(tmp_path / "y.tar")


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "tree", arcname="x")
        tar.add(tmp_path / "tree" / CONVERTER, arcname="x/ggml/../../../../escaped.txt")
    with pytest.raises(ToolchainError):
        source.unpack_archive(path)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_the_commit_of_a_work_tree(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    assert source.describe_source(tree).commit == "unknown"
    (tree / ".git" / "refs" / "heads").mkdir(parents=True)
    (tree / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tree / ".git" / "refs" / "heads" / "main").write_text("b" * 40 + "\n")
    assert source.describe_source(tree).commit == "b" * 40
    (tree / ".git" / "HEAD").write_text("c" * 40 + "\n")
    assert source.describe_source(tree).commit == "c" * 40


def test_a_damaged_download_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
    file.write_bytes(b"tampered")
    with pytest.raises(ToolchainError, match=r"has SHA-256 [0-9a-f]{64}, expected 832db069"):
        source._verify(file)
    assert not file.exists()


def test_builds_of_different_flags_live_side_by_side(tmp_path: Path) -> None:
    tree = Source(make_tree(tmp_path), PINNED_COMMIT)
    paths = {build.build_dir(tree, b) for b in backends.BACKENDS}
    paths |= {build.build_dir(tree, CPU, ("-DX=1",)), build.build_dir(Source(tree.path, "d" * 40), CPU)}
    assert len(paths) == len(backends.BACKENDS) + 2


def test_the_pinned_build_in_the_cache(private_cache: Path) -> None:
    assert toolchain.locate("cpu") is None
    tree = make_tree(private_cache / "llama.cpp" / PINNED_COMMIT[:12])
    assert toolchain.locate("cpu") is None
    fake_build(build.build_dir(Source(tree, PINNED_COMMIT), CPU))
    found = toolchain.locate("cpu")
    assert found is not None
    assert (found.origin, found.commit, found.backend, found.source) == ("built", PINNED_COMMIT, "cpu", tree)
    assert toolchain.find("cpu") == found


def test_of_several_cuda_builds_the_one_for_this_gpu(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where machines share a cache."""
    cuda_build, tree = backends.BY_NAME["cuda"], make_tree(private_cache / "llama.cpp" / PINNED_COMMIT[:12])
    made = {}
    for arch in ("80", "90"):
        flags = (f"-DCMAKE_CUDA_ARCHITECTURES={arch}",)
        home = build.build_dir(Source(tree, PINNED_COMMIT), cuda_build, flags)
        made[arch] = fake_build(home, backend="cuda", flags=flags) / "bin"
    for arch in ("80", "86"):
        monkeypatch.setattr(cuda, "gpus", lambda arch=arch: (Gpu(0, "GPU-1", "A GPU", arch, 1 << 30),))
        found = toolchain.installed(cuda_build)
        assert found is not None
        assert found.dir == made["80"]
    monkeypatch.setattr(cuda, "gpus", lambda: (Gpu(0, "GPU-1", "A GPU", "75", 1 << 30),))
    assert toolchain.installed(cuda_build) is None


def test_an_unfinished_build_is_none(private_cache: Path) -> None:
    tree = make_tree(private_cache / "llama.cpp" / PINNED_COMMIT[:12])
    directory = fake_build(build.build_dir(Source(tree, PINNED_COMMIT), CPU))
    (directory / build.STAMP).unlink()
    assert toolchain.locate("cpu") is None


def test_an_explicit_build_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build(tmp_path / "mine", "e" * 40)
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(tmp_path / "mine"))
    found = toolchain.find("cpu")
    assert (found.origin, found.commit, found.dir) == ("explicit", "e" * 40, tmp_path / "mine" / "bin")


def test_an_explicit_build_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build(tmp_path / "mine")
    (tmp_path / "mine" / "bin" / "llama-bench").unlink()
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(tmp_path / "mine"))
    with pytest.raises(ToolchainError, match="lacks llama-bench"):
        toolchain.find("cpu")


def test_a_converter_of_another_commit_is_refused_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = Source(make_tree(tmp_path / "pinned"), PINNED_COMMIT)
    monkeypatch.setattr(source, "pinned_source", lambda reporter: pinned)
    reporter = SilentReporter()
    other = Toolchain(tmp_path, "path", "f" * 9, "cpu", "1", None)
    with pytest.raises(ToolchainError, match="are of commit fffffffff, the converter of 0c1e57098bba"):
        toolchain.converter_source(other, reporter)
    assert toolchain.converter_source(other, reporter, force=True) == pinned.path
    same = Toolchain(tmp_path, "path", PINNED_COMMIT[:7], "cpu", "1", None)
    assert toolchain.converter_source(same, reporter) == pinned.path


@pytest.mark.parametrize(
    ("absent", "message"),
    [("cmake", "needs cmake"), ("ninja", "needs ninja"), ("c++ g++ clang++ cl", "needs a C++ compiler")],
)
def test_a_missing_tool_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, message: str
) -> None:
    """cmake and ninja are fetched; here pip cannot."""
    failed = process.ToolOutput(argv=("pip",), returncode=1, stdout="", stderr="", duration_s=0.0)
    monkeypatch.setattr(process, "run", lambda *_args, **_options: failed)
    for find in ("find_program", "find_recent"):
        monkeypatch.setattr(build, find, lambda name: None if name in absent.split() else f"/bin/{name}")
    with pytest.raises(ToolchainError, match=message.replace("+", r"\+")) as caught:
        build.build(Source(make_tree(tmp_path), PINNED_COMMIT), build.BuildFor(CPU), SilentReporter())
    assert "install" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        (["cmake version 3.16.3\n\nCMake suite", "cmake version 4.4.4"], "beside"),
        (["cmake version 3.25.1", "cmake version 4.4.4"], "first"),
        (["cmake3 version 3.20", "cmake version 2.8.12"], None),
        (["who knows"], "first"),
        ([], None),
    ],
)
def test_a_cmake_that_is_too_old_is_passed_over(
    versions: list[str], taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = dict(zip(("first", "beside"), versions, strict=False))
    monkeypatch.setattr(programs, "_found", lambda _name: iter(said))

    def run(argv: list[str]) -> process.ToolOutput:
        return process.ToolOutput(tuple(argv), 0, said[argv[0]], "", 0.0)

    monkeypatch.setattr(process, "run", run)
    assert programs.find_recent("cmake") == taken
    assert programs.find_recent("ninja") == next(iter(said), None)


def test_another_backend_than_the_explicit_build_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build(tmp_path / "mine", backend="vulkan")
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(tmp_path / "mine"))
    assert toolchain.find("cpu").backend == "cpu"
    assert toolchain.find("auto").backend == "vulkan"
    with pytest.raises(ToolchainError, match="is built for vulkan, not cuda"):
        toolchain.find("cuda")


def test_status_knows_a_source_that_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in an archive, which is not unpacked for that."""
    given = archive(tmp_path, "llama.cpp/")
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(given))
    assert toolchain.locate("cpu") is None
    assert source.known(given) is None
    unpacked = source.unpack_archive(given)
    assert toolchain.locate("cpu") is None, "nothing is built yet"
    made = fake_build(build.build_dir(unpacked, CPU), unpacked.commit)
    found = toolchain.locate("cpu")
    assert found is not None
    assert (found.origin, found.dir, found.source) == ("explicit", made / "bin", unpacked.path)
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(unpacked.path))
    assert toolchain.locate("cpu") == found
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(tmp_path / "nowhere"))
    with pytest.raises(ToolchainError, match="holds neither"):
        toolchain.locate("cpu")


def test_builds_of_an_earlier_ggufkit(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used, with a word about it, until there is one with what is compiled in now."""
    tree = make_tree(private_cache / "llama.cpp" / PINNED_COMMIT[:12])
    there = build.build_dir(Source(tree, PINNED_COMMIT), CPU)
    old = fake_build(there.with_name(there.name + "0"))
    said: list[str] = []
    reporter = SilentReporter()
    monkeypatch.setattr(reporter, "info", said.append)
    found = toolchain.find("cpu", reporter)
    assert found.dir.parent == old
    assert toolchain.is_outdated(found)
    assert said == [
        "An earlier ggufkit built this llama.cpp. Build it anew: ggufkit toolchain install --backend cpu"
    ]
    new = fake_build(there)
    stamp = json.loads((new / build.STAMP).read_text())
    (new / build.STAMP).write_text(json.dumps(stamp | {"additions": build.additions(CPU)}))
    os.utime(new / build.STAMP, (1, 1))  # older, but with what is compiled in now
    found = toolchain.find("cpu", reporter)
    assert (found.dir.parent, toolchain.is_outdated(found), len(said)) == (new, False, 1)


def test_only_what_is_compiled_in_counts() -> None:
    assert build.additions(CPU) != build.additions(backends.BY_NAME["cuda"])
    assert build.additions(CPU) == build.additions(backends.BY_NAME["metal"])


def test_status_knows_a_build_under_way(private_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = private_cache / "toolchains" / "abc-cpu-1.lock"
    lock.parent.mkdir(parents=True)
    log = private_cache / "logs" / "build-abc-cpu-1.log"
    log.parent.mkdir()
    log.write_text("[1/300] Building\n[120/300] Building\n")
    (lock.parent / "old-cpu-2.lock").touch()
    assert build.under_way() == []
    with FileLock(lock):
        assert build.under_way() == [build.UnderWay("abc-cpu-1", 120, 300)]
        command_line.cli.main(["toolchain", "status", "--json"], standalone_mode=False)
        assert json.loads(capsys.readouterr().out)["building"] == [
            {"name": "abc-cpu-1", "done": 120, "total": 300}
        ]
        command_line.cli.main(["toolchain", "status"], standalone_mode=False)
    assert capsys.readouterr().out == "building abc-cpu-1: 120 of 300 files\n"
