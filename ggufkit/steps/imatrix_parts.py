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

from ggufkit.core.errors import GgufError
from ggufkit.llama.gguf import GgufHeader, read_header

_PART_S = 600.0
_LOADS = 4.0
_BATCH = 2048
_LEFT = 3
_FLOPS_PER_THREAD, _FLOPS_OF_GPU = 1e10, 1e13


@dataclass(frozen=True)
class Part:
    """One run of the tool: so many chunks of the text after the first `after`, whose sums are in `sums`."""

    after: int
    n_chunks: int
    sums: Path | None


@dataclass(frozen=True)
class Pace:
    """Seconds that a chunk takes, and that pass before the first one: loading the model, tokenizing the text."""

    chunk_s: float
    load_s: float = 0.0


def guess(base: GgufHeader, n_ctx: int, threads: int, *, gpu: bool) -> Pace:
    """The pace as the model's size lets it be guessed before anything has run; rather too slow than too fast."""
    n_params = sum(tensor.n_elements for tensor in base.tensors)
    return Pace(2.0 * n_params * n_ctx / (_FLOPS_OF_GPU if gpu else threads * _FLOPS_PER_THREAD))


def next_part(done: int, total: int, n_ctx: int, pace: Pace) -> int:
    """Chunks of the next part: whole batches of some minutes, of several times what loading takes at least, and all
    that is left rather than a small rest.

    llama-imatrix refuses to begin within the last two chunks of a text.
    """
    batch = max(1, _BATCH // n_ctx)
    seconds = max(_PART_S, _LOADS * pace.load_s)
    wanted = max(1, int(seconds / max(pace.chunk_s, 1e-9)) // batch) * batch
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
        return next(((_chunks(file), file) for file in reversed(self._files())), (0, None))

    def keep(self, result: Path, n_chunks: int) -> None:
        """Take over what the tool has written after `n_chunks`. The two before stay, for stepping back."""
        with result.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(result, self._directory / f"{self._stem}.{self._key}-{n_chunks}.sums")  # noqa: PTH105 - atomic
        for file in self._files()[:-3]:
            file.unlink()

    def step_back(self) -> None:
        """Forget the latest part."""
        _, latest = self.latest()
        if latest is not None:
            latest.unlink()

    def remove(self) -> None:
        """Forget everything."""
        for file in self._files():
            file.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(f"{escape(self._stem)}.*-*.sums"), key=_chunks)

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
