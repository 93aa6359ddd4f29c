"""Is a recipe of types worth its measurements? Presets, recipes of their bytes and controls, measured in one run.

    python -m benchmarks.recipes MODEL --out DIR --corpus wiki.test.raw --calibration calibration-en.txt

For each preset, all with one importance matrix: the preset; the recipe `like:` it; allocations of the same bytes drawn by
chance among the types that recipes may use, filled as a recipe is; the same with the recipe's own types for what belongs
to no layer, since a coarse embedding spoils all the rest; and the straight line between the presets next to it: the
logarithm of KL divergence, linear in bytes, which is stricter than a line of the divergence itself. Matrix and
sensitivities are of the calibration text alone. All files are compared with the same base logits. What is in DIR and
fresh is not made again: the same command goes on where it was interrupted, and seconds are of the run that made a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.controls import is_met, smallest_step, spread
from benchmarks.recipe_files import Bench, begin
from benchmarks.recipe_table import PRESET, RECIPE, Figures, Row, rows_of, table, verdict
from benchmarks.record import commit, write
from ggufkit.cli.parameter_types import NAMES
from ggufkit.cli.terminal import reporting
from ggufkit.core import machine
from ggufkit.core.records import GgufFile, Target
from ggufkit.llama import quants
from ggufkit.llama.targets import size_target
from ggufkit.measure import divergence, measurements
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits.strategy import Transport
from ggufkit.recipes.effort import EFFORTS
from ggufkit.recipes.options import RecipeOptions
from ggufkit.refine.options import RefineOptions
from ggufkit.request import EvaluationOptions, RunOptions
from ggufkit.texts import corpus
from ggufkit.texts.corpus import Corpus

_ASKED = "q5_k_m,q4_k_m,iq4_xs,q3_k_m,iq3_s,q2_k"
_NEIGHBOURS = "iq2_m,q2_k,iq3_xxs,q3_k_s,iq3_s,q3_k_m,iq4_xs,q4_k_s,q4_k_m,q5_k_s,q5_k_m,q6_k"
_ENDS = ("Q2_K", "Q6_K")


@dataclass(frozen=True)
class Met:
    """A target in bytes, the size of the file that was made for it, and whether it keeps to it and uses it."""

    target_bytes: int
    size_bytes: int
    met: bool


@dataclass(frozen=True)
class Wanted:
    """What is made and measured, as the options of `main` say."""

    presets: tuple[str, ...]
    neighbours: tuple[str, ...]
    refine: tuple[str, ...]
    include_output: bool
    tune_norms: bool
    chunks: int
    matrix_chunks: int
    random: int
    sizes: int
    effort: str
    types_allowed: tuple[str, ...]

    @property
    def refinement(self) -> RefineOptions:
        """How their files are refined."""
        return RefineOptions(include_output=self.include_output, tune_norms=self.tune_norms)

    @property
    def options(self) -> RecipeOptions:
        """How recipes are made."""
        return RecipeOptions(self.effort, tuple(quants.tensor_type(name) for name in self.types_allowed))


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--corpus", "evaluated", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--calibration", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--presets", type=NAMES, default=_ASKED, show_default=True)
@click.option(
    "--neighbours", type=NAMES, default=_NEIGHBOURS, show_default=True, help="What the line goes through."
)
@click.option("--refine", type=NAMES, default=(), help="Presets whose recipes are refined, too.")
@click.option("--include-output", is_flag=True, help="Refine the output matrix, too.")
@click.option("--tune-norms", is_flag=True, help="Tune norms after refining.")
@click.option("--chunks", default=60, show_default=True, help="Of the corpus, 512 tokens each.")
@click.option("--matrix-chunks", default=128, show_default=True, help="Of the calibration text.")
@click.option(
    "--random", default=3, show_default=True, help="Allocations by chance, of each sort, for each preset."
)
@click.option(
    "--sizes", default=0, show_default=True, help="Targets in bytes from Q2_K's to Q6_K's, measured little."
)
@click.option("--effort", type=click.Choice(list(EFFORTS)), default=RecipeOptions.effort, show_default=True)
@click.option("--types-allowed", type=NAMES, default=(), show_default="what is fast on a CPU")
@click.option("--save/--no-save", "keep", default=True, show_default=True)
def main(model: Path, out: Path, evaluated: Path, calibration: Path, keep: bool, **given: Any) -> None:
    """Make and measure all of it for one model."""
    wanted = Wanted(**given)
    with reporting() as reporter:
        session = RunOptions(backend="cpu").session(out.resolve(), reporter)
        with session.workspace.locked():
            text, own = (corpus.resolve(str(file.resolve()), reporter) for file in (calibration, evaluated))
            bench = begin(model.resolve(), text, wanted.matrix_chunks, wanted.options, session)
            bench = replace(bench, refinement=wanted.refinement)
            rows, sizes = compare(bench, own, wanted)
    click.echo(table(rows))
    click.echo(verdict(rows))
    for one in sizes:
        said = "met" if one.met else "MISSED"
        click.echo(f"{one.target_bytes:>12,} bytes wanted {one.size_bytes:>12,} made  {said}")
    if keep:
        click.echo(write(f"recipes-{bench.name}", _record(bench, wanted, rows, sizes)))


def compare(bench: Bench, text: Corpus, wanted: Wanted) -> tuple[list[Row], list[Met]]:
    """Make all files, measure them against one base pass, and put the controls beside them."""
    made = [bench.preset(kind) for kind in bench.kinds([*wanted.presets, *wanted.neighbours])]
    refined = bench.kinds(wanted.refine)
    for kind in bench.kinds(wanted.presets):
        recipe = bench.recipe(_like(bench, kind.name))
        seeds = range(1, wanted.random + 1)
        made += [recipe, *(bench.random(kind, seed) for seed in seeds)]
        made += [bench.random_layers(kind, seed, recipe) for seed in seeds]
        made += [bench.refined(_like(bench, kind.name), bench.samples())] if kind in refined else []
    found = _measure(bench, text, [one.file for one in made], wanted.chunks)
    return rows_of(made, found), _targets(bench, wanted.sizes)


def _like(bench: Bench, preset: str) -> Target:
    (kind,) = bench.kinds([f"like:{preset}"])
    assert kind.target is not None
    return kind.target


def _measure(bench: Bench, text: Corpus, files: Sequence[GgufFile], n_chunks: int) -> dict[Path, Figures]:
    evaluation = Evaluation(text, EvalOptions(n_chunks=n_chunks), bench.session)
    transport = Transport(EvaluationOptions.scratch_limit)
    _, *found = divergence.measure_all(bench.base, files, evaluation, transport)
    return {
        file.path: {m.metric: m for m in measurements.load(one.path)}
        for file, one in zip(files, found, strict=True)
    }


def _targets(bench: Bench, count: int) -> list[Met]:
    """Files made for targets in bytes from Q2_K's to Q6_K's, with little measured: it is about bytes."""
    if count == 0:
        return []
    least, most = (bench.preset(kind).file.size_bytes for kind in bench.kinds(_ENDS))
    step, quick, met = smallest_step(bench.sizes), bench.with_effort("quick"), list[Met]()
    for n_bytes in spread(least, most, count):
        made = quick.recipe(size_target(n_bytes))
        met.append(Met(n_bytes, made.file.size_bytes, is_met(made.file.size_bytes, n_bytes, step)))
    return met


def _record(bench: Bench, wanted: Wanted, rows: Sequence[Row], sizes: Sequence[Met]) -> dict[str, object]:
    presets, recipes = (sum(r.seconds or 0.0 for r in rows if r.what == what) for what in (PRESET, RECIPE))
    tools = bench.session.tools
    return {
        "what": f"recipes-{bench.name}",
        "machine": machine.describe(),
        "backend": tools.backend,
        "device": machine.cpu_name(),
        "commit": commit(),
        "llama_cpp_commit": tools.commit,
        "raw_s": round(presets, 2),
        "ggufkit_s": round(recipes, 2),
        "ratio": round(recipes / presets, 4) if presets else None,
        "rows": [asdict(row) for row in rows],
        "wanted": asdict(wanted),
        "sizes": [asdict(one) for one in sizes],
    }


if __name__ == "__main__":
    main()
