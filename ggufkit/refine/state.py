"""What a refinement has reached, on disk: a killed run goes on with the next tensor."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ggufkit.core.errors import ResourceError
from ggufkit.core.jsonfile import parse_json
from ggufkit.refine.fields import U8


@dataclass(frozen=True)
class Outcome:
    """What became of one matrix.

    Args:
        tensor, expert, type: which it is, and its block type.
        before, after: ‖x̂ W - t‖² / ‖t‖² on held-out tokens, with the file's weights and with the new ones,
            where x̂ is the input in the refined model and t the output of the original.
        kept: whether the new blocks are in the file.
        reason: why not, or empty.
    """

    tensor: str
    type: str
    before: float
    after: float
    kept: bool
    reason: str = ""
    expert: int | None = None


def _first_line(file: Path) -> bytes:
    """A matrix's outcome, without its bytes."""
    with file.open("rb") as opened:
        return opened.readline()


class State:
    """A directory with the outcome and the bytes of each finished matrix, valid for one `key`."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        label = path / "key"
        if not label.is_file() or label.read_text() != key:
            shutil.rmtree(path, ignore_errors=True)
            self._write(label, key.encode())

    def load(self, tensor: str, expert: int | None) -> tuple[Outcome, U8] | None:
        """The outcome and the new bytes (flat; none where the old ones stay) of a matrix, if it is done."""
        file = self._file(tensor, expert)
        if not file.is_file():
            return None
        head, _, body = file.read_bytes().partition(b"\n")
        return self._outcome(head, file), np.frombuffer(body, np.uint8)

    def save(self, outcome: Outcome, raw: U8 | None) -> None:
        """Note a finished matrix."""
        body = b"" if raw is None else np.ascontiguousarray(raw).tobytes()
        self._write(
            self._file(outcome.tensor, outcome.expert), json.dumps(asdict(outcome)).encode() + b"\n" + body
        )

    def outcomes(self) -> list[Outcome]:
        """The outcomes of all finished matrices, by name and expert."""
        files = [f for f in (self.path / "matrices").glob("*") if f.suffix != ".partial"]
        return sorted((self._outcome(_first_line(f), f) for f in files), key=lambda o: (o.tensor, o.expert or 0))

    def layer(self) -> int:
        """The layer whose inputs are in the directory, 0 at first."""
        file = self.path / "layer"
        return int(file.read_text()) if file.is_file() else 0

    def enter(self, layer: int) -> None:
        """Note that the inputs of `layer` are complete."""
        self._write(self.path / "layer", str(layer).encode())

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _outcome(self, head: bytes, file: Path) -> Outcome:
        return parse_json(head, Outcome, str(file), hint=f"Remove {self.path} and repeat the command.")

    def _file(self, tensor: str, expert: int | None) -> Path:
        return self.path / "matrices" / (tensor if expert is None else f"{tensor}.{expert}")

    def _write(self, file: Path, data: bytes) -> None:
        partial = file.with_name(file.name + ".partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            os.replace(partial, file)  # noqa: PTH105 - atomic on every platform
        except OSError as error:
            partial.unlink(missing_ok=True)
            message = f"{file} cannot be written: {error.strerror}."
            raise ResourceError(
                message, hint="Free some space and repeat the command; it goes on here."
            ) from error
