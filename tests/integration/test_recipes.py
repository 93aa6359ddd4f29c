"""Recipes of types by measurement, with the real tools on a tiny model."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli import cli
from ggufkit.core import failures, locks, process
from ggufkit.core.errors import CorpusError, InputError, UsageError
from ggufkit.core.records import Checkpoint, GgufFile, QuantType
from ggufkit.llama import argv, targets
from ggufkit.llama.argv import Quantization
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.llama.gguf_header import read_own_header
from ggufkit.llama.targets import size_target
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits.evaluate import evaluate
from ggufkit.measure.logits.passes import FilePass
from ggufkit.measure.logits.strategy import Transport
from ggufkit.models.sources import resolve
from ggufkit.pipeline import recipes
from ggufkit.pipeline.recipe_engine import RecipeEngine, RecipeSources
from ggufkit.pipeline.recipes import make_recipe
from ggufkit.pipeline.refined_probes import Refining
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.recipe_file import read_recipe
from ggufkit.steps import quantize
from ggufkit.steps.imatrix import ImatrixOptions, make_imatrix
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.texts import corpus
from ggufkit.texts.calibration import Sampling, draw, load_tokenizer, read_texts
from ggufkit.texts.corpus import Corpus
from tests import tiny

pytest.importorskip("scipy")
OPTIONS = RecipeOptions("quick", n_ctx=64)


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus.open_text(tiny.text_file(tmp_path / "calibration.txt"))


@pytest.fixture
def sources(base: Path, text: Corpus, session: Session) -> RecipeSources:
    matrix = session.workspace.root / "base.imatrix"
    make_imatrix(read_gguf(base), text, matrix, ImatrixOptions(64, 8), session)
    return RecipeSources(matrix, text)


def engine_of(base: Path, sources: RecipeSources, session: Session) -> RecipeEngine:
    return RecipeEngine(read_gguf(base), sources, OPTIONS, session)


def divergence_of(file: Path, base: Path, text: Corpus, session: Session) -> tuple[float, float]:
    files = [GgufFile(file, 0, "llama", "", 0, 0, {})]
    evaluation = Evaluation(text, EvalOptions(64, OPTIONS.measured.n_chunks), session)
    (found,) = [
        p for p in evaluate(read_gguf(base), files, evaluation, Transport(1 << 30)) if isinstance(p, FilePass)
    ]
    return found.result.kld


def test_a_probe_is_what_llama_quantize_makes(base: Path, sources: RecipeSources, session: Session) -> None:
    engine, made = engine_of(base, sources, session), session.workspace.root / "q4.gguf"
    wanted = Quantization(base, "Q4_K_M", sources.imatrix)
    failures.require_success(process.run(argv.quantize(session.tools, wanted, made, 2)), "quantizing")
    probe = engine.kit.probe(engine.preset(QuantType("Q4_K_M", "")))
    parts = sorted(probe.parent.iterdir())
    found = {tensor.name: tensor for part in parts for tensor in read_own_header(part).tensors}
    data = {
        t.name: part.read_bytes()[t.offset :][: t.n_bytes] for part in parts for t in read_own_header(part).tensors
    }
    for tensor in read_header(made).tensors:
        assert found[tensor.name].type == tensor.type
        assert data[tensor.name] == made.read_bytes()[tensor.offset :][: tensor.n_bytes]
    text = sources.calibration
    assert divergence_of(probe, base, text, session) == divergence_of(made, base, text, session)
    engine.kit.clear()
    assert not any(engine.directory.glob("**/*.gguf"))


def test_what_was_measured_is_not_measured_again(base: Path, sources: RecipeSources, session: Session) -> None:
    engine = engine_of(base, sources, session)
    assert engine.first.worth == engine_of(base, sources, session).first.worth
    again = engine_of(base, sources, session)
    assert again.first.worth
    assert again.probing.n_measured == 0
    assert engine.probing.n_measured == len(engine.groups) <= OPTIONS.measured.groups
    kept = sorted((engine.directory / "evaluations").iterdir())
    kept[0].write_text("{")
    third = engine_of(base, sources, session)
    assert third.first.worth == engine.first.worth
    assert third.probing.n_measured == 1


def test_what_will_be_refined_is_measured_as_a_refinement_leaves_it(
    base: Path, converted: Path, sources: RecipeSources, session: Session
) -> None:
    checkpoint = resolve(str(converted.parent / "tiny-llama"))
    assert isinstance(checkpoint, Checkpoint)
    samples = draw(read_texts(sources.calibration.path), load_tokenizer(checkpoint.path), Sampling(16, 64))
    plain = engine_of(base, sources, session)
    plain.aim(4.0)
    engine = engine_of(base, replace(sources, refining=Refining(checkpoint, samples)), session)
    engine.aim(4.0)
    assert engine.first.worth != plain.first.worth
    (refined,) = engine.directory.glob("refined/*-refined.gguf")
    header = read_header(refined)
    name = "blk.0.ffn_up.weight"
    probe = engine.probes.kit.probe({name: engine.coarse(name)})
    (own,) = [(p, t) for p in probe.parent.iterdir() for t in read_own_header(p).tensors if t.name == name]
    tensor = header.by_name[name]
    assert (
        own[0].read_bytes()[own[1].offset :][: tensor.n_bytes]
        == refined.read_bytes()[tensor.offset :][: tensor.n_bytes]
    )
    other = plain.kit.probe({name: engine.coarse(name)})
    assert (
        own[0].read_bytes()
        != next(p for p in other.parent.iterdir() if name in read_own_header(p).by_name).read_bytes()
    )
    assert not engine.sources.refining.changes("token_embd.weight", "output.weight")  # type: ignore[union-attr]
    again = engine_of(base, engine.sources, session)
    again.aim(4.0)
    assert again.probes.kit.directory == engine.probes.kit.directory
    fewer = draw(read_texts(sources.calibration.path), load_tokenizer(checkpoint.path), Sampling(8, 64))
    other_samples = engine_of(base, replace(sources, refining=Refining(checkpoint, fewer)), session)
    other_samples.aim(4.0)
    assert other_samples.probes.kit.directory != engine.probes.kit.directory
    engine.clear()
    assert not any(engine.directory.glob("**/part-*.gguf"))


def test_a_recipe_has_no_more_bytes_and_is_quantized_as_it_says(
    base: Path, sources: RecipeSources, session: Session
) -> None:
    file, (kind,) = read_gguf(base), targets.resolve(["like:q4_k_m"], quantize.known_types(session.tools))
    assert kind.target is not None
    output = session.workspace.root / "like.recipe.yaml"
    made = make_recipe(file, kind.target, sources, output, OPTIONS, session)
    assert not made.fresh
    assert make_recipe(file, kind.target, sources, output, OPTIONS, session).fresh
    recipe = read_recipe(output, read_header(base))
    sizes = {}
    for name, how in {
        "Q4_K_M": QuantizeOptions(sources.imatrix),
        kind.name: QuantizeOptions(sources.imatrix, recipe=recipe),
    }.items():
        path = session.workspace.root / f"{name}.gguf"
        quantize.quantize(file, path, QuantType(name, ""), how, session)
        sizes[name] = path.stat().st_size
        if how.recipe is not None:
            types = {tensor.name: tensor.type for tensor in read_header(path).tensors}
            assert {name: types[name] for name in recipe.types} == recipe.types
    assert sizes[kind.name] <= sizes["Q4_K_M"]
    assert recipe.target == "like:q4_k_m"
    assert recipe.expected_kld is not None
    assert "Presets of at most as many bytes there: Q4_K_M" in recipe.remarks[1]


def test_what_is_too_small_says_what_can_be_had(base: Path, sources: RecipeSources, session: Session) -> None:
    output = session.workspace.root / "x.yaml"
    with pytest.raises(UsageError, match="is less than the smallest types allowed take") as raised:
        make_recipe(read_gguf(base), size_target(100_000), sources, output, OPTIONS, session)
    assert raised.value.exit_code == 2
    found = re.search(r"Ask for (\S+bpw) or (\S+kB)", raised.value.hint or "")
    assert found is not None
    for nearest in found.groups():
        (kind,) = targets.resolve([nearest], quantize.known_types(session.tools))
        assert kind.target is not None
        made = make_recipe(read_gguf(base), kind.target, sources, output, OPTIONS, session)
        assert set(read_recipe(made.path, read_header(base)).types.values()) == {"Q2_K"}


def test_the_command_writes_recipe_and_curve(base: Path, sources: RecipeSources, session: Session) -> None:
    out = session.workspace.root / "cli"
    given = ["--imatrix", str(sources.imatrix), "--calibration", str(sources.calibration.path), "--out", str(out)]
    ran = CliRunner().invoke(
        cli,
        ["recipe", str(base), "--target", "4.5bpw", "--curve", "--effort", "quick", "--backend", "cpu", *given],
    )
    assert ran.exit_code == 0, ran.output
    name = base.stem.removesuffix("-F16")
    assert ran.stdout.split() == [
        str(out / f"{name}{end}") for end in ("-4.50bpw.recipe.yaml", ".curve.csv", ".curve.svg")
    ]
    with (out / f"{name}.curve.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [(int(r["size_bytes"]), float(r["expected_kld"])) for r in rows if r["kind"] == "predicted"]
    assert len(expected) == 24
    for (small, worse), (large, better) in pairwise(expected):
        assert small <= large
        assert worse >= better
    assert [r["name"] for r in rows if r["kind"] == "preset"] == ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"]
    assert sum(r["kind"] == "verified" and float(r["kld"]) > 0 for r in rows) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("([=q8_0", "is no regular expression"),
        ("nothing_such=q8_0", "no tensor that is quantized has such a name"),
        ("ffn_down=f16", "No type allowed is as large as --at-least asks for blk.0.ffn_down.weight: Q2_K"),
    ],
)
def test_a_floor_that_cannot_be_meant(given: str, said: str, base: Path, sources: RecipeSources) -> None:
    more = ["--imatrix", str(sources.imatrix), "--calibration", str(sources.calibration.path), "--backend", "cpu"]
    ran = CliRunner().invoke(cli, ["recipe", str(base), "--target", "6bpw", "--at-least", given, *more])
    assert isinstance(ran.exception, (InputError, UsageError))
    assert said in ran.exception.message


def test_a_text_that_is_too_short_is_named_as_what_it_is(base: Path, session: Session, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.", encoding="utf-8")
    short = RecipeSources(None, corpus.open_text(tmp_path / "short.txt"))
    with pytest.raises(CorpusError) as raised:
        _ = engine_of(base, short, session).first
    assert "--calibration" in (raised.value.hint or "")


def test_types_are_timed_once_and_faster_ones_lose_little_more(
    base: Path, sources: RecipeSources, session: Session
) -> None:
    allowed, target = (
        ("q4_k", "q5_k", "q6_k", "q8_0"),
        size_target(read_header(base).path.stat().st_size * 6 // 16),
    )
    options = replace(OPTIONS, speed=0.2, types_allowed=allowed)
    made = make_recipe(read_gguf(base), target, sources, session.workspace.root / "fast.yaml", options, session)
    recipe = read_recipe(made.path, read_header(base))
    is_preset = recipe.remarks[0].startswith("The types of")
    assert any("more tokens per second for" in remark for remark in recipe.remarks) != is_preset
    engine = RecipeEngine(read_gguf(base), sources, options, session)
    (kept,) = (engine.directory / "timed").glob("speeds-*.json")
    before = kept.stat().st_mtime_ns
    assert set(engine.seconds) == {"Q4_K", "Q5_K", "Q6_K", "Q8_0"}
    assert all(value > 0 for value in engine.seconds.values())
    assert kept.stat().st_mtime_ns == before
    assert not any((engine.directory / "timed").glob("**/*.gguf"))


def test_probes_are_of_one_target_at_a_time(
    base: Path, sources: RecipeSources, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aim(chosen: recipes._Chosen) -> None:
        assert locks.is_held(chosen.engine.directory / "lock")
        raise UsageError("That will do.")

    monkeypatch.setattr(recipes._Chosen, "aim", aim)
    with pytest.raises(UsageError, match="will do"):
        make_recipe(read_gguf(base), size_target(100_000), sources, session.workspace.root / "r", OPTIONS, session)


def test_an_error_counts_once(base: Path, sources: RecipeSources, session: Session) -> None:
    engine = engine_of(base, sources, session)
    tensor = engine.tensors[0]
    engine.directory.mkdir(parents=True)
    engine.know({tensor.name: ("Q4_K", "Q4_K")})
    assert engine.lost[tensor.name] == engine.rounder.lost(tensor, ["Q4_K"])
