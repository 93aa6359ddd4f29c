"""llama.cpp's source: the pinned commit, from the submodule or from a source package on the user's PyPI mirror."""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ggufkit.core import process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.units import MIB

CONVERTER = "convert_hf_to_gguf.py"
LORA_CONVERTER = "convert_lora_to_gguf.py"
COMMIT_FILE = ".ggufkit-commit"

PINNED_COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
_PACKAGE = "llama-cpp-python"
_PACKAGE_VERSION = "0.3.36"
_PACKAGE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

# What a build and a conversion need of the tree; the web interface and the tests are most of its size.
_NEEDED = (
    "CMakeLists.txt", "LICENSE", "app", "cmake", "common", "conversion", CONVERTER, LORA_CONVERTER, "ggml", "gguf-py",
    "include", "licenses", "scripts", "src", "tools", "vendor",
)  # fmt: skip
_LEFT_OUT = "tools/ui/"
_EXAMPLES = ("examples/embedding/",)
_VOCABULARIES = tuple(f"models/ggml-vocab-{name}.gguf" for name in ("gpt-2", "qwen2", "llama-bpe"))
"""Real vocabularies, for tests and for benchmarks on models of random weights."""


@dataclass(frozen=True)
class Source:
    """A llama.cpp source tree. `commit` is "unknown" when it cannot be told."""

    path: Path
    commit: str


def is_source(path: Path) -> bool:
    """Whether `path` holds a llama.cpp source tree."""
    return (path / "CMakeLists.txt").is_file() and (path / "ggml").is_dir() and (path / CONVERTER).is_file()


def describe_source(path: Path) -> Source:
    """A source tree and its commit: from the note that ggufkit leaves, or from git's own files."""
    note = path / COMMIT_FILE
    if note.is_file():
        return Source(path, note.read_text().strip())
    return Source(path, _git_head(path) or "unknown")


def _git_head(path: Path) -> str | None:
    """The commit that a work tree or submodule is at, without running git."""
    git = path / ".git"
    if git.is_file():
        git = (path / git.read_text().partition(":")[2].strip()).resolve()
    head = git / "HEAD"
    if not head.is_file():
        return None
    text = head.read_text().strip()
    if not text.startswith("ref:"):
        return text
    ref = git / text.partition(":")[2].strip()
    return ref.read_text().strip() if ref.is_file() else None


def submodule() -> Source | None:
    """`vendor/llama.cpp` of a development checkout, if it is checked out."""
    path = Path(__file__).resolve().parents[2] / "vendor" / "llama.cpp"
    return describe_source(path) if is_source(path) else None


def pinned_source(reporter: Reporter) -> Source:
    """The pinned commit's source: the submodule, the cached copy, or a verified download.

    Raises:
        ToolchainError: it could not be fetched, or is not what was pinned.
    """
    vendored = submodule()
    if vendored is not None and vendored.commit == PINNED_COMMIT:
        return vendored
    target = cache_dir() / "llama.cpp" / PINNED_COMMIT[:12]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not is_source(target):
            _fetch(target, reporter)
    return describe_source(target)


def example(name: str, source: Path | None, commit: str, reporter: Reporter) -> Path | None:
    """The directory of one of llama.cpp's examples in a source tree; the pinned one's are fetched where they lack.

    Returns:
        None where this source has none, and is not the pinned one.
    """
    if source is None:
        return None
    _complete(source, commit, "examples", reporter)
    home = source / "examples" / name
    return home if home.is_dir() else None


def lora_converter(source: Path, commit: str, reporter: Reporter) -> Path | None:
    """The script that converts adapters, in a source tree; the pinned one's is fetched where it lacks.

    Returns:
        None where this source has none, and is not the pinned one.
    """
    _complete(source, commit, LORA_CONVERTER, reporter)
    script = source / LORA_CONVERTER
    return script if script.is_file() else None


def _complete(source: Path, commit: str, part: str, reporter: Reporter) -> None:
    """Bring what an earlier ggufkit left out when it unpacked the pinned source."""
    pinned = source == cache_dir() / "llama.cpp" / PINNED_COMMIT[:12] and commit == PINNED_COMMIT
    if not pinned or (source / part).exists():
        return
    anew = source.with_name(f"{source.name}-{part}")
    with FileLock(anew.with_suffix(".lock")):
        if not (source / part).exists():
            _fetch(anew, reporter)
            (anew / part).rename(source / part)
            shutil.rmtree(anew)


def needed_files(tree: Path) -> Iterator[tuple[Path, str]]:
    """What a build and a conversion need of a source tree: files, and their names in it."""
    for top in sorted(tree.iterdir()):
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            name = file.relative_to(tree).as_posix()
            if file.is_file() and _is_wanted(name):
                yield file, name


def unpack_archive(archive: Path) -> Source:
    """Unpack a llama.cpp source archive (any tar, or `git archive`) into the cache, once per content."""
    target = _home_of(archive)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not is_source(target):
            _unpack(archive, target, None)
    return describe_source(target)


def known(path: Path) -> Source | None:
    """A source tree, or that of an archive which was unpacked before; None if it is neither."""
    tree = _home_of(path) if path.is_file() else path
    return describe_source(tree) if is_source(tree) else None


def _home_of(archive: Path) -> Path:
    return cache_dir() / "llama.cpp" / f"archive-{sha256_file(archive)[:12]}"


def _fetch(target: Path, reporter: Reporter) -> None:
    downloads = cache_dir() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with reporter.step("Fetching llama.cpp's source with pip") as progress:

        def watch(_stream: str, text: str) -> None:
            counts = re.findall(r"Progress (\d+) of (\d+)", text)
            if counts:
                done, total = (int(n) / MIB for n in counts[-1])
                progress.update(done, total, "MiB")

        requirement = f"{_PACKAGE}=={_PACKAGE_VERSION}"
        argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", _PACKAGE, requirement]
        options = ["-d", str(downloads), "--progress-bar", "raw", "--disable-pip-version-check"]
        output = process.run([*argv, *options], log=cache_dir() / "logs" / "fetch-llama.cpp.log", on_text=watch)
    archives = sorted(downloads.glob("llama_cpp_python-*.tar.gz"))
    if output.returncode != 0 or not archives:
        raise ToolchainError(
            f"llama.cpp's source could not be fetched from the package index: {_reason(output)}",
            hint="Check the network or the mirror (`pip config set global.index-url URL`), or set "
            "GGUFKIT_LLAMA_CPP to a llama.cpp build, source directory or archive.",
            log=output.log,
        )
    _verify(archives[0])
    _unpack(archives[0], target, PINNED_COMMIT)
    shutil.rmtree(downloads, ignore_errors=True)


def _reason(output: process.ToolOutput) -> str:
    errors = [line for line in output.stderr.splitlines() if "ERROR" in line or "No module named" in line]
    return (errors or output.stderr.strip().splitlines() or ["pip said nothing"])[-1].strip()


def _verify(archive: Path) -> None:
    found = sha256_file(archive)
    if found != _PACKAGE_SHA256:
        archive.unlink()
        raise ToolchainError(
            f"The downloaded {archive.name} has SHA-256 {found}, expected {_PACKAGE_SHA256}.",
            hint="The mirror or a proxy changed it. Try again, or use another index.",
        )


def _unpack(archive: Path, target: Path, commit: str | None) -> None:
    """Unpack what is needed beside `target`, then give it its name."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            for member, name in _members(tar):
                _extract(tar, member, partial / name, partial)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ToolchainError(f"{archive} cannot be unpacked: {error}.", hint="Fetch it again.") from error
    if not is_source(partial):
        shutil.rmtree(partial, ignore_errors=True)
        raise ToolchainError(
            f"{archive} holds no llama.cpp source tree.", hint="Give an archive of the whole tree."
        )
    if commit is not None:
        (partial / COMMIT_FILE).write_text(commit + "\n")
    partial.rename(target)


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The needed files, with their names relative to the tree's root, wherever in the archive that is."""
    members = tar.getmembers()
    roots = [m.name[: -len(CONVERTER)] for m in members if m.name.endswith(CONVERTER)]
    root = min(roots, key=len) if roots else ""
    for member in members:
        name = member.name[len(root) :]
        if member.name.startswith(root) and member.isfile() and _is_wanted(name):
            yield member, name


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, home: Path) -> None:
    """Write one file. Python before 3.10.12 and 3.11.4 has no filter that keeps an archive inside a directory."""
    content = tar.extractfile(member)
    if content is None or not path.resolve().is_relative_to(home.resolve()):
        raise tarfile.TarError(f"{member.name} lies outside the tree")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(member.mode & 0o755 | 0o600)


def _is_wanted(name: str) -> bool:
    needed = name.partition("/")[0] in (*_NEEDED, COMMIT_FILE) and not f"{name}/".startswith(_LEFT_OUT)
    return needed or name in _VOCABULARIES or name.startswith(_EXAMPLES)
