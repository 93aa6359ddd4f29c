"""The files that a build makes, each made once from what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ggufkit.core import variants
from ggufkit.core.errors import UsageError
from ggufkit.core.methods import AWQ, GPTQ, Method
from ggufkit.core.records import Checkpoint, GgufFile, QuantType
from ggufkit.core.variants import Scaling, Variant
from ggufkit.llama import quants
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.models import dequantized
from ggufkit.pipeline import chosen, overridden
from ggufkit.pipeline.chosen import Means
from ggufkit.pipeline.foreseen import is_measured, planned_types
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.recipes import RecipeSources
from ggufkit.pipeline.refined_probes import Refining
from ggufkit.refine.options import RefineOptions
from ggufkit.steps import awq, convert, method, quantize, refine
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix, name_missing, require_fits
from ggufkit.steps.import_gguf import import_gguf
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.refine import Refinable, RefiningOptions, Wanted
from ggufkit.steps.step import Result
from ggufkit.texts.calibration import Calibration, draw, load_tokenizer, read_texts

T = TypeVar("T")


class Artifacts:
    """Makers of a job's files. Asking twice for the same one makes it once.

    A base is known by what its checkpoint was scaled for, None for the plain one.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._made: dict[object, object] = {}
        self._coming: list[tuple[Variant, QuantType]] = []

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]

    def base(self, scaling: Scaling | None = None) -> Result:
        """The high-precision GGUF that quantizing starts from."""
        make = self._plain_base if scaling is None else lambda: self._scaled_base(scaling)
        return self._once(("base", scaling), make)

    def mmproj(self) -> Result | None:
        """What reads images or sound, tried with the base; None where the model reads text alone."""
        part, base = self.job.part, self.base().path
        return None if part is None else self._once("mmproj", lambda: part.make(base, self.job.session))

    def base_file(self, scaling: Scaling | None = None) -> GgufFile:
        """The base as a record."""
        made = self.base(scaling)
        return self._once(("base file", scaling), lambda: read_gguf(made.path, made.sha256))

    def scale(self) -> None:
        """Make all scaled checkpoints that results are made from, and those that packages' methods change."""
        for scaling in self.job.scalings:
            self._scaled(scaling)

    def prepare(self, variant: Variant, kind: QuantType) -> None:
        """Make what a result needs and may share with others: its base, its importance matrix, its types."""
        scaling = self.job.scaling_of(variant, kind)
        self.base_file(scaling)
        if variant.imatrix and not quants.is_float(kind.name):
            self.imatrix(scaling)
        if variant.after is None:
            self._how(variant, kind, self.job.output(variant, kind.name))

    def announce(self, targets: Sequence[tuple[Variant, QuantType]]) -> None:
        """Say which results will be asked for next: what they have in common is then made along with the first."""
        self._coming = list(targets)

    def quantized(self, variant: Variant, kind: QuantType) -> Result:
        """One result: a type of a variant."""
        return self._once(("quantized", variant, kind), lambda: self._quantized(variant, kind))

    def _plain_base(self) -> Result:
        job = self.job
        if isinstance(job.model, GgufFile):
            requantize = job.request.source.allow_requantize
            return import_gguf(job.model, job.name, job.base_output, self.job.session, allow_requantize=requantize)
        return convert.convert(job.model, job.base_output, job.request.conversion, self.job.session)

    def _scaled_base(self, scaling: Scaling) -> Result:
        shown = self.job.shown_base(scaling)
        options = replace(self.job.request.conversion, variant=shown.name if shown is not None else scaling.method)
        return convert.convert(
            self._scaled(scaling), self.job.scaled_base_output(scaling), options, self.job.session
        )

    def _scaled(self, scaling: Scaling) -> Checkpoint:
        """The scaled checkpoint, or the one that a package's method changed."""
        if scaling.method == AWQ.name:
            return awq.as_checkpoint(self._once("scaled", self._scale)[scaling], self._checkpoint())
        made = self._once(("changed", scaling), lambda: self._change(scaling))
        return awq.as_checkpoint(made, self._checkpoint())

    def _change(self, scaling: Scaling) -> Result:
        job = self.job
        found = next(v.before for v in job.variants if v.before is not None and v.before.name == scaling.method)
        asked, output = job.asked(found), job.scaled_checkpoint(scaling)
        return method.change_checkpoint(self._checkpoint(), asked, output, job.session)

    def _scale(self) -> dict[Scaling, Result]:
        """All scaled checkpoints that the job needs, made in one run over the calibration text."""
        job = self.job
        scalings = [s for s in job.scalings if s.method == AWQ.name]
        wanted = [awq.Wanted(s, job.scaled_checkpoint(s), self._types(s)) for s in scalings]
        done = awq.scale(self._checkpoint(), wanted, self.calibration(), job.request.scaling, job.session)
        return dict(zip(scalings, done, strict=True))

    def _types(self, scaling: Scaling) -> tuple[dict[str, str], ...]:
        base = self.base_file().path
        kinds = self.job.types_of_scaling(scaling)
        return tuple(
            planned_types(self.job.tools, base, kind, self.job.known_types, self.job.overrides) for kind in kinds
        )

    def _checkpoint(self) -> Checkpoint:
        """The checkpoint with floats, whatever it holds: what is run layer by layer."""
        model = self.job.model
        if isinstance(model, GgufFile):
            raise UsageError("This variant needs the checkpoint.", hint="Give its directory instead of the GGUF.")
        return self._once("floats", lambda: dequantized.floats(model, self.job.reporter))

    def calibration(self) -> Calibration:
        """The samples that AWQ and GPTQ calibrate on."""
        return self._once("calibration", self._draw)

    def _draw(self) -> Calibration:
        request, text = self.job.request, self.job.calibration_text
        tokenizer = load_tokenizer(self._checkpoint().path, special=text.special)
        return draw(read_texts(text.path), tokenizer, request.calibration.sampling, source=text.name)

    def imatrix(self, scaling: Scaling | None = None) -> Path:
        """The importance matrix of a base: the user's own for the plain one, else computed."""
        return self._once(("imatrix", scaling), lambda: self._imatrix(scaling))

    def _imatrix(self, scaling: Scaling | None) -> Path:
        base, request = self.base_file(scaling), self.job.request
        own = request.calibration.imatrix
        if own is not None and scaling is None:
            name_missing(require_fits(own, read_header(base.path)), self.job.reporter)
            return own
        output, text = self.job.matrix_output(scaling), self.job.calibration_text
        options = ImatrixOptions(
            n_chunks=request.calibration.samples,
            ngl=request.run.ngl,
            process_output=request.calibration.process_output,
        )
        return make_imatrix(base, text, output, options, self.job.session).path

    def _quantized(self, variant: Variant, kind: QuantType) -> Result:
        job, scaling = self.job, self.job.scaling_of(variant, kind)
        output = job.output(variant, kind.name)
        if scaling is not None and job.scaled_base_output(scaling) == output:
            return self.base(scaling)
        if variant.after is not None:
            return self._finished(variant, variant.after, kind, output)
        return self._rounded(variant, kind, output)

    def _rounded(self, variant: Variant, kind: QuantType, output: Path, *, refined: bool = False) -> Result:
        """A file as llama-quantize makes it; `refined` if it will be refined."""
        base, how = self.base_file(self.job.scaling_of(variant, kind)), self._how(variant, kind, output, refined)
        return quantize.quantize(base, output, kind, how, self.job.session)

    def _how(self, variant: Variant, kind: QuantType, output: Path, refined: bool = False) -> QuantizeOptions:
        """How a file is quantized; the recipe of its types, where it has one, is made beside it."""
        return self._once(("how", variant, kind, refined), lambda: self._choose(variant, kind, output, refined))

    def _choose(self, variant: Variant, kind: QuantType, output: Path, refined: bool) -> QuantizeOptions:
        job, scaling = self.job, self.job.scaling_of(variant, kind)
        requantize = job.request.source.allow_requantize and output == job.output(variant, kind.name)
        matrix = self.imatrix(scaling) if variant.imatrix and not quants.is_float(kind.name) else None
        told = overridden.of_kind(job.overrides, kind)
        how = QuantizeOptions(matrix, requantize, variant.name, job.name, told)
        means = None
        if is_measured(kind):
            refining = self._refining(scaling, kind) if refined else None
            sources = RecipeSources(self.imatrix(scaling), job.calibration_text, refining)
            means = Means(sources, job.request.recipes)
        return chosen.settle(self.base_file(scaling), kind, output, how, means, job.session)

    def _finished(self, variant: Variant, last: Method, kind: QuantType, output: Path) -> Result:
        """A file that is changed after it was quantized, by GPTQ or by a package's method."""
        rounded = self._unrefined(variant, kind)
        if kind.target is not None:
            chosen.copy_recipe(rounded.path, output, self.job.session)
        if last == GPTQ:
            return self._refined(rounded, variant, kind, output)
        quantized, base = (
            read_gguf(rounded.path, rounded.sha256),
            self.base_file(self.job.scaling_of(variant, kind)),
        )
        return method.change_gguf(quantized, base, self.job.asked(last), output, variant.name, self.job.session)

    def _refined(self, rounded: Result, variant: Variant, kind: QuantType, output: Path) -> Result:
        job, how = self.job, self._refinement(kind)
        options = RefiningOptions(how, variant=variant.name, type=kind.name, name=job.name)
        alike = [
            (v, t)
            for v, t in self._coming
            if v == variant
            and t != kind
            and self._refinement(t) == how
            and job.scaling_of(v, t) == job.scaling_of(variant, kind)
            and ("quantized", v, t) not in self._made
        ]
        beside = [Wanted(self._refinable(self._unrefined(v, t), v, t), job.output(v, t.name)) for v, t in alike]
        return refine.refine(self._refinable(rounded, variant, kind), output, options, job.session, beside)

    def _refinable(self, rounded: Result, variant: Variant, kind: QuantType) -> Refinable:
        scaling = self.job.scaling_of(variant, kind)
        how = self._refining(scaling, kind)
        quantized = read_gguf(rounded.path, rounded.sha256)
        return Refinable(quantized, self.base_file(scaling), how.checkpoint, how.calibration)

    def _refinement(self, kind: QuantType) -> RefineOptions:
        """How a type's files are refined. A recipe may give the output matrix a coarse type, so that is refined, too."""
        asked = self.job.request.refinement
        return asked if kind.target is None else replace(asked, include_output=True)

    def _refining(self, scaling: Scaling | None, kind: QuantType) -> Refining:
        """What a type's files of a base are refined with."""
        checkpoint = self._checkpoint() if scaling is None else self._scaled(scaling)
        return Refining(checkpoint, self.calibration(), self._refinement(kind).include_output)

    def _unrefined(self, variant: Variant, kind: QuantType) -> Result:
        """What is changed afterwards: the same type without that; out of sight unless it is asked for.

        Types that are measured are others for what is refined.
        """
        plainer = variants.unrefined(variant)
        shown = (plainer, kind) in self.job.targets and not (is_measured(kind) and variant.refined)
        earlier = (plainer, kind) in self.job.made_as_plain and self.job.output(plainer, kind.name).exists()
        if shown or earlier:
            return self.quantized(plainer, kind)
        output = self.job.session.workspace.private / variants.file_name(self.job.name, plainer, kind.name)
        key = ("unrefined", variant, kind)
        return self._once(key, lambda: self._rounded(plainer, kind, output, refined=variant.refined))


def outputs(job: Job) -> list[tuple[Variant, QuantType, Path]]:
    """Every result of a job besides the base, with its path."""
    return [(v, t, job.output(v, t.name)) for v, t in job.targets]
