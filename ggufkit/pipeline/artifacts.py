"""The files that a build makes, each made once from what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ggufkit.core import variants
from ggufkit.core.errors import UsageError
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.core.variants import Variant
from ggufkit.llama import quants
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.llama.logs import QuantType
from ggufkit.pipeline.job import Job
from ggufkit.steps import awq, convert, quantize, refine
from ggufkit.steps.awq import Wanted
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix, require_fits
from ggufkit.steps.import_gguf import import_gguf
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.refine import Refinable, RefiningOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Result
from ggufkit.texts.calibration import Calibration, Sampling, draw, load_tokenizer, read_texts

T = TypeVar("T")
_PLAIN = ""


class Artifacts:
    """Makers of a job's files. Asking twice for the same one makes it once.

    A base is known by its `fold`: "" for the plain one, "awq" and so on for one of a scaled checkpoint.
    """

    def __init__(self, job: Job, session: Session) -> None:
        self.job = job
        self.session = session
        self._made: dict[object, object] = {}

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]

    def base(self, fold: str = _PLAIN) -> Result:
        """The high-precision GGUF that quantizing starts from."""
        make = (lambda: self._scaled_base(fold)) if fold else self._plain_base
        return self._once(("base", fold), make)

    def base_file(self, fold: str = _PLAIN) -> GgufFile:
        """The base as a record."""
        made = self.base(fold)
        return self._once(("base file", fold), lambda: read_gguf(made.path, made.sha256))

    def prepare(self, variant: Variant, kind: QuantType) -> None:
        """Make what a result needs and may share with others: its base, its importance matrix."""
        fold = self.job.scaling_of(variant, kind)
        self.base_file(fold)
        if variant.imatrix and not quants.is_float(kind.name):
            self.imatrix(fold)

    def quantized(self, variant: Variant, kind: QuantType) -> Result:
        """One result: a type of a variant."""
        return self._once(("quantized", variant, kind), lambda: self._quantized(variant, kind))

    def _plain_base(self) -> Result:
        job = self.job
        if isinstance(job.model, GgufFile):
            requantize = job.request.allow_requantize
            return import_gguf(job.model, job.name, job.base_output, self.session, allow_requantize=requantize)
        return convert.convert(job.model, job.base_output, job.convert_options, self.session)

    def _scaled_base(self, fold: str) -> Result:
        options = replace(self.job.convert_options, variant="awq")
        return convert.convert(self._scaled(fold), self.job.scaled_base_output(fold), options, self.session)

    def _scaled(self, fold: str) -> Checkpoint:
        """The scaled checkpoint."""
        return awq.as_checkpoint(self._once("scaled", self._scale)[fold], self._checkpoint())

    def _scale(self) -> dict[str, Result]:
        """All scaled checkpoints that the job needs, by their label, made in one run over the calibration text."""
        job, corner = self.job, self.session.workspace.private
        wanted = [Wanted(s, corner / s.replace("+", "-"), self._types(s), "imatrix" in s) for s in job.scalings]
        options = job.request.scaling_options
        done = awq.scale(self._checkpoint(), wanted, self.calibration(), options, self.session)
        return {w.label: result for w, result in zip(wanted, done, strict=True)}

    def _types(self, fold: str) -> tuple[dict[str, str], ...]:
        base = self.base_file().path
        kinds = self.job.types_of_scaling(fold)
        return tuple(awq.planned_types(self.session.tools, base, kind) for kind in kinds)

    def _checkpoint(self) -> Checkpoint:
        model = self.job.model
        if isinstance(model, GgufFile):
            raise UsageError("This variant needs the checkpoint.", hint="Give its directory instead of the GGUF.")
        return model

    def calibration(self) -> Calibration:
        """The samples that AWQ and GPTQ calibrate on."""
        return self._once("calibration", self._draw)

    def _draw(self) -> Calibration:
        request, text = self.job.request, self.job.calibration_text
        tokenizer = load_tokenizer(self._checkpoint().path)
        sampling = Sampling(request.calibration_samples, seed=request.seed)
        return draw(read_texts(text.path), tokenizer, sampling, source=text.name)

    def imatrix(self, fold: str = _PLAIN) -> Path:
        """The importance matrix of a base: the user's own for the plain one, else computed."""
        return self._once(("imatrix", fold), lambda: self._imatrix(fold))

    def _imatrix(self, fold: str) -> Path:
        base, request = self.base_file(fold), self.job.request
        if request.imatrix is not None and not fold:
            require_fits(request.imatrix, read_header(base.path))
            return request.imatrix
        output = self.session.workspace.private / f"{base.path.stem}.imatrix"
        options = ImatrixOptions(n_chunks=request.calibration_samples, ngl=request.ngl)
        return make_imatrix(base, self.job.calibration_text, output, options, self.session).path

    def _quantized(self, variant: Variant, kind: QuantType) -> Result:
        job, fold = self.job, self.job.scaling_of(variant, kind)
        output = job.output(variant, kind.name)
        if fold and job.scaled_base_output(fold) == output:
            return self.base(fold)
        if variant.refined:
            return self._refined(variant, kind, output)
        matrix = self.imatrix(fold) if variant.imatrix and not quants.is_float(kind.name) else None
        options = QuantizeOptions(matrix, job.request.allow_requantize, variant.name, job.name)
        return quantize.quantize(self.base_file(fold), output, kind, options, self.session)

    def _refined(self, variant: Variant, kind: QuantType, output: Path) -> Result:
        job, fold = self.job, self.job.scaling_of(variant, kind)
        rounded = self._unrefined(variant, kind)
        options = RefiningOptions(variant=variant.name, type=kind.name, name=job.name)
        checkpoint = self._scaled(fold) if fold else self._checkpoint()
        quantized = read_gguf(rounded.path, rounded.sha256)
        source = Refinable(quantized, self.base_file(fold), checkpoint, self.calibration())
        return refine.refine(source, output, options, self.session)

    def _unrefined(self, variant: Variant, kind: QuantType) -> Result:
        """What is refined: the same type from the importance matrix; out of sight unless it is asked for."""
        plainer = variants.unrefined(variant)
        if (plainer, kind) in self.job.targets:
            return self.quantized(plainer, kind)
        fold = self.job.scaling_of(variant, kind)
        output = self.session.workspace.private / variants.file_name(self.job.name, plainer, kind.name)
        options = QuantizeOptions(self.imatrix(fold), False, plainer.name, self.job.name)
        return quantize.quantize(self.base_file(fold), output, kind, options, self.session)


def outputs(job: Job) -> list[tuple[Variant, QuantType, Path]]:
    """Every result of a job besides the base, with its path."""
    return [(v, t, job.output(v, t.name)) for v, t in job.targets]
