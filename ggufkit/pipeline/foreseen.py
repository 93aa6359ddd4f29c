"""What is known of files before they are made: sizes and types; of types that are measured first, what comes near."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from ggufkit.core.records import QuantType, Tensor, Toolchain
from ggufkit.llama import quants
from ggufkit.llama.argv import Overrides
from ggufkit.llama.gguf import GgufHeader, ggml_type_by_name, read_header
from ggufkit.llama.gguf_bytes import FIXED, MetadataValue, own_pairs, pairs
from ggufkit.llama.logs import QuantizePlan, TensorPlan
from ggufkit.pipeline import overridden
from ggufkit.recipes.recipe_file import read_recipe
from ggufkit.steps import quantize
from ggufkit.steps.quantize import QuantizeOptions

_USUAL, _LARGEST = "Q4_K_M", "Q8_0"
"""What is planned with where only a loss is asked for, and what such a file is no larger than."""
_ANY_BPW = 32.0
_LONGEST_TEXT = 127
"""Characters of a text that llama-quantize keeps of what it adds to metadata."""


@dataclass(frozen=True)
class Matrix:
    """An importance matrix that is yet to be computed.

    Args:
        stand_in: one that llama-quantize can read; the mix of types depends on whether there is any, not on its values.
        path, text: where the real one will be, and the file that it will be computed on; the metadata has the names of both.
    """

    stand_in: Path
    path: Path
    text: str

    @property
    def n_bytes(self) -> int:
        """What llama-quantize adds to the header. Source: `quantize.imatrix.*` in `tools/quantize/quantize.cpp`."""
        said: dict[str, MetadataValue] = {
            "file": self.path.name[:_LONGEST_TEXT],
            "entries_count": 0,
            "chunks_count": 0,
        }
        if self.text:
            said["dataset"] = self.text[:_LONGEST_TEXT]
        return len(pairs({f"quantize.imatrix.{name}": value for name, value in said.items()}))


@contextmanager
def stand_in() -> Iterator[Path]:
    """The smallest importance matrix there is, in llama.cpp's older format, while it is needed."""
    with tempfile.TemporaryDirectory(prefix="ggufkit-plan-") as directory:
        path, name = Path(directory) / "stand-in.imatrix", b"output.weight"
        entry = struct.pack(f"<i{len(name)}siif", len(name), name, 1, 1, 1.0)
        path.write_bytes(struct.pack("<i", 1) + entry + struct.pack("<ii", 1, 0))
        yield path


def n_bytes(tensor: TensorPlan) -> int:
    """The size of a tensor once it is quantized."""
    block, block_bytes = ggml_type_by_name(tensor.after)
    return prod(tensor.shape) // block * block_bytes


def planned_bytes(base: GgufHeader, plan: QuantizePlan, matrix: Matrix | None = None) -> int:
    """The exact size of the file that a plan makes: the base's header with what is added, then each tensor padded."""
    saved = _listing(base.tensors) - _listing(plan.tensors)  # of layers that are left out
    added = matrix.n_bytes if matrix is not None else 0
    offset = -(-(header_bytes(base) + added - saved) // base.alignment) * base.alignment
    return offset + sum(-(-n_bytes(t) // base.alignment) * base.alignment for t in plan.tensors)


def header_bytes(base: GgufHeader) -> int:
    """Bytes of a header up to where it is padded."""
    _, metadata = own_pairs(base)
    return FIXED.size + len(metadata) + _listing(base.tensors)


def _listing(tensors: Sequence[Tensor | TensorPlan]) -> int:
    """Bytes in a header that list tensors: of each the length of its name and that, dimensions, type, offset."""
    return sum(8 + len(t.name.encode()) + 4 + 8 * len(t.shape) + 4 + 8 for t in tensors)


def types_of(plan: QuantizePlan) -> dict[str, str]:
    """The type of each tensor of a plan, by its name."""
    return {t.name: t.after for t in plan.tensors}


def is_measured(kind: QuantType) -> bool:
    """Whether the types of a file's tensors are chosen by measurement."""
    return kind.target is not None and kind.target.is_measured


def given(base: GgufHeader, kind: QuantType, how: QuantizeOptions) -> QuantizeOptions:
    """How to quantize to a type whose tensors' types are known beforehand; those that are measured stay open."""
    target = kind.target
    if target is None or target.is_measured:
        return how
    if target.file is not None:
        return replace(how, recipe=read_recipe(target.file, base))
    patterns = (*target.tensor_types, *how.overrides.tensor_types)
    return replace(how, overrides=replace(how.overrides, tensor_types=patterns))


def plan(
    tools: Toolchain,
    base: Path,
    kind: QuantType,
    known: Sequence[QuantType],
    overrides: Overrides = overridden.NONE,
    matrix: Matrix | None = None,
) -> QuantizePlan:
    """What llama-quantize would make; where types are measured, of the largest type of its own within the target."""
    if not is_measured(kind):
        weights = matrix.stand_in if matrix is not None else None
        how = QuantizeOptions(weights, overrides=overridden.of_kind(overrides, kind))
        return quantize.plan(tools, base, kind, given(read_header(base), kind, how))
    return quantize.plan(tools, base, preset_near(tools, base, kind, known))


def planned_types(
    tools: Toolchain,
    base: Path,
    kind: QuantType,
    known: Sequence[QuantType],
    overrides: Overrides = overridden.NONE,
) -> dict[str, str]:
    """The type that each tensor will get, or one like it where it is measured; a GGUF without its weights is enough."""
    return types_of(plan(tools, base, kind, known, overridden.of_whole_model(overrides)))


def preset_near(tools: Toolchain, base: Path, kind: QuantType, known: Sequence[QuantType]) -> QuantType:
    """The largest type of llama-quantize within a target, the smallest where none is."""
    by_name, target = {t.name: t for t in known}, kind.target
    if target is None or target.kind == "kld":
        return by_name[_USUAL]
    if target.preset:
        return by_name[target.preset]
    most, types = bytes_at_most(tools, base, kind, known), quants.smaller_types(known, _ANY_BPW)
    header = read_header(base)
    fitting = (t for t in types if planned_bytes(header, quantize.plan(tools, base, t)) <= most)
    return next(fitting, types[-1])


def bytes_at_most(tools: Toolchain, base: Path, kind: QuantType, known: Sequence[QuantType]) -> int:
    """The size that a file with measured types does not exceed; where only a loss is asked for, that of the largest type."""
    header, target = read_header(base), kind.target
    if target is not None and target.kind == "size":
        return int(min(target.number, header.size_bytes))
    if target is not None and target.kind == "bpw":
        n_bytes = sum(t.n_elements for t in header.tensors) * target.number / 8
        return min(header.data_offset + int(n_bytes), header.size_bytes)
    largest = {t.name: t for t in known}[target.preset if target is not None and target.preset else _LARGEST]
    return planned_bytes(header, quantize.plan(tools, base, largest))
