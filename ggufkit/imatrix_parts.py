"""A long importance matrix in parts of some minutes, so that an interrupted one goes on with its next part.

llama-imatrix can add to the sums of an earlier run and begin at a later chunk: in whole batches the result is the same
to the last bit. What it saves on its way is no help: that happens in the midst of a batch, when some tensors have seen
more of the text than others.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ggufkit.errors import GgufError
from ggufkit.llama.gguf import GgufHeader, read_header

_PART_S = 600.0
_BATCH = 2048
_LEFT = 3
_FLOPS_PER_THREAD, _FLOPS_OF_GPU = 1e10, 1e13


@dataclass(frozen=True)
class Part:
    """One run of the tool: so many chunks of the text after the first `after`, whose sums are in `sums`."""

    after: int
    n_chunks: int
    sums: Path | None


def pace(base: GgufHeader, n_ctx: int, threads: int, *, gpu: bool) -> float:
    """Seconds that a chunk takes, guessed from the model's size before anything has run; more rather than fewer."""
    n_params = sum(tensor.n_elements for tensor in base.tensors)
    return 2.0 * n_params * n_ctx / (_FLOPS_OF_GPU if gpu else threads * _FLOPS_PER_THREAD)


def next_part(done: int, total: int, n_ctx: int, seconds_per_chunk: float) -> int:
    """Chunks of the next part: whole batches of some minutes, and all that is left rather than a small rest.

    llama-imatrix refuses to begin within the last two chunks of a text.
    """
    batch = max(1, _BATCH // n_ctx)
    wanted = max(1, int(_PART_S / max(seconds_per_chunk, 1e-9)) // batch) * batch
    return total - done if total - done - wanted < max(batch, _LEFT) else wanted


class Sums:
    """What the finished parts of one matrix have summed up, on disk.

    Args:
        stem: beginning of the file's name, for one matrix of the directory.
        key: names all that decides the sums; those of another key are removed.
    """

    def __init__(self, directory: Path, stem: str, key: str) -> None:
        self._directory, self._stem, self._key = directory, stem, key
        for file in self._files():
            if not self._is_ours(file):
                file.unlink()

    def latest(self) -> tuple[int, Path | None]:
        """How many chunks are summed up, and the file; 0 and None at first."""
        return max(((_chunks(file), file) for file in self._files()), default=(0, None))

    def keep(self, result: Path, n_chunks: int) -> Path:
        """Take over what the tool has written after `n_chunks`."""
        _, before = self.latest()
        with result.open("rb") as file:
            os.fsync(file.fileno())
        kept = self._directory / f"{self._stem}.{self._key}-{n_chunks}.sums"
        os.replace(result, kept)  # noqa: PTH105 - atomic on every platform
        if before is not None:
            before.unlink()
        return kept

    def remove(self) -> None:
        """Forget everything."""
        for file in self._files():
            file.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(f"{escape(self._stem)}.*-*.sums"))

    def _is_ours(self, file: Path) -> bool:
        try:
            return file.name.startswith(f"{self._stem}.{self._key}-") and bool(read_header(file))
        except GgufError:
            return False


def _chunks(sums: Path) -> int:
    return int(sums.stem.rpartition("-")[2])


def nameless(sums: Path, copy: Path) -> Path:
    """Copy sums without the name of the text, which the tool would add once for each part; return the copy."""
    from gguf import GGUFReader, GGUFWriter

    writer = GGUFWriter(copy, "imatrix")
    for tensor in GGUFReader(sums).tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return copy
