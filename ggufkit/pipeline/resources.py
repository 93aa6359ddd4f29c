"""The plan of a build before anything is spent: size, substituted tensors, disk and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import ResourceError
from ggufkit.core.records import QuantType, Toolchain
from ggufkit.core.units import size
from ggufkit.llama import mtp, quants
from ggufkit.llama.argv import Overrides
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.logs import QuantizePlan
from ggufkit.llama.memory import evaluation_ram
from ggufkit.pipeline import foreseen
from ggufkit.pipeline.foreseen import Matrix, is_measured, planned_bytes
from ggufkit.steps import tensor_types

OVERSIZED = 1.15
_CANDIDATES = 6
_BESIDE, _SPARE = 4 << 20, 0.02
"""Bytes of logs, tables and reports, and the part of all the rest that may come in addition."""
_FLOAT_BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0}


@dataclass(frozen=True)
class Smaller:
    """A type that makes a smaller file of the same model, and its bits per weight there."""

    type: str
    bpw: float


@dataclass(frozen=True)
class PlannedFile:
    """One output: sizes in bytes, `nominal_bpw` what its name promises, `ram_bytes` to make and evaluate it.

    `at_most` tells that the types are yet to be measured: then it will be no larger than this. One that is larger than
    its name promises `is_warned_of`, with the largest general-purpose type that is smaller.
    """

    file: str
    variant: str
    type: str
    size_bytes: int
    bpw: float
    nominal_bpw: float | None
    n_fallback: int
    fallbacks: Mapping[str, int]
    ram_bytes: int
    needs_imatrix: bool = False
    smaller: Smaller | None = None
    is_warned_of: bool = False
    at_most: bool = False

    @property
    def oversized(self) -> bool:
        """Whether it is more than 15 % above what its name promises."""
        return self.nominal_bpw is not None and self.bpw > OVERSIZED * self.nominal_bpw


@dataclass(frozen=True)
class PlannedStep:
    """A step, what it keeps busy ("CPU", "GPU", "CPU, 4 at once"), and what it waits for besides the one before.

    `stage` names it in a word; `seconds` is an estimate of what is left of it, None where nothing is.
    """

    stage: str
    doing: str
    uses: str
    note: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class PlannedPart:
    """The file that reads images or sound for all others; no row of the results."""

    file: str
    type: str
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """All outputs of a build, and what they need of this machine, in bytes.

    It takes `seconds`, most likely not `seconds_factor` times as long or as short. `remarks` are about files that are
    larger than their names promise. `mmproj` reads images or sound; `mtp` is what is said of layers that predict further
    tokens. `download_bytes` of weights are yet to be fetched.
    """

    files: tuple[PlannedFile, ...]
    disk_needed: int
    disk_free: int
    ram_needed: int
    ram_free: int
    steps: tuple[PlannedStep, ...] = ()
    seconds: float = 0.0
    seconds_factor: float = 1.0
    remarks: tuple[str, ...] = ()
    mmproj: PlannedPart | None = None
    mtp: str = ""
    download_bytes: int = 0

    def require(self, where: Path) -> None:
        """Raise ResourceError when the plan does not fit this machine."""
        needed = int(self.disk_needed * (1 + _SPARE)) + _BESIDE
        if needed > self.disk_free:
            raise ResourceError(
                f"The plan needs {size(needed)} of disk at its peak, {size(self.disk_free)} are free at {where}.",
                hint="Free some space, choose fewer --types, a smaller --scratch-limit, or another --out.",
            )
        if self.ram_needed > self.ram_free:
            raise ResourceError(
                f"The plan needs about {size(self.ram_needed)} of memory, {size(self.ram_free)} are free.",
                hint="Close other programs, or use --no-eval to quantize without measuring.",
            )


@dataclass(frozen=True)
class Planner:
    """What is known before outputs are planned: the tools and all their types, the base, the context in tokens, and
    what the tools are told besides types."""

    tools: Toolchain
    base: GgufHeader
    known: Sequence[QuantType]
    n_ctx: int
    overrides: Overrides = field(default_factory=Overrides)

    def file(self, kind: QuantType, file: str, variant: str, matrix: Matrix | None = None) -> PlannedFile:
        """What one output will be, by llama-quantize's own dry run; where types are measured, what it will not exceed."""
        if is_measured(kind):
            return self._limit(kind, file, variant)
        planned = foreseen.plan(self.tools, self.base.path, kind, self.known, self.overrides, matrix)
        counts: dict[str, int] = {}
        for _, wanted, got in planned.fallbacks:
            counts[f"{wanted} → {got}"] = counts.get(f"{wanted} → {got}", 0) + 1
        n_bytes, nominal = planned_bytes(self.base, planned, matrix), quants.nominal_bpw(kind)
        result = PlannedFile(
            file, variant, kind.name, n_bytes, planned.bpw, _FLOAT_BITS.get(kind.name, nominal), planned.n_fallback,
            counts, evaluation_ram(self.base, n_bytes, self.n_ctx), planned.needs_imatrix,
        )  # fmt: skip
        if quants.is_float(kind.name) or self.overrides != Overrides():
            return result
        if result.oversized and replace(result, bpw=self._bpw_of_text(planned)).oversized:
            return replace(result, smaller=self._smaller(result, matrix), is_warned_of=True)
        return result

    def _bpw_of_text(self, planned: QuantizePlan) -> float:
        """Bits per weight of what a text runs through: other layers have one type, whatever the file's."""
        beside = mtp.tensors(self.base)
        return tensor_types.bpw(
            replace(planned, tensors=tuple(t for t in planned.tensors if t.name not in beside))
        )

    def _limit(self, kind: QuantType, file: str, variant: str) -> PlannedFile:
        most = foreseen.bytes_at_most(self.tools, self.base.path, kind, self.known)
        bpw = 8 * (most - self.base.data_offset) / sum(t.n_elements for t in self.base.tensors)
        ram = evaluation_ram(self.base, most, self.n_ctx)
        return PlannedFile(file, variant, kind.name, most, bpw, quants.nominal_bpw(kind), 0, {}, ram, at_most=True)

    def _smaller(self, planned: PlannedFile, matrix: Matrix | None) -> Smaller | None:
        """The largest general-purpose type that keeps the promise of the one that does not fit the shape."""
        promised = planned.nominal_bpw or 0.0
        best: Smaller | None = None
        for kind in quants.smaller_types(self.known, promised)[:_CANDIDATES]:
            bpw = foreseen.plan(self.tools, self.base.path, kind, self.known, matrix=matrix).bpw
            if bpw < planned.bpw - 0.05 and (best is None or bpw < best.bpw):
                best = Smaller(kind.name, bpw)
            if bpw <= OVERSIZED * promised:
                break
        return best


def quantize_ram(base: GgufHeader) -> int:
    """Bytes that llama-quantize needs besides the memory-mapped base: its largest tensor, before and after."""
    largest = max((t.n_elements for t in base.tensors), default=0)
    return largest * 8 + (64 << 20)


def whole_plan(
    files: Sequence[PlannedFile], where: Path, extra_disk: int, extra_ram: int, on_gpus: int, *, evaluate: bool
) -> Plan:
    """The plan over all outputs that are still to be made, against what is free at `where`.

    Args:
        on_gpus: bytes of GPU memory, which take as much off what an evaluation needs of the machine's own.
    """
    disk = sum(f.size_bytes for f in files) + extra_disk
    ram = max([extra_ram, *(f.ram_bytes - on_gpus for f in files if evaluate)], default=0)
    return Plan(tuple(files), disk, machine.free_disk(where), ram, machine.free_memory())
