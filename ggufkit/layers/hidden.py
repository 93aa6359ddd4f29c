"""Hidden states of all samples between two layers, in a file: plain reads and writes, no resident pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ggufkit.core.errors import ResourceError

_FLOAT = np.dtype("<f4")


class HiddenStates:
    """A float32 array (samples, tokens, width) on disk.

    Args:
        path: the file; written by `write`, removed by `remove`.
        shape: (samples, tokens), the shape of the token ids.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], width: int) -> None:
        self.path = path
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
        """Put samples, in order of `start`; the first write starts the file anew.

        Raises:
            ResourceError: the disk is full.
        """
        try:
            with self.path.open("wb" if start == 0 else "ab") as file:
                file.write(np.ascontiguousarray(values.detach().cpu().numpy(), _FLOAT).data)
        except OSError as error:
            message = f"The hidden states cannot be written to {self.path}: {error.strerror}."
            needed = self._offset(self.n_samples) >> 20
            raise ResourceError(message, hint=f"Free {2 * needed:,} MiB and repeat the command.") from error

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def _offset(self, samples: int) -> int:
        return samples * self.n_tokens * self.width * _FLOAT.itemsize
