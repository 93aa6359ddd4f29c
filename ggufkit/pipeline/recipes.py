"""A recipe for a target: the types that lose least within its bytes, never worse than the preset of as many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.locks import waiting_lock
from ggufkit.core.records import GgufFile, Json, QuantType, Target
from ggufkit.core.units import size
from ggufkit.llama import mtp, quants
from ggufkit.llama.gguf import EMBEDDING, output_of, read_header
from ggufkit.models.files import files_of, fingerprint
from ggufkit.pipeline.probing import Found
from ggufkit.pipeline.recipe_engine import RecipeEngine, RecipeSources
from ggufkit.recipes.options import STEP, RecipeNotes, RecipeOptions
from ggufkit.recipes.recipe_file import write_recipe
from ggufkit.recipes.sensitivity import Sensitivities, Types
from ggufkit.recipes.solver import Solution
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.steps import quantize
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

__all__ = ["RecipeSources", "make_recipe"]

VERSION = 2  # 1 counted an error twice; what was measured for it is kept
_ADDED_BYTES = 4096
"""What llama-quantize and a refinement add to the base's metadata: names of the matrix and its text, and counts."""
_PRESETS_COMPARED = 2
_SEARCH_STEPS, _CORRECTIONS, _SLACK = 40, 3, 1.02


@dataclass(frozen=True)
class _Candidate:
    """Types that may be kept: a preset's, or what was solved for, and what is to be said of that."""

    name: str
    types: Types
    worth: Sensitivities
    solution: Solution | None = None
    remark: str = ""


def make_recipe(
    base: GgufFile, target: Target, sources: RecipeSources, output: Path, options: RecipeOptions, session: Session
) -> Result:
    """Make the recipe for a target unless that is done already; the result is a file of YAML.

    Args:
        target: of the kinds "bpw", "size", "like" and "kld".

    Raises:
        UsageError: no types allowed are small enough, or good enough; the nearest that can be had is named.
        InputError, ToolError: as quantizing and measuring raise them.
    """
    params: dict[str, Json] = {
        "target": target.spec, "effort": options.effort, "types_allowed": list(options.types_allowed),
        "at_least": [list(one) for one in options.at_least], "weigh": options.weigh, "n_ctx": options.n_ctx,
        "backend": session.tools.backend,
    }  # fmt: skip
    if mtp.layers(read_header(base.path)):
        params["mtp"] = mtp.TYPE
    if options.speed:
        params |= {"speed": options.speed, "machine": machine.describe(), "threads": session.threads}
    files = {"base": base.as_input(), "calibration": sources.calibration.as_input()}
    if sources.imatrix is not None:
        files["imatrix"] = Input(sources.imatrix, sha256_file(sources.imatrix))
    inputs = {role: file.sha256 for role, file in files.items()}
    if sources.refining is not None:
        params |= {"refined": True, "output_refined": sources.refining.include_output}
        if sources.refining.include_output and output_of(read_header(base.path)) == EMBEDDING:
            params |= {"embedding_refined": True}
        own = sources.refining.checkpoint.path
        files["checkpoint"] = Input(own, fingerprint(own, session.reporter), files_of)
        inputs |= {"checkpoint": files["checkpoint"].sha256}
        inputs |= {"calibration_tokens": sources.refining.calibration.tokens_sha256}
    recipe = Recipe(STEP, VERSION, inputs, params, session.tools.identity, tuple(files.values()))
    work = session.work("choose", base.n_params, options.effort)
    return session.ensure(
        recipe, output, lambda partial: _make(base, target, sources, partial, options, session), work=work
    )


def _make(
    base: GgufFile, target: Target, sources: RecipeSources, partial: Path, options: RecipeOptions, session: Session
) -> Made:
    engine = RecipeEngine(base, sources, options, session)
    session.reporter.info(
        f"{target.spec}: at most {options.measured.most_evaluations} evaluations of {options.measured.n_chunks} chunks "
        f"of {options.n_ctx} tokens; each that is done is kept."
    )
    engine.directory.mkdir(parents=True, exist_ok=True)
    # Workers of a sweep may look for several targets at once: probes are shared, and are removed by who ends.
    with waiting_lock(engine.directory / "lock", f"types of {base.path.name}", session.reporter):
        chosen = _Chosen(engine, target)
        chosen.aim()
        recipe = chosen.recipe(_measured_on(base, sources))
        engine.clear()
    write_recipe(recipe, partial)
    for remark in recipe.remarks:
        session.reporter.info(remark)
    matrix = sources.imatrix.name if sources.imatrix is not None else ""
    notes = RecipeNotes(target.spec, engine.n_measured, sources.calibration.name, matrix)
    return Made(notes=notes.to_notes())


def _measured_on(base: GgufFile, sources: RecipeSources) -> dict[str, str]:
    said = {"base": f"{base.path.name} {base.sha256}"}
    if sources.imatrix is not None:
        said["imatrix"] = f"{sources.imatrix.name} {sha256_file(sources.imatrix)}"
    return said | {"calibration": f"{sources.calibration.name} {sources.calibration.sha256}"}


class _Chosen:
    """The choice for one target."""

    def __init__(self, engine: RecipeEngine, target: Target) -> None:
        self.engine, self.target = engine, target
        self.known = quantize.known_types(engine.session.tools)

    def recipe(self, measured_on: Mapping[str, str]) -> TypeRecipe:
        """The best of what was solved for and the presets that are no larger."""
        if self.target.kind == "kld":
            best, found, remarks = self._for_divergence()
        else:
            best, found, remarks = self._for_bytes(self._budget())
        settled = self.engine.settled
        chosen = [t.name for t in self.engine.header.tensors if t.name in best.types or t.name in settled]
        choices = tuple(self._settled(name) if name in settled else self._choice(best, name) for name in chosen)
        total = self.engine.header.data_offset + self.engine.fixed_bytes + self.engine.n_bytes(best.types)
        named = best.name if best.solution is None else self.target.preset
        return TypeRecipe(choices, named, self.target.spec, total, found.kld, measured_on, tuple(remarks))

    def aim(self) -> None:
        """Tell the engine what sort of file it is for.

        Raises:
            UsageError: not even the smallest types are small enough.
        """
        engine, preset = self.engine, self.target.preset
        types = engine.preset(QuantType(preset, "")).values() if self.target.kind == "like" else ()
        n_bytes = math.inf if self.target.kind == "kld" else self._budget() + engine.fixed_bytes
        engine.aim(8 * n_bytes / engine.base.n_params, types)
        smallest = engine.ends[0] + engine.fixed_bytes
        if n_bytes < smallest:
            bpw = math.ceil(800 * smallest / engine.base.n_params) / 100
            whole = smallest + engine.header.data_offset + _ADDED_BYTES
            message = (
                f"{self.target.spec} is less than the smallest types allowed take: {bpw:.2f} bits per weight."
            )
            hint = f"Ask for {bpw:.2f}bpw or {math.ceil(whole / 1000)}kB, or allow smaller types with --types-allowed."
            raise UsageError(message, hint=hint)

    def _settled(self, name: str) -> Choice:
        """The type of what no text runs through."""
        kind, tensor = self.engine.settled[name], self.engine.header.by_name[name]
        return Choice(name, kind, self.engine.rounder.n_bytes(tensor, kind), why="predicts further tokens (MTP)")

    def _choice(self, best: _Candidate, name: str) -> Choice:
        kind, engine = best.types[name], self.engine
        group = next(g for g in engine.groups if name in g.tensors)
        of_group = engine.first.of_group(group, {n: engine.coarse(n) for n in group.tensors})
        coarse = engine.coarse(name)
        what = "alone" if len(group.tensors) == 1 else f"with {group.label}"
        return Choice(
            name, kind, engine.rounder.n_bytes(engine.header.by_name[name], kind),
            float(f"{best.worth.of_tensor(name, kind):.3g}"), f"{what} at {coarse}: {of_group:.2g} nats",
        )  # fmt: skip

    def _budget(self) -> int:
        """Bytes of the tensors whose type may change."""
        engine, target = self.engine, self.target
        if target.kind == "like":
            return engine.n_bytes(engine.preset(QuantType(target.preset, "")))
        if target.kind == "bpw":
            return int(engine.base.n_params * target.number / 8) - engine.fixed_bytes
        return int(target.number) - engine.header.data_offset - _ADDED_BYTES - engine.fixed_bytes

    def _presets(self, budget: int) -> list[_Candidate]:
        """What llama-quantize would make of at most so many bytes: the target's own, or the largest that fit."""
        engine = self.engine
        if self.target.kind == "like":
            kinds = [QuantType(self.target.preset, "")]
        else:
            named = [t for t in quants.usable(self.known) if not t.description.startswith("alias for")]
            kinds = [t for t in named if not quants.is_float(t.name)]
            kinds = [t for t in kinds if engine.options.weigh or t.name not in quants.NEEDS_IMATRIX]
        sized = {kind.name: types for kind in kinds if (types := self._of_preset(kind))}
        fitting = {name: types for name, types in sized.items() if engine.n_bytes(types) <= budget}
        largest = sorted(fitting, key=lambda name: engine.n_bytes(fitting[name]), reverse=True)[:_PRESETS_COMPARED]
        for name in largest:
            engine.know({tensor: (kind,) for tensor, kind in fitting[name].items()})
        return [_Candidate(name, fitting[name], engine.first) for name in largest]

    def _of_preset(self, kind: QuantType) -> Types:
        """The types of a preset's tensors; none where the rows of some fit neither it nor anything in its place."""
        try:
            return self.engine.preset(kind)
        except InputError:
            if self.target.kind == "like":
                raise
            return {}

    def _for_bytes(self, budget: int) -> tuple[_Candidate, Found, list[str]]:
        engine = self.engine
        solved = [_Candidate("", s.types, worth, s) for s, worth in engine.candidates(budget)]
        if engine.sources.refining is not None:
            solved = solved[-1:]  # how it measures now says little of which one is better when it is refined
        if engine.options.speed:
            solved = [_quick(engine, solved[-1])]
        candidates = [*_distinct(solved), *self._presets(budget)]
        found = engine.compared([one.types for one in candidates])
        best = min(range(len(found)), key=lambda i: found[i].kld)
        if engine.sources.refining is not None:
            worth = solved[0].worth
            best = min(range(len(found)), key=lambda i: worth.expected(candidates[i].types))
        return candidates[best], found[best], self._remarks(candidates, found, best, budget)

    def _remarks(
        self, candidates: Sequence[_Candidate], found: Sequence[Found], best: int, budget: int
    ) -> list[str]:
        text, chosen = self.engine.sources.calibration.name, candidates[best]
        presets = [(c.name, f) for c, f in zip(candidates, found, strict=True) if c.solution is None]
        beside = ", ".join(f"{name} {f.kld:.4g}" for name, f in presets)
        if chosen.solution is None:
            said = f"The types of {chosen.name} were kept: on {text} no other choice of its bytes lost less."
        else:
            left, worst = budget - self.engine.n_bytes(chosen.types), max(chosen.solution.gap, 0)
            gap = f"{left:,} bytes are left; no choice is expected to be better by more than {worst:.2%}"
            when = " before it is refined" if self.engine.sources.refining is not None else ""
            lost = f"{found[best].kld:.4g} nats (± {found[best].stderr:.2g})"
            said = f"On other parts of {text} it loses {lost}{when}; {gap}."
        told = [chosen.remark] if chosen.remark else []
        return [said, *told, *([f"Presets of at most as many bytes there: {beside}."] if beside else [])]

    def _for_divergence(self) -> tuple[_Candidate, Found, list[str]]:
        """The smallest file that loses no more than the target, by what is expected, put right by what is measured."""
        engine, wanted = self.engine, self.target.number
        aim, best = wanted, None
        for _ in range(_CORRECTIONS):
            solution = engine.quick(self._smallest(aim), engine.first)
            (found,) = engine.compared([solution.types])
            if found.kld <= wanted and (best is None or solution.n_bytes < best[0].n_bytes):
                best = solution, found
            if wanted / _SLACK <= found.kld <= wanted:
                break
            aim *= wanted / found.kld / (1 if found.kld <= wanted else _SLACK)
        if best is None:
            raise UsageError(
                f"No choice was found that loses at most {wanted:g} nats: {size(solution.n_bytes)} lose {found.kld:.3g}.",
                hint=f"Ask for kld:{math.ceil(found.kld * 1e4) / 1e4:g}, or allow finer types with --types-allowed.",
            )
        solution, found = best
        remark = (
            f"It loses {found.kld:.4g} nats (± {found.stderr:.2g}) on parts of {engine.sources.calibration.name}."
        )
        return _Candidate("", solution.types, engine.first, solution), found, [remark]

    def _smallest(self, loss: float) -> Solution:
        """The smallest choice that is expected to lose so much at most; the finest there is where none does."""
        engine = self.engine
        low, high = engine.ends
        finest = engine.solve(engine.first, high)
        if finest.loss > loss:
            return finest
        best = finest
        for _ in range(_SEARCH_STEPS):
            if high - low < max(1, high // 4000):
                break
            middle = (low + high) // 2
            found = engine.solve(engine.first, middle)
            if found.loss <= loss:
                best, high = found, min(middle, found.n_bytes)
            else:
                low = middle
        return best


def _quick(engine: RecipeEngine, best: _Candidate) -> _Candidate:
    """The faster types in place of the best ones."""
    assert best.solution is not None
    found = engine.quick(best.solution, best.worth)
    gained = engine.seconds_of(best.types) / engine.seconds_of(found.types) - 1
    more = found.loss / best.solution.loss - 1
    said = f"Types that generate faster were chosen: {gained:.1%} more tokens per second for {more:.1%} more loss expected."
    return replace(best, types=found.types, solution=found, remark=said)


def _distinct(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Without those of equal types; the later one knows better what it loses."""
    by_types = {tuple(sorted(one.types.items())): one for one in candidates}
    return list(by_types.values())
