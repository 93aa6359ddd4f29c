"""One step: is its result fresh, and why not; run it; publish the result atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from ggufkit.core import machine, oserrors
from ggufkit.core.errors import BusyError, GgufError, InputError, ResourceError, ToolError
from ggufkit.core.hashing import remember, sha256_file, sha256_files
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.manifest import PARTIAL, SCHEMA, manifest_path, open_manifest, read_manifest, write_manifest
from ggufkit.core.part_names import part_name
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import Reporter, end_if
from ggufkit.core.records import Json, Manifest
from ggufkit.core.units import size
from ggufkit.llama.gguf import gguf_sha256, read_header

PRIVATE = ".ggufkit"
_NEXT_TO_NOTHING = 8 << 20
_OUT = "Choose a directory that you can write with --out."
_IN_THE_OPEN = ("*.gguf", "*.recipe.yaml", "*.imatrix", "Modelfile.*", "*.manifest.json", "results.*", "report.*")
"""What steps put among the user's own files."""


@dataclass(frozen=True)
class Recipe:
    """All that decides a step's result: equal recipes give equal results.

    Args:
        step, version: the step's name, and a number that grows when its way of working changes.
        inputs: SHA-256 by role ("base", "corpus", "imatrix"). One that is read only to make what is not there yet may
            come with what was `Made`.
        params: parameters that change the result; threads do not change a quantization.
        toolchain: identity of the tools used, None if none is.
        reads: the files behind the hashes of `inputs`, which may not change until the result is there.
    """

    step: str
    version: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Json] = field(default_factory=dict)
    toolchain: str | None = None
    reads: Sequence[Input] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """A short name of all of it, for what a step keeps to go on after an interruption."""
        decisive = asdict(replace(self, reads=()))
        del decisive["reads"]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Made:
    """What making an artefact left behind besides the file.

    Args:
        runs: the tools that ran.
        notes: facts worth keeping.
        inputs: hashes of inputs that were read while it was made, which its recipe lacks.
    """

    runs: Sequence[ToolOutput] = ()
    notes: Mapping[str, Json] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A published artefact. `fresh` is true when it was there already; `reason` says why it was (not) made."""

    path: Path
    manifest: Manifest
    fresh: bool
    reason: str

    @property
    def sha256(self) -> str:
        """The artefact's hash, as its manifest holds it."""
        return str(self.manifest.output["sha256"])


@dataclass(frozen=True)
class Workspace:
    """An output directory: final files in the open, the rest in a private directory.

    `setting` names what is measured apart from the rest: another text, another context. "" for the first. `own_scratch` is
    where scratch goes of one of several that work in the directory at once.
    """

    root: Path
    setting: str = ""
    own_scratch: Path | None = None

    @property
    def private(self) -> Path:
        """Lock, measurements and scratch."""
        return self.root / PRIVATE

    @property
    def scratch(self) -> Path:
        """Files that only a running command needs."""
        return self.own_scratch or self.private / "scratch"

    @property
    def measurements(self) -> Path:
        """One file per GGUF and kind of measurement."""
        return self.private / "measurements" / self.setting

    def log(self, name: str) -> Path:
        """Where the whole output of a tool goes."""
        return self.root / "logs" / self.setting / f"{name}.log"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory; one command at a time works in it. Leftovers of killed commands are removed.

        Raises:
            InputError: the directory cannot be written.
            BusyError: another command is at work in it.
        """
        try:
            self.private.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.private / "lock", timeout=0)
            lock.acquire()
        except Timeout:
            hint = "Wait until it ends, or choose another --out."
            raise BusyError(f"Another ggufkit is working in {self.root}.", hint=hint) from None
        except PermissionError as error:
            raise InputError(f"{self.root} cannot be written: {error.strerror}.", hint=_OUT) from None
        except OSError as error:
            failed = f"{self.root} cannot be written"
            raise oserrors.explain(error, failed) or InputError(f"{failed}: {error}.", hint=_OUT) from None
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        ours = [f for kind in _IN_THE_OPEN for f in self.root.glob(kind + PARTIAL) if f.is_file()]
        private = [*self.private.glob(f"*{PARTIAL}"), *self.measurements.rglob(f"*{PARTIAL}")]
        for leftover in [*ours, *private, *self.scratch.glob("*")]:
            remove(leftover)


def staleness(recipe: Recipe, output: Path) -> str | None:
    """Why `output` must be made (again) for `recipe`, or None if it is fresh."""
    if not output.exists():
        return "there is no result yet"
    made = read_manifest(output)
    if made is None:
        return "its manifest is missing or unreadable"
    if (made.step, made.step_version) != (recipe.step, recipe.version):
        return (
            f"it was made by {made.step} version {made.step_version}, now {recipe.step} version {recipe.version}"
        )
    if made.toolchain != recipe.toolchain:
        return f"it was made with llama.cpp {made.toolchain}, now {recipe.toolchain}"
    return (
        _difference("input", made.inputs, recipe.inputs, "changed")
        or _difference("parameter", made.params, recipe.params)
        or _damage(output, made)
    )


def _difference(kind: str, before: Mapping[str, Json], now: Mapping[str, Json], verb: str = "") -> str | None:
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return f"{kind} {key} {verb}" if verb else f"{kind} {key} was {before.get(key)}, now {now.get(key)}"
    return None


def _damage(output: Path, made: Manifest) -> str | None:
    try:
        same = _size(output) == made.output.get("size_bytes") and _digest(output) == made.output.get("sha256")
    except GgufError as error:  # a part is missing, or another one
        return error.message
    return None if same else "the file was changed since it was made"


def was_changed(output: Path) -> bool:
    """Whether an artefact that was made here was changed since by somebody else."""
    made = read_manifest(output) if output.exists() else None
    return made is not None and _damage(output, made) is not None


def _files(artefact: Path) -> list[Path]:
    """The files of an artefact: itself, or all below it if it is a directory, or all parts of a GGUF."""
    if part_name(artefact) is not None:
        return read_header(artefact).files
    return sorted(f for f in artefact.rglob("*") if f.is_file()) if artefact.is_dir() else [artefact]


def _size(artefact: Path) -> int:
    return sum(f.stat().st_size for f in _files(artefact))


def _digest(artefact: Path) -> str:
    return sha256_files(artefact, _files(artefact)) if artefact.is_dir() else gguf_sha256(artefact)


def remove(artefact: Path) -> None:
    """Remove a file or a directory, if there is one."""
    if artefact.is_dir():
        shutil.rmtree(artefact, ignore_errors=True)
    else:
        artefact.unlink(missing_ok=True)


def ensure(
    recipe: Recipe,
    output: Path,
    make: Callable[[Path], Made],
    *,
    force: bool = False,
    why: str = "asked for by --force",
    explain: Reporter | None = None,
) -> Result:
    """Return the artefact `output` for `recipe`, made now unless it is there already.

    Args:
        make: writes the artefact, a file or a directory, to the partial path that it is given, checks it, and raises
            if it is not right.
        force: make it even if it is fresh, for the reason `why`.
        explain: where to say why the step runs or is skipped.

    Raises:
        InputError: there is something else of that name, which is not overwritten: a file only with `force`; or an
            input changed while it was read.
        ResourceError: the disk is full.
    """
    try:
        return _ensure(recipe, output, make, why if force else None, explain)
    except OSError as error:
        failed = f"{output} cannot be written"
        raise oserrors.explain(error, failed) or ResourceError(f"{failed}: {error}.", hint=_OUT) from error


def _ensure(
    recipe: Recipe, output: Path, make: Callable[[Path], Made], why: str | None, explain: Reporter | None
) -> Result:
    """As `ensure`; `why` is a reason to make even what is fresh."""
    refuse_foreign(output, force=why is not None)
    stale = staleness(recipe, output)
    reason = stale or why or "nothing changed"
    wanted = stale is not None or why is not None
    if explain is not None:
        explain.info(f"{output.name}: {'made' if wanted else 'skipped'}, {reason}")
    if not wanted:
        made = read_manifest(output)
        if made is not None:
            return Result(output, made, True, reason)
    return Result(output, _make(recipe, output, make), False, reason)


def fresh(output: Path, explain: Reporter | None) -> Result:
    """The result of an artefact that is there, and that nothing has changed about."""
    reason = "nothing changed"
    if explain is not None:
        explain.info(f"{output.name}: skipped, {reason}")
    return Result(output, open_manifest(output), True, reason)


def refuse_foreign(output: Path, *, force: bool) -> None:
    """What has no manifest was not made here, and is not thrown away. Raises InputError."""
    if not output.exists() or manifest_path(output).exists():
        return
    if output.is_dir():
        if any(output.iterdir()):
            raise InputError(f"{output} is a directory with other files.", hint="Choose another --out.")
    elif not force:
        hint = "Move it away, choose another --out, or overwrite it with --force."
        raise InputError(f"{output} is there already, and ggufkit did not make it.", hint=hint)


def _make(recipe: Recipe, output: Path, make: Callable[[Path], Made]) -> Manifest:
    partial = output.with_name(output.name + PARTIAL)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    started, clock = datetime.now(timezone.utc), time.monotonic()
    try:
        with unchanged(recipe.reads):
            made = make(partial)
        manifest = Manifest(
            SCHEMA, recipe.step, recipe.version, {**recipe.inputs, **made.inputs}, dict(recipe.params), recipe.toolchain,
            [list(run.argv) for run in made.runs], {"sha256": _digest(partial), "size_bytes": _size(partial)},
            started.isoformat(timespec="milliseconds"), round(time.monotonic() - clock, 3), dict(made.notes),
        )  # fmt: skip
        parts = {part.relative_to(partial): sha256_file(part) for part in _files(partial)}
        write_manifest(output, manifest)  # first: without one, a result would not be known as ours
        _publish(partial, output)
    except ToolError as error:
        free = machine.free_disk(output.parent)
        if free > _NEXT_TO_NOTHING:
            raise
        message = f"The disk is almost full, only {size(free)} are free at {output.parent}: {error.message}"
        raise ResourceError(message, hint="Free some space and repeat the command.", log=error.log) from error
    finally:
        remove(partial)
    for name, digest in parts.items():
        remember(output / name, digest)
    return manifest


def settle(partial: Path, stop: threading.Event) -> None:
    """Hash a finished file and bring it to the disk beside other work: publishing it then takes no time."""
    sha256_file(partial, stop=stop)
    end_if(stop)
    flush(partial)


def flush(file: Path) -> None:
    """Bring what was written of a file to the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _publish(partial: Path, output: Path) -> None:
    """Give a finished artefact its final name, after its bytes have reached the disk."""
    for part in _files(partial):
        flush(part)
    if output.is_dir():
        shutil.rmtree(output)
    os.replace(partial, output)  # noqa: PTH105 - atomic on every platform
