"""Files in which some tensors are coarse and the others are the base's own, made without copying what does not change.

A probe is a split model: the part of the metadata, then a part for each group of tensors. A part is written once for
each choice of types, and each probe is a directory of links to its parts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggufkit.core.manifest import PARTIAL
from ggufkit.core.part_names import PartName
from ggufkit.core.records import Tensor
from ggufkit.llama.gguf_bytes import Part, PartTensor, write_part
from ggufkit.recipes.groups import Group
from ggufkit.recipes.rounding import Rounder


@dataclass(frozen=True)
class ProbeKit:
    """Makes probes of a base.

    Args:
        groups: all tensors that may change, each in one group.
        directory: where parts and probes are kept, for one base and one importance matrix.
    """

    rounder: Rounder
    groups: Sequence[Group]
    directory: Path

    def probe(self, types: Mapping[str, str]) -> Path:
        """The first file of a probe; tensors that are not named have the base's own type."""
        parts = [self._part(number, types) for number in range(len(self.groups) + 1)]
        name = probe_name(types)
        place = self.directory / name
        place.mkdir(parents=True, exist_ok=True)
        links = [place / link for link in PartName(name, 1, len(parts)).siblings()]
        for link, part in zip(links, parts, strict=True):
            if not link.exists():
                link.symlink_to(os.path.relpath(part, place))
        return links[0]

    def n_bytes(self, probe: Path) -> int:
        """The bytes of all parts of a probe."""
        return sum(part.stat().st_size for part in probe.parent.glob("*.gguf"))

    def clear(self) -> None:
        """Remove the files, which are as large as the base and more; whatever else is in the directory stays."""
        for part in self.directory.glob("part-*.gguf*"):
            part.unlink()
        for probe in {link.parent for link in self.directory.glob("*/*-of-*.gguf")}:
            shutil.rmtree(probe)

    def _place(self, number: int) -> Part:
        return Part(number, len(self.groups) + 1, len(self.rounder.base.tensors))

    def _part(self, number: int, types: Mapping[str, str]) -> Path:
        """A part that is there, or is written now; its name says which tensors have which type in it."""
        tensors = self._tensors(number)
        chosen = {t.name: types.get(t.name, t.type) for t in tensors}
        path = self.directory / f"part-{number}-of-{len(self.groups) + 1}-{probe_name(chosen)}.gguf"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(path.name + PARTIAL)
            whole = self.rounder.base if number == 0 else None
            write_part(unfinished, self._place(number), [self._typed(t, chosen[t.name]) for t in tensors], whole)
            unfinished.replace(path)
        return path

    def _tensors(self, number: int) -> list[Tensor]:
        if number:
            return [self.rounder.base.by_name[name] for name in self.groups[number - 1].tensors]
        changing = {name for group in self.groups for name in group.tensors}
        return [tensor for tensor in self.rounder.base.tensors if tensor.name not in changing]

    def _typed(self, tensor: Tensor, type_name: str) -> PartTensor:
        def write(to: BinaryIO) -> None:
            self.rounder.write(tensor, type_name, to)

        kind = self.rounder.library.type(type_name)
        return PartTensor(tensor, kind.id, self.rounder.n_bytes(tensor, type_name), write)


def probe_name(types: Mapping[str, str]) -> str:
    """A short name of a choice of types."""
    spelt = "\n".join(f"{name}={types[name]}" for name in sorted(types))
    return hashlib.sha256(spelt.encode()).hexdigest()[:16]
