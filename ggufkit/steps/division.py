"""Finished GGUFs in parts instead of whole. The hash of parts is that of the whole file: whatever was made from it, and
measured of it, counts for both.

Parts have one manifest, beside the first of them. It is written before them, and the first part comes last: until that is
there, there are no parts, but the whole file still; afterwards that is removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

from ggufkit.core import oserrors
from ggufkit.core.errors import GgufError, InputError, ResourceError, UsageError
from ggufkit.core.hashing import remember, sha256_file
from ggufkit.core.manifest import (
    PARTIAL,
    SUFFIX,
    artefact_of,
    manifest_path,
    open_manifest,
    read_manifest,
    write_manifest,
)
from ggufkit.core.part_names import PartName, part_name, whole_of
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Manifest
from ggufkit.core.units import size
from ggufkit.llama import parts, whole
from ggufkit.llama.gguf import GgufHeader, as_one, read_header
from ggufkit.llama.gguf_header import read_own_header
from ggufkit.llama.parts import Cut
from ggufkit.steps import joining
from ggufkit.steps.step import Result, flush, refuse_foreign, was_changed

_F32_BYTES = 4


def there(output: Path) -> Path:
    """Where a finished file lies: where it was asked for, or in parts, whose first this is."""
    whole_file = whole_of(output)
    return next(_sets(whole_file), whole_file) if not whole_file.exists() else whole_file


def sets_in(root: Path) -> list[Path]:
    """The first of each set of parts that was made in a directory and of which some are left, without the whole file."""
    firsts = [artefact_of(manifest) for manifest in sorted(root.glob(f"*-00001-of-*.gguf{SUFFIX}"))]
    left = [first for first in firsts if any(file.exists() for file in _siblings(first))]
    return [first for first in left if not whole_of(first).exists()]


def drop_parts(output: Path) -> None:
    """Remove the parts that were made of a file here."""
    for first in list(_sets(whole_of(output), complete=False)):
        _drop(first)


def require_possible(header: GgufHeader, limit: int, types: Sequence[str] = ()) -> None:
    """Require that a file, and what is made of it in some types, can be had in parts of at most so many bytes.

    Raises:
        UsageError: a tensor is too large.
    """
    if "F32" not in types:
        parts.cut(header, limit)
        return
    largest = max(header.tensors, key=lambda tensor: tensor.n_elements)
    if limit < (least := largest.n_elements * _F32_BYTES + len(whole.head(header))):
        message = f"{header.path.name} has no parts of {size(limit)} in F32: {largest.name} takes more."
        raise UsageError(message, hint=f"Parts of {least:,} bytes are the smallest that hold it.")


def divide(file: Path, limit: int, reporter: Reporter) -> Path:
    """Have a finished file in parts of at most so many bytes; one within that is to be whole.

    Args:
        file: as it is now: whole, or the first of its parts.

    Returns:
        What it is now.

    Raises:
        InputError: a file that ggufkit did not make is called as one of the parts.
        UsageError: a tensor is larger than that.
        ResourceError: there is no room for the parts beside the file.
    """
    try:
        header = read_header(file)
        wanted = parts.cut(header, limit)
        if not wanted.is_of(header):
            file = _divide(_whole(header, reporter), wanted, reporter)
        _tidy(file)
        return file
    except OSError as error:
        failed = f"The parts of {file} cannot be written"
        raise oserrors.explain(error, failed) or ResourceError(f"{failed}: {error}.") from error


def divided(made: Result, limit: int, reporter: Reporter) -> Result:
    """A step's result as `divide` leaves it. Raises GgufkitError."""
    now = divide(made.path, limit, reporter)
    return made if now == made.path else replace(made, path=now, manifest=open_manifest(now), fresh=False)


def rejoined(first: Path, target: Path, reporter: Reporter, *, force: bool = False) -> Result:
    """Have a finished file whole that is here in parts, which stay. Its manifest is the parts', but for what they are.

    Raises:
        InputError: another file is called so, which is overwritten only with `force`.
        ResourceError: there is no room.
    """
    refuse_foreign(target, force=force)
    made, wanted = read_manifest(target), open_manifest(first).output["sha256"]
    if not force and made is not None and made.output["sha256"] == wanted and not was_changed(target):
        return Result(target, made, True, "nothing changed")
    return Result(target, _rejoin(first, target, reporter), False, "its parts were joined")


def _rejoin(first: Path, target: Path, reporter: Reporter) -> Manifest:
    header, made = read_header(first), open_manifest(first)
    digest, partial = str(made.output["sha256"]), target.with_name(target.name + PARTIAL)
    try:
        joining.join(header, digest, partial, reporter)
        made = replace(made, output={"sha256": digest, "size_bytes": partial.stat().st_size})
        flush(partial)
        write_manifest(target, made)
        os.replace(partial, target)  # noqa: PTH105 - atomic on every platform
    finally:
        partial.unlink(missing_ok=True)
    remember(target, digest)
    return made


def _whole(header: GgufHeader, reporter: Reporter) -> Path:
    """A file as it is before it is cut otherwise."""
    if header.parts:
        _rejoin(header.path, whole_of(header.path), reporter)
        drop_parts(header.path)
    return whole_of(header.path)


def _divide(file: Path, wanted: Cut, reporter: Reporter) -> Path:
    count = len(wanted.groups)
    if count == 1:
        return file
    targets = [file.with_name(name) for name in PartName(file.stem, 1, count).siblings()]
    _refuse_foreign(targets)
    partials = [target.with_name(target.name + PARTIAL) for target in targets]
    try:
        made = _write(file, wanted, partials, targets, reporter)
        write_manifest(targets[0], made)
        for partial, target in reversed(list(zip(partials, targets, strict=True))):
            os.replace(partial, target)  # noqa: PTH105 - atomic on every platform
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    for target in targets:
        remember(target, str(made.output[target.name]))
    return targets[0]


def _write(
    file: Path, wanted: Cut, partials: Sequence[Path], targets: Sequence[Path], reporter: Reporter
) -> Manifest:
    """Write parts that are not called so yet, and see that they are the file.

    Raises:
        GgufError: they would not be joined to its bytes.
    """
    header, made = read_header(file), open_manifest(file)
    joining.require_room(file, header.size_bytes, f"{file.name} is split")
    with reporter.step(f"Splitting {file.name} into {len(partials)} parts") as progress:
        parts.write_parts(header, wanted, partials, progress)
    if whole.digest(as_one([read_own_header(one) for one in partials])) != made.output["sha256"]:
        message = f"{file} is not as llama.cpp writes it: its parts would not be joined to the same bytes."
        raise GgufError(message, hint="Write it again with `ggufkit merge`, and make its files from that.")
    hashes = {target.name: sha256_file(partial) for target, partial in zip(targets, partials, strict=True)}
    for partial in partials:
        flush(partial)
    n_bytes = sum(partial.stat().st_size for partial in partials)
    return replace(made, output={"sha256": made.output["sha256"], "size_bytes": n_bytes, **hashes})


def _refuse_foreign(targets: Sequence[Path]) -> None:
    foreign = next((target for target in targets if target.exists()), None)
    if foreign is not None and not manifest_path(targets[0]).exists():
        message = f"{foreign} is there already, and ggufkit did not make it."
        raise InputError(message, hint="Move it away, or choose another --out.")


def _tidy(file: Path) -> None:
    """Remove what a file was before: the whole one, or other parts, as an interrupted command may have left it."""
    for first in list(_sets(whole_of(file), complete=False)):
        if first != file:
            _drop(first)
    if (old := whole_of(file)) != file and manifest_path(old).exists():
        old.unlink(missing_ok=True)
        manifest_path(old).unlink()


def _sets(whole_file: Path, *, complete: bool = True) -> Iterator[Path]:
    """The first of each set of parts that was made of a file here.

    Args:
        complete: of those alone that are there.
    """
    for manifest in sorted(whole_file.parent.glob(f"{escape(whole_file.stem)}-00001-of-*.gguf{SUFFIX}")):
        first = artefact_of(manifest)
        if whole_of(first) == whole_file and (first.exists() or not complete):
            yield first


def _siblings(first: Path) -> list[Path]:
    named = part_name(first)
    return [first.with_name(name) for name in named.siblings()] if named is not None else [first]


def _drop(first: Path) -> None:
    """Remove parts, the first of them first: without it there are none."""
    for file in _siblings(first):
        file.unlink(missing_ok=True)
    manifest_path(first).unlink()
