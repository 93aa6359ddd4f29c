"""Whether files are the parts of one GGUF, each in its place. Pure functions of headers, and hashes where they are noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ggufkit.core.errors import GgufError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import read_manifest
from ggufkit.llama.gguf_header import GgufHeader

MOST_PARTS = 1000
_NO, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_GET = "Get all parts of one file anew, or make them again."


def require_set(headers: Sequence[GgufHeader]) -> None:
    """Require that headers are those of a GGUF's parts, in order.

    Raises:
        GgufError: one of them is another part than its name says, or a part of another file.
    """
    wrong = (said for number, header in enumerate(headers) if (said := _misplaced(header, number, headers)))
    if (first := next(wrong, None)) is not None:
        raise GgufError(first, hint=_GET)
    names = Counter(tensor.name for header in headers for tensor in header.tensors)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        *_, last = (header for header in headers if twice in header.by_name)
        raise GgufError(f"{last.path} holds {twice}, which an earlier part holds, too.", hint=_GET)
    wanted = headers[0].metadata.get(_TENSORS)
    if wanted is not None and wanted != names.total():
        message = f"The {len(headers)} parts of {headers[0].path} hold {names.total():,} tensors, not {wanted:,}."
        raise GgufError(message, hint=_GET)


def _misplaced(header: GgufHeader, number: int, headers: Sequence[GgufHeader]) -> str:
    """Why a file is not the part that its name says; "" if it may be."""
    said, path, count = header.metadata, header.path, len(headers)
    if _COUNT not in said:
        return f"{path} is no part of a split GGUF, though it is called so."
    if said[_COUNT] != count:
        return f"{path} is one of {said[_COUNT]} parts by what it holds, not of {count}."
    if (own := said.get(_NO)) != number:
        place = own + 1 if isinstance(own, int) else own
        return f"{path} is part {place} by what it holds, not part {number + 1}: files were renamed or swapped."
    if (own := said.get(_TENSORS)) != (wanted := headers[0].metadata.get(_TENSORS)):
        return f"{path} is a part of another file, with {own} tensors; {headers[0].path.name} is of one with {wanted}."
    return ""


def require_recorded(files: Sequence[Path]) -> None:
    """Require that parts are those that ggufkit wrote together, where it notes that beside the first of them.

    Parts of another model of the same shape are told by nothing else.

    Raises:
        GgufError: one of them is not.
    """
    made = read_manifest(files[0])
    for file in files if made is not None else ():
        wanted = made.output.get(file.name) if made is not None else None
        if wanted is not None and wanted != sha256_file(file):
            message = (
                f"{file} is not the part that was written with the others: it is another model's, or was changed."
            )
            raise GgufError(message, hint=_GET)
