"""Hidden states of all samples between two layers.

In a file: plain reads and writes, no resident pages. Where a GPU computes and has room, in its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ggufkit.core.errors import ResourceError

_FLOAT = np.dtype("<f4")
_SAVED_AT_ONCE = 8


class HiddenStates:
    """A float32 array (samples, tokens, width) on disk, to be run some `tokens_at_once`.

    Args:
        path: the file; written by `write`, removed by `remove`.
        shape: (samples, tokens), the shape of the token ids.
        reuse: write over what is there, if it has the same size: the system need not find its pages again.
    """

    tokens_at_once = 1024

    def __init__(self, path: Path, shape: tuple[int, ...], width: int, *, reuse: bool = False) -> None:
        self.path, self._reuse = path, reuse
        self.n_samples, self.n_tokens = shape
        self.width = width

    def __len__(self) -> int:
        return self.n_samples

    @property
    def complete(self) -> bool:
        """Whether all samples have been written."""
        return self.path.is_file() and self.path.stat().st_size == self._offset(self.n_samples)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Samples start to stop: (stop - start, tokens, width)."""
        stop = min(stop, self.n_samples)
        count = (stop - start) * self.n_tokens * self.width
        values = np.fromfile(self.path, _FLOAT, count, offset=self._offset(start))
        return torch.from_numpy(values.reshape(stop - start, self.n_tokens, self.width))

    def write(self, start: int, values: torch.Tensor) -> None:
        """Put samples, in order of `start`; the first write starts the file anew, or goes over the one there.

        Raises:
            ResourceError: the disk is full.
        """
        over = start > 0 or (self._reuse and self.complete)
        try:
            if not over:
                self.path.unlink(missing_ok=True)  # what has another name, too, stays as it is there
            with self.path.open("r+b" if over else "wb") as file:
                file.seek(self._offset(start))
                file.write(np.ascontiguousarray(values.detach().cpu().numpy(), _FLOAT).data)
        except OSError as error:
            message = f"The hidden states cannot be written to {self.path}: {error.strerror}."
            needed = self._offset(self.n_samples) >> 20
            raise ResourceError(message, hint=f"Free {2 * needed:,} MiB and repeat the command.") from error

    def save(self) -> None:
        """Have all samples in the file, where they stay for a later run; here they are."""

    def forget(self) -> None:
        """Give back memory that the samples take; here none."""

    def remove(self) -> None:
        """Forget the samples, and delete the file."""
        self.forget()
        self.path.unlink(missing_ok=True)

    def beside(self, path: Path, width: int) -> HiddenStates:
        """None yet, of the same samples at another place; kept as these are."""
        return HiddenStates(path, (self.n_samples, self.n_tokens), width, reuse=True)

    def _offset(self, samples: int) -> int:
        return samples * self.n_tokens * self.width * _FLOAT.itemsize


@dataclass(frozen=True)
class Room:
    """Memory of a GPU that hidden states may take: all that is free but `reserve` bytes, which others will need."""

    device: torch.device
    reserve: int

    def holds(self, size: int) -> bool:
        """Whether `size` bytes more fit."""
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return size + self.reserve <= free + unused


class KeptStates(HiddenStates):
    """Hidden states in a GPU's memory while there is room; in their file only if there is none, or once saved.

    What a file from an earlier run holds is read from there.
    """

    tokens_at_once = 8192  # fewer would leave a GPU waiting for launches

    def __init__(self, path: Path, shape: tuple[int, ...], width: int, room: Room) -> None:
        super().__init__(path, shape, width)
        self._room = room
        self._kept: torch.Tensor | None = None

    def read(self, start: int, stop: int) -> torch.Tensor:
        """As of `HiddenStates`; on the GPU if they are there."""
        return super().read(start, stop) if self._kept is None else self._kept[start:stop]

    def write(self, start: int, values: torch.Tensor) -> None:
        """As of `HiddenStates`."""
        if start == 0:
            self._kept = self._memory()
        if self._kept is None:
            super().write(start, values)
        else:
            self._kept[start : start + len(values)] = values

    def save(self) -> None:
        """Write the file, if it is not there yet.

        Raises:
            ResourceError: the disk is full.
        """
        if self._kept is None:
            return
        # On a stream of its own: what the GPU computes meanwhile does not wait for a disk.
        beside = torch.cuda.Stream(self._room.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(self._room.device))
        staged = torch.empty((_SAVED_AT_ONCE, *self._kept.shape[1:]), pin_memory=True)
        for start in range(0, self.n_samples, _SAVED_AT_ONCE):
            part = self._kept[start : start + _SAVED_AT_ONCE]
            with torch.cuda.stream(beside):
                staged[: len(part)].copy_(part, non_blocking=True)
            beside.synchronize()
            super().write(start, staged[: len(part)])

    def forget(self) -> None:
        """Give back the GPU's memory."""
        self._kept = None

    def beside(self, path: Path, width: int) -> HiddenStates:
        """As of `HiddenStates`."""
        return KeptStates(path, (self.n_samples, self.n_tokens), width, self._room)

    def _memory(self) -> torch.Tensor | None:
        if not self._room.holds(self._offset(self.n_samples)):
            return None
        return torch.empty((self.n_samples, self.n_tokens, self.width), device=self._room.device)
