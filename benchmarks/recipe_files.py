"""The files that `benchmarks.recipes` compares: presets, recipes of their bytes, allocations by chance, refined recipes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import click

from benchmarks import controls
from benchmarks.controls import Sizes
from benchmarks.recipe_table import LAYERS, PRESET, RANDOM, RECIPE, REFINED, Made
from ggufkit.core.records import Checkpoint, GgufFile, QuantType, Target, Tensor
from ggufkit.llama import targets
from ggufkit.llama.gguf import read_header
from ggufkit.models import sources
from ggufkit.pipeline.recipe_engine import RecipeEngine, RecipeSources
from ggufkit.pipeline.recipes import make_recipe
from ggufkit.pipeline.refined_probes import Refining
from ggufkit.recipes import allowed
from ggufkit.recipes.groups import layer_of
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.recipe_file import read_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.refine.options import RefineOptions
from ggufkit.steps import convert, quantize, refine
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.refine import Refinable, RefiningOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Result
from ggufkit.texts.calibration import Calibration, Sampling, draw, load_tokenizer, read_texts
from ggufkit.texts.corpus import Corpus


@dataclass(frozen=True)
class Bench:
    """One model: its base and importance matrix, and how files are made of them."""

    session: Session
    checkpoint: Checkpoint
    base: GgufFile
    sources: RecipeSources
    options: RecipeOptions
    refinement: RefineOptions = field(default_factory=RefineOptions)

    @cached_property
    def engine(self) -> RecipeEngine:
        """What recipes are made by."""
        return RecipeEngine(self.base, self.sources, self.options, self.session)

    @property
    def name(self) -> str:
        """What files are called by."""
        return self.checkpoint.name

    def with_effort(self, effort: str) -> Bench:
        """The same with more or less measured for a recipe."""
        return replace(self, options=replace(self.options, effort=effort))

    def kinds(self, names: Sequence[str]) -> tuple[QuantType, ...]:
        """The types that a user's words mean."""
        return targets.resolve(names, quantize.known_types(self.session.tools))

    def preset(self, kind: QuantType) -> Made:
        """llama-quantize's own mix, with the matrix."""
        return self._made(PRESET, kind.name, self._quantize(f"imatrix-{kind.name}", kind))

    def recipe(self, target: Target) -> Made:
        """A recipe, and its file."""
        path = self._path(target.label, ".recipe.yaml")
        solved = make_recipe(self.base, target, self.sources, path, self.options, self.session)
        found = read_recipe(solved.path, read_header(self.base.path))
        done = self._quantize(target.label, QuantType(target.label, "", target), found)
        return self._made(RECIPE, target.preset, done, solved)

    def random(self, kind: QuantType, seed: int) -> Made:
        """Types drawn by chance for the tensors that recipes choose for, filling what the preset takes for them."""
        return self._drawn(RANDOM, f"random{seed}-{kind.name}", kind, self.sizes, seed)

    def random_layers(self, kind: QuantType, seed: int, recipe: Made) -> Made:
        """The same with a recipe's own types for what belongs to no layer: a coarse embedding spoils all the rest."""
        outside = [
            t for t in read_header(recipe.file.path).tensors if t.name in self.sizes and layer_of(t.name) is None
        ]
        fixed = {t.name: {t.type: self.engine.n_bytes({t.name: t.type})} for t in outside}
        return self._drawn(LAYERS, f"layers{seed}-{kind.name}", kind, {**self.sizes, **fixed}, seed)

    def _drawn(self, what: str, label: str, kind: QuantType, sizes: Sizes, seed: int) -> Made:
        drawn = controls.random_types(sizes, self.engine.n_bytes(self.engine.preset(kind)), seed)
        types = TypeRecipe(tuple(Choice(*one) for one in drawn.items()), kind.name)
        return self._made(what, kind.name, self._quantize(label, QuantType(label, ""), types))

    def refined(self, target: Target, text: Calibration) -> Made:
        """The file of a recipe for a refinement, with its weights rounded again."""
        refining = Refining(self.checkpoint, text, self.refinement.include_output)
        for_it = replace(self, sources=replace(self.sources, refining=refining))
        rounded = for_it.recipe(replace(target, label=f"unrefined-{target.label}"))
        files = Refinable(rounded.file, self.base, self.checkpoint, text)
        how = RefiningOptions(self.refinement, type=target.label, name=self.name)
        done = refine.refine(files, self._path(f"gptq-{target.label}", ".gguf"), how, self.session)
        return self._made(REFINED, target.preset, done)

    def samples(self) -> Calibration:
        """What `ggufkit refine` calibrates on by default, of this calibration text."""
        text, tokenizer = read_texts(self.sources.calibration.path), load_tokenizer(self.checkpoint.path)
        return draw(text, tokenizer, Sampling(), source=self.sources.calibration.name)

    @cached_property
    def sizes(self) -> Sizes:
        """The bytes in a file of each tensor that recipes choose for, in each type that they may give it."""
        return {tensor.name: dict(self._sizes(tensor)) for tensor in self.engine.tensors}

    def _sizes(self, tensor: Tensor) -> Iterator[tuple[str, int]]:
        engine = self.engine
        weighed = tensor.name in engine.importance
        for name in allowed.possible(tensor, engine.allowed_types, weighed=weighed):
            yield name, engine.n_bytes({tensor.name: name})

    def _quantize(self, label: str, kind: QuantType, types: TypeRecipe | None = None) -> Result:
        how = QuantizeOptions(self.sources.imatrix, variant="imatrix", name=self.name, recipe=types)
        return quantize.quantize(self.base, self._path(label, ".gguf"), kind, how, self.session)

    def _path(self, label: str, suffix: str) -> Path:
        return self.session.workspace.root / f"{self.name}-{label}{suffix}"

    def _made(self, what: str, target: str, done: Result, solved: Result | None = None) -> Made:
        file, seconds = sources.open_gguf(done.path), done.manifest.duration_s
        if solved is None:
            return Made(what, target, file, round(seconds, 2))
        evaluations = solved.manifest.notes["n_evaluations"]
        assert isinstance(evaluations, int)
        return Made(what, target, file, round(seconds + solved.manifest.duration_s, 2), evaluations)


def begin(model: Path, calibration: Corpus, matrix_chunks: int, options: RecipeOptions, session: Session) -> Bench:
    """Convert a checkpoint, and compute its importance matrix on the first chunks of the calibration text."""
    checkpoint = sources.resolve(str(model), reporter=session.reporter)
    if isinstance(checkpoint, GgufFile):
        raise click.UsageError(f"{model} is a GGUF; give the checkpoint that it was made from.")
    path = session.workspace.root / f"{checkpoint.name}-F16.gguf"
    convert.convert(checkpoint, path, ConvertOptions(), session)
    base = sources.open_gguf(path, session.reporter)
    sampled = ImatrixOptions(n_chunks=matrix_chunks)
    matrix = make_imatrix(base, calibration, path.with_suffix(".imatrix"), sampled, session)
    return Bench(session, checkpoint, base, RecipeSources(matrix.path, calibration), options)
