"""A quantized checkpoint as one of floats, in the cache: for what reads no other. See `quantized`.

llama.cpp's converter reads some methods itself, and carries over what a GGUF has blocks for; what runs the checkpoint
layer by layer (AWQ, refinement) needs floats of all.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core import extras, failures, machine, process
from ggufkit.core.durations import Work
from ggufkit.core.errors import CheckpointError, ResourceError
from ggufkit.core.expected import timed
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.locks import waiting_lock
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint
from ggufkit.core.units import size
from ggufkit.models import dequantizing
from ggufkit.models.checkpoint import open_checkpoint, read_config, stored_tensors
from ggufkit.models.files import files_of, fingerprint
from ggufkit.models.headers_only import write_hollow
from ggufkit.models.quantized.matrices import require_blocks
from ggufkit.models.quantized.method import Quantized, Reader, Tensors, find, known

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSION = 1
"""Raised when other floats are made: those in the cache are then made again."""

_ORIGINAL = "Start from the checkpoint that it was made from, in F32, F16 or BF16."
_AT_ONCE = 4  # floats as large as the largest matrix
_SPARE = 1 << 30  # bytes of memory for torch itself
_WORD = 32


def readable(checkpoint: Checkpoint, reporter: Reporter, outline: Path | None = None) -> Checkpoint:
    """The checkpoint itself where llama.cpp's converter reads it rightly; else as floats, in the cache; made once.

    Args:
        outline: an empty directory, for a plan: floats are then holes in files there.

    Raises:
        CheckpointError: nobody reads such numbers, or scales are missing, damaged or of another shape.
        ResourceError: too little disk or memory.
    """
    how = find(read_config(checkpoint.path))
    if how is None or how.method not in known():  # the converter may know it
        return checkpoint
    reader = _reader(checkpoint, how)
    reporter.info(f"{checkpoint.name} is quantized: it holds {how.title}. {reader.value}")
    return _made(checkpoint, how, reporter, outline) if reader is Reader.GGUFKIT else checkpoint


def floats(checkpoint: Checkpoint, reporter: Reporter) -> Checkpoint:
    """The checkpoint with floats, in the cache; itself where it is not quantized. For what runs it layer by layer.

    Raises:
        CheckpointError, ResourceError: as of `readable`; or such numbers cannot be made floats here.
    """
    how = find(read_config(checkpoint.path))
    if how is None:
        return checkpoint
    if how.method not in known() or not how.is_unpacked_here:
        message = f"{checkpoint.path} holds {how.title}, which is not run layer by layer."
        raise CheckpointError(message, hint="Use --variants plain,imatrix, or start from the original checkpoint.")
    _reader(checkpoint, how)
    return _made(checkpoint, how, reporter, None)


def _reader(checkpoint: Checkpoint, how: Quantized) -> Reader:
    tensors = {tensor.name: tensor for tensor in stored_tensors(checkpoint.path)}
    found = how.reader(tensors)
    if found is None:
        message = f"{checkpoint.path} is quantized in a way that is not read: {how.title}."
        raise CheckpointError(message, hint=f"{_ORIGINAL} Read are kinds of {', '.join(known())}.")
    if how.method == "mxfp4":
        require_blocks(tensors)
    if how.method == "gptq" and found is Reader.CONVERTER and _borrows(tensors, how):
        return Reader.GGUFKIT
    return found


def _borrows(tensors: Tensors, how: Quantized) -> bool:
    """Whether a zero point of GPTQ's first format borrows of the next: the converter adds 1 to each alone."""
    import numpy as np

    bits, first = int(how.settings["bits"]), how.settings.get("checkpoint_format", "gptq") == "gptq"
    full = np.uint32((1 << bits) - 1)

    def is_full(words: NDArray[np.uint32]) -> bool:
        return any(bool(((words >> np.uint32(at)) & full == full).any()) for at in range(0, _WORD, bits))

    zeros = [t for name, t in tensors.items() if name.endswith(".qzeros") and t.dtype == "I32"]
    return first and any(is_full(np.fromfile(t.file, np.uint32, t.n_elements, offset=t.start)) for t in zeros)


def _made(checkpoint: Checkpoint, how: Quantized, reporter: Reporter, outline: Path | None) -> Checkpoint:
    if outline is not None:
        target = outline / "floats"
        target.mkdir(parents=True)
        for name, header in dequantizing.headers(checkpoint.path).items():
            write_hollow(target / name, header)
        dequantizing.copy_rest(checkpoint.path, target)
    else:
        target = _in_cache(checkpoint, reporter)
    opened = open_checkpoint(target, checkpoint.name, checkpoint.source, checkpoint.revision)
    return replace(opened, quantized=how.title)


def _in_cache(checkpoint: Checkpoint, reporter: Reporter) -> Path:
    sha256 = fingerprint(checkpoint.path, reporter)
    target = cache_dir() / "dequantized" / f"{checkpoint.name}-{sha256[:16]}-{_VERSION}"
    if not target.is_dir():
        extras.require("convert")
        target.parent.mkdir(parents=True, exist_ok=True)
        with waiting_lock(target.with_name(f"{target.name}.lock"), f"{checkpoint.name} as floats", reporter):
            if not target.is_dir():
                _require_room(checkpoint, target)
                _run(Input(checkpoint.path, sha256, files_of), checkpoint.name, target, reporter)
                reporter.info(f"The checkpoint of floats is kept in {target}; it may be deleted.")
    return target


def _require_room(checkpoint: Checkpoint, target: Path) -> None:
    disk, largest = dequantizing.n_bytes(checkpoint.path)
    memory = _SPARE + _AT_ONCE * largest
    room: Sequence[tuple[str, int, int]] = (
        ("disk", disk, machine.free_disk(target)),
        ("memory", memory, machine.free_memory()),
    )
    for what, needed, free in room:
        if free < needed:
            message = f"{checkpoint.name} as floats needs {size(needed)} of {what}, {size(free)} are free."
            raise ResourceError(
                message, hint=f"Free some; {what} of the cache: set GGUFKIT_CACHE to another place."
            )


def _run(source: Input, name: str, target: Path, reporter: Reporter) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    log = cache_dir() / "logs" / f"dequantize-{target.name}.log"
    work = Work("dequantize", sum(file.stat().st_size for file in files_of(source.path)))
    with timed(reporter, f"Making {name} one of floats", work), unchanged([source]):
        output = process.run([sys.executable, "-m", "ggufkit.models.dequantizing", source.path, partial], log=log)
        if output.returncode == 0:
            dequantizing.copy_rest(source.path, partial)
    if output.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        if output.returncode != dequantizing.REFUSED:
            raise failures.explain(output, f"making {name} one of floats")
        reason = (output.stderr.strip().splitlines() or ["its process ended without a word"])[-1]
        hint = f"Download it again. {_ORIGINAL}"
        raise CheckpointError(f"{source.path}: {reason.rstrip('.')}.", hint=hint, log=output.log)
    partial.rename(target)
