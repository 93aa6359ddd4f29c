"""A GGUF written again: parts as one file, and without tokens beyond a number. Values are copied as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core.errors import GgufError
from ggufkit.core.progress import Progress
from ggufkit.core.units import GIB
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.kinship import PER_TOKEN, TOKEN_TYPES, TOKENS

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

_PER_TOKEN = (TOKENS, TOKEN_TYPES, "tokenizer.ggml.scores")
_ALIGNMENT = "general.alignment"
_OF_THE_FORMAT = ("GGUF.", "split.", "general.architecture")
"""Keys that the writer has by itself, or that are about parts."""


def write_whole(
    headers: Sequence[GgufHeader],
    n_tokens: int | None,
    target: Path,
    progress: Progress,
    called: Callable[[str], Sequence[str]] = lambda name: [name],
) -> None:
    """Write all tensors of a GGUF into one file.

    Args:
        headers: of the file, or of its parts in order.
        n_tokens: how many tokens of its vocabulary to keep; None for all.
        called: a tensor's name -> those that it is written under.

    Raises:
        GgufError: it has a type or a text that the `gguf` package does not read.
    """
    from gguf import GGUFReader, GGUFWriter

    try:
        readers = [GGUFReader(header.path) for header in headers]
        writer = GGUFWriter(target, headers[0].architecture)
        if _ALIGNMENT in headers[0].metadata:
            writer.add_custom_alignment(headers[0].alignment)
        _add_metadata(writer, readers[0], n_tokens)
        tensors = [tensor for reader in readers for tensor in reader.tensors]
        rows = [(name, tensor, _rows(tensor, n_tokens)) for tensor in tensors for name in called(tensor.name)]
    except (ValueError, KeyError, TypeError) as error:
        hint = "Update the gguf package, or merge its parts with llama-gguf-split."
        raise GgufError(f"{headers[0].path} cannot be written again: {error}.", hint=hint) from error
    for name, tensor, data in rows:
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done, total = 0, sum(data.nbytes for *_, data in rows)
    for *_, data in rows:
        writer.write_tensor_data(data)
        done += data.nbytes
        progress.update(done / GIB, total / GIB, "GiB")
    writer.close()


def _add_metadata(writer: GGUFWriter, reader: GGUFReader, n_tokens: int | None) -> None:
    for field in reader.fields.values():
        if field.name.startswith(_OF_THE_FORMAT) or field.name == _ALIGNMENT:
            continue
        value = _cut(field.name, field.contents(), n_tokens)
        if not (isinstance(value, list) and not value):  # which the writer does not know, and says nothing
            writer.add_key_value(
                field.name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None
            )


def _cut(key: str, value: Any, n_tokens: int | None) -> Any:
    """A value of the metadata for so many tokens."""
    if n_tokens is None:
        return value
    if key in _PER_TOKEN:
        return value[:n_tokens]
    return n_tokens if key.endswith(".vocab_size") else value


def _rows(tensor: Any, n_tokens: int | None) -> Any:
    """A tensor's values as they lie in the file, a row each; of what has a row for each token so many."""
    return tensor.data[:n_tokens] if tensor.name in PER_TOKEN else tensor.data
