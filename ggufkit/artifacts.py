"""The files that a build makes, each made once from what it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ggufkit import convert, quantize, quants, variants
from ggufkit.adopt import adopt
from ggufkit.errors import UsageError
from ggufkit.imatrix import ImatrixOptions, make_imatrix, require_fits
from ggufkit.job import Job
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.llama.logs import QuantType
from ggufkit.quantize import QuantizeOptions
from ggufkit.records import GgufFile
from ggufkit.session import Session
from ggufkit.steps import Result
from ggufkit.variants import Variant

T = TypeVar("T")


class Artifacts:
    """Makers of a job's files. Asking twice for the same one makes it once."""

    def __init__(self, job: Job, session: Session) -> None:
        self.job = job
        self.session = session
        self._made: dict[object, object] = {}

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]

    def base(self, *, awq: bool) -> Result:
        """The high-precision GGUF that quantizing starts from."""
        return self._once(("base", awq), self._plain_base)

    def _plain_base(self) -> Result:
        job = self.job
        if isinstance(job.model, GgufFile):
            requantize = job.request.allow_requantize
            return adopt(job.model, job.name, job.base_output, self.session, allow_requantize=requantize)
        return convert.convert(job.model, job.base_output, job.convert_options, self.session)

    def base_file(self, *, awq: bool) -> GgufFile:
        """The base as a record."""
        made = self.base(awq=awq)
        return self._once(("base file", awq), lambda: read_gguf(made.path, made.sha256))

    def imatrix(self, *, awq: bool) -> Path:
        """The importance matrix of a base: the user's own for the plain one, else computed."""
        return self._once(("imatrix", awq), lambda: self._imatrix(awq))

    def _imatrix(self, awq: bool) -> Path:
        base, request = self.base_file(awq=awq), self.job.request
        if request.imatrix is not None and not awq:
            require_fits(request.imatrix, read_header(base.path))
            return request.imatrix
        if self.job.calibration is None:
            raise UsageError("This variant needs calibration text.", hint="Give one with --calibration.")
        output = self.session.workspace.private / f"{base.path.stem}.imatrix"
        options = ImatrixOptions(n_chunks=request.calibration_samples, ngl=request.ngl)
        return make_imatrix(base, self.job.calibration, output, options, self.session).path

    def quantized(self, variant: Variant, kind: QuantType) -> Result:
        """One result: a type of a variant."""
        return self._once(("quantized", variant, kind), lambda: self._quantized(variant, kind))

    def _quantized(self, variant: Variant, kind: QuantType) -> Result:
        matrix = self.imatrix(awq=variant.awq) if variant.imatrix and not quants.is_float(kind.name) else None
        options = QuantizeOptions(matrix, self.job.request.allow_requantize, variant.name, self.job.name)
        output = self.job.output(variant, kind.name)
        return quantize.quantize(self.base_file(awq=variant.awq), output, kind, options, self.session)


def outputs(job: Job) -> list[tuple[Variant, QuantType, Path]]:
    """Every result of a job besides the base, with its path."""
    return [(v, t, job.out / variants.file_name(job.name, v, t.name)) for v, t in job.targets]
