"""A build request with everything looked up, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core import methods, variants
from ggufkit.core.errors import UsageError
from ggufkit.core.methods import Method
from ggufkit.core.part_names import stem_of
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile, QuantType, Toolchain
from ggufkit.core.variants import Scaling, Variant
from ggufkit.llama import quants
from ggufkit.llama.argv import Overrides
from ggufkit.measure import conditions
from ggufkit.measure.conditions import Setting
from ggufkit.measure.kept_logits import KeptLogits
from ggufkit.pipeline import overridden
from ggufkit.pipeline.foreseen import is_measured
from ggufkit.pipeline.senses import Part
from ggufkit.request import BuildRequest
from ggufkit.steps import division
from ggufkit.steps.method import Asked
from ggufkit.steps.session import Session
from ggufkit.texts.corpus import Corpus
from ggufkit.texts.tasks.questions import TaskData, TaskSpec


@dataclass(frozen=True)
class Job:
    """A request with everything looked up: the model on disk, the types and variants of the tables, the session.

    Args:
        text: what the table is measured on; `further_texts` are measured as well.
        part: what reads images or sound, where the model has such.
        task_specs: the tasks that are asked for; their questions are in `tasks`, but for a plan, which fetches none.
        kept: where base logits stay for jobs that come later, None for nowhere.
        only: names of the variant and the type of each file that is made, None for each type of each variant.
    """

    request: BuildRequest
    model: Checkpoint | GgufFile
    name: str
    types: tuple[QuantType, ...]
    known_types: tuple[QuantType, ...]
    variants: tuple[Variant, ...]
    text: Corpus | None
    calibration: Corpus | None
    session: Session
    overrides: Overrides = field(default_factory=Overrides)
    task_specs: tuple[TaskSpec, ...] = ()
    tasks: tuple[TaskData, ...] = ()
    further_texts: tuple[Corpus, ...] = ()
    part: Part | None = None
    only: frozenset[tuple[str, str]] | None = None
    kept: KeptLogits | None = None

    @property
    def out(self) -> Path:
        """The output directory."""
        return self.session.workspace.root

    @property
    def tools(self) -> Toolchain:
        """The llama.cpp in use."""
        return self.session.tools

    @property
    def reporter(self) -> Reporter:
        """Where progress and remarks go."""
        return self.session.reporter

    @property
    def base_type(self) -> str:
        """The type of the base: what is asked for, or what the user's file is."""
        return self.model.type if isinstance(self.model, GgufFile) else self.request.conversion.out_type.upper()

    @property
    def targets(self) -> list[tuple[Variant, QuantType]]:
        """Which type is made for which variant; the base itself is not made again."""
        wanted = [(v, t) for v in self.variants for t in self.types if self._is_made(v, t)]
        if self.only is not None:
            wanted = [(v, t) for v, t in wanted if (v.name, t.name) in self.only]
        return [(v, t) for v, t in wanted if v.imatrix or t not in self.for_matrices_only]

    @property
    def made_as_plain(self) -> list[tuple[Variant, QuantType]]:
        """What is left out because it would be the plain file again: llama-quantize ignores the matrix."""
        every = [(v, t) for v in self.variants for t in self.types if quants.is_made(t.name, v, self.base_type)]
        return [(v, t) for v, t in every if not self._is_made(v, t)]

    def _is_made(self, variant: Variant, kind: QuantType) -> bool:
        is_of_one_type = overridden.of_kind(self.overrides, kind) == overridden.NONE
        beside = [v.name for v in self.variants] if is_of_one_type else []
        return quants.is_made(kind.name, variant, self.base_type, beside)

    @property
    def for_matrices_only(self) -> list[QuantType]:
        """Types that are useless without a matrix, where one of the variants has one: the others leave them out."""
        with_matrix = any(v.imatrix for v in self.variants)
        return [t for t in self.types if with_matrix and quants.needs_imatrix(t)]

    @property
    def settings(self) -> list[Setting]:
        """In which texts and contexts, and with which KV caches, quality is measured, the table's first; none without a
        text."""
        how = self.request.evaluation
        return [] if self.text is None else conditions.settings(self.texts, how.contexts, how.chunks, how.kv_types)

    @property
    def texts(self) -> list[Corpus]:
        """All texts that quality is measured on, the table's first."""
        return [] if self.text is None else [self.text, *self.further_texts]

    @property
    def measures(self) -> bool:
        """Whether types of any file are chosen by measurement."""
        return any(is_measured(t) for t in self.types)

    def output(self, variant: Variant, type_name: str) -> Path:
        """Where a result goes; where it is already in parts, the first of them."""
        return division.there(self.out / variants.file_name(self.name, variant, type_name))

    @property
    def base_output(self) -> Path:
        """Where the base goes."""
        return self.output(variants.BY_NAME["plain"], self.base_type)

    def scaling_of(self, variant: Variant, kind: QuantType) -> Scaling | None:
        """What the checkpoint is scaled for, or changed by, that a result is made from; None where it is as it was."""
        if variant.before is None:
            return None
        if not variant.awq:
            return Scaling(method=variant.before.name)
        how = self.request.scaling
        if quants.is_float(kind.name) or not how.knows_types:
            return Scaling()
        return Scaling(variant.imatrix, kind.name if how.per_type else None)

    @property
    def scalings(self) -> list[Scaling]:
        """All scaled checkpoints that the results are made from."""
        return list(dict.fromkeys(s for v, t in self.targets if (s := self.scaling_of(v, t)) is not None))

    def types_of_scaling(self, scaling: Scaling) -> list[QuantType]:
        """The quantized types that a scaled checkpoint is for; Q4_K_M where only floats are asked for."""
        kinds = [t for v, t in self.targets if self.scaling_of(v, t) == scaling and not quants.is_float(t.name)]
        usual = [t for t in self.known_types if t.name == "Q4_K_M"]
        return list(dict.fromkeys(kinds)) or [t for t in self.types if not quants.is_float(t.name)] or usual

    def scaled_checkpoint(self, scaling: Scaling) -> Path:
        """Where a scaled checkpoint goes: out of sight."""
        return self.session.workspace.private / scaling.file_name

    def scaled_base_output(self, scaling: Scaling) -> Path:
        """Where the base of a scaled checkpoint goes: among the results if it is asked for, else out of sight."""
        shown = self.shown_base(scaling)
        if shown is not None:
            return self.output(shown, self.base_type)
        return self.session.workspace.private / variants.scaled_base_name(
            self.name, scaling.file_name, self.base_type
        )

    def matrix_output(self, scaling: Scaling | None) -> Path:
        """Where the importance matrix of a base goes: out of sight."""
        base = self.base_output if scaling is None else self.scaled_base_output(scaling)
        return self.session.workspace.private / f"{stem_of(base)}.imatrix"

    def shown_base(self, scaling: Scaling) -> Variant | None:
        """The variant of which the base of a scaled checkpoint is a result, if it is asked for."""
        floats = (v for v, t in self.targets if t.name == self.base_type and self.scaling_of(v, t) == scaling)
        return next(floats, None)

    def asked(self, method: Method) -> Asked:
        """A package's method with its options and its text. Raises UsageError."""
        words, text = self.request.methods.variant_option, self.calibration if method.calibrated else None
        return Asked(method, methods.options_of(method, words), text)

    @property
    def calibration_text(self) -> Corpus:
        """The text to calibrate on. Raises UsageError where no variant needs any."""
        if self.calibration is None:
            raise UsageError("This variant needs calibration text.", hint="Give one with --calibration.")
        return self.calibration
