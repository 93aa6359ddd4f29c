"""Types of files that are not llama-quantize's own, through `build`: the same bytes as the raw tool's, and their recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ggufkit.core import process
from ggufkit.core.manifest import read_manifest
from ggufkit.core.records import GgufFile, QuantType, Target, Toolchain
from ggufkit.llama import targets
from ggufkit.llama.gguf import read_header
from ggufkit.pipeline import build, chosen, foreseen
from ggufkit.pipeline.recipes import RecipeSources
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.recipe_file import write_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.report.data import footprint
from ggufkit.request import BuildRequest
from ggufkit.steps import quantize
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result
from tests import tiny
from tests.integration.run_cli import ggufkit as cli


def test_a_preset_with_other_tensors_and_a_copy_of_its_types(base: Path, tmp_path: Path, tools: Toolchain) -> None:
    text, out = tiny.text_file(tmp_path / "text.txt"), tmp_path / "out"
    mixed = "tiny-llama-Q4_K_M+attn_v=Q8_0.gguf"
    how = ("--corpus", text, "--ctx", "64", "--chunks", "2", "--no-bench", "--out", out)
    made = cli("build", base, "--types", "q4_k+attn_v=Q8_0", *how)
    assert made.code == 0, made.err
    raw = tmp_path / "raw.gguf"
    quantize = [
        str(tools.binary("llama-quantize")),
        "--tensor-type",
        "attn_v=q8_0",
        str(base),
        str(raw),
        "Q4_K_M",
        "2",
    ]
    assert process.run(quantize).returncode == 0
    assert (out / mixed).read_bytes() == raw.read_bytes()

    types = ("build", base, "--types", f"q4_k_m+attn_v=q8_0,recipe:{out / mixed}", *how)
    copied = cli(*types, "--json")
    assert copied.code == 0, copied.err
    label = "recipe-tiny-llama-Q4_K_M+attn_v=Q8_0"
    by_type = {row["type"]: row for row in json.loads(copied.out)}
    assert set(by_type) == {"F16", "Q4_K_M+attn_v=Q8_0", label}
    copy = out / by_type[label]["file"]
    assert copy.name == f"tiny-llama-{label}.gguf"
    assert by_type[label]["n_fallback"] == 0
    assert [t.type for t in read_header(copy).tensors] == [t.type for t in read_header(out / mixed).tensors]
    written = yaml.safe_load((out / f"{mixed}.recipe.yaml").read_text())
    assert written["target"] == "q4_k_m+attn_v=q8_0"
    found = read_manifest(copy)
    assert found is not None
    assert found.notes["target"] == f"recipe:{mixed}"
    assert (out / f"Modelfile.{label}").is_file()
    assert (
        "--types q4_k_m+attn_v=q8_0,recipe:tiny-llama-Q4_K_M+attn_v=Q8_0.gguf " in (out / "report.md").read_text()
    )
    assert "Nothing had to be done again" in cli(*types).out


def test_what_measuring_will_choose_is_planned_as_a_limit(base: Path, tmp_path: Path) -> None:
    how = (
        "--calibration",
        tiny.text_file(tmp_path / "text.txt"),
        "--no-eval",
        "--no-bench",
        "--out",
        tmp_path / "out",
    )
    done = cli("build", base, "--types", "4.5bpw,like:q4_k_m,1MiB,q4_k_m", *how, "--dry-run", "--json")
    assert done.code == 0, done.err
    files = {file["type"]: file for file in json.loads(done.out)["files"]}
    assert [files[t]["at_most"] for t in ("4.50bpw", "like-Q4_K_M", "1MiB", "Q4_K_M")] == [True, True, True, False]
    assert files["like-Q4_K_M"]["size_bytes"] == files["Q4_K_M"]["size_bytes"]
    assert files["1MiB"]["size_bytes"] == 1 << 20
    assert files["4.50bpw"]["bpw"] <= 4.5 == files["4.50bpw"]["nominal_bpw"]
    assert not (tmp_path / "out").exists()


def test_measured_types_are_asked_for_with_what_they_need(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in for the measurement gives each matrix the type that tells how it was asked."""
    asked: list[tuple[str, str, bool]] = []

    def stand_in(
        base: GgufFile, target: Target, sources: RecipeSources, output: Path, how: RecipeOptions, session: Session
    ) -> Result:
        assert sources.imatrix is not None
        asked.append((target.spec, sources.calibration.name, how.weigh))
        kind = "Q5_0" if how.weigh else "Q4_0"
        choices = [Choice(t.name, kind) for t in read_header(base.path).tensors if len(t.shape) > 1]

        def make(partial: Path) -> Made:
            write_recipe(TypeRecipe(tuple(choices), kind, target.spec), partial)
            return Made()

        return session.ensure(Recipe("recipe", 1, {"base": str(base.sha256)}, {"weigh": how.weigh}), output, make)

    monkeypatch.setattr(chosen, "make_recipe", stand_in)
    header, text = read_header(base), tiny.text_file(tmp_path / "text.txt")
    beside = footprint(header).kv(64) + footprint(header).compute(64)
    request = BuildRequest(
        base, tmp_path / "out", ("like:q4_k_m",), ("plain", "imatrix"), fits=beside + (1 << 20), fits_ctx=64,
        calibration=text, calibration_samples=4, eval=False, bench=False, backend="cpu", threads=1,
    )  # fmt: skip
    made = build.build(request)
    assert sorted(asked) == sorted((s, "text.txt", w) for s in ("1MiB", "like:q4_k_m") for w in (False, True))
    files = {row.file: row for row in made.rows}
    assert set(files) == {
        "tiny-llama-F16.gguf", "tiny-llama-like-Q4_K_M.gguf", "tiny-llama-imatrix-like-Q4_K_M.gguf",
        "tiny-llama-1MiB.gguf", "tiny-llama-imatrix-1MiB.gguf",
    }  # fmt: skip
    for name, row in files.items():
        if row.type != "F16":
            types = {t.type for t in read_header(made.out / name).tensors if len(t.shape) > 1}
            assert types == {"Q5_0" if row.variant == "imatrix" else "Q4_0"}
            assert (made.out / f"{name}.recipe.yaml").is_file()
            assert row.n_fallback == 0
    assert build.build(request).made == 0


def test_quantize_measures_types_where_it_has_a_text(base: Path, tmp_path: Path) -> None:
    missing = cli("quantize", base, "--types", "q4_0,like:q4_k_m")
    assert missing.code == 2
    assert "--calibration" in missing.err
    assert cli("quantize", base, "--types", "q4_0", "--calibration", tmp_path / "text.txt").code == 2
    assert not (base.parent / "tiny-llama-Q4_0.gguf").exists()


def test_types_are_measured_within_the_bytes_of_a_preset(base: Path, tmp_path: Path, tools: Toolchain) -> None:
    text, raw, copy = tiny.text_file(tmp_path / "text.txt"), tmp_path / "raw.gguf", tmp_path / "copy"
    how = ("--effort", "quick", "--types-allowed", "q3_k,q4_k,q6_k")
    made = cli("quantize", base, "--types", "like:q4_k_m", "--calibration", text, *how)
    assert made.code == 0, made.err
    best = base.parent / "tiny-llama-like-Q4_K_M.gguf"
    assert made.out.strip() == str(best)
    assert process.run([str(tools.binary("llama-quantize")), str(base), str(raw), "Q4_K_M", "2"]).returncode == 0
    assert best.stat().st_size <= raw.stat().st_size
    assert {t.type for t in read_header(best).tensors} <= {"Q3_K", "Q4_K", "Q6_K", "F32"}
    again = cli("quantize", base, "--recipe", base.parent / f"{best.name}.recipe.yaml", "--out", copy)
    assert again.code == 0, again.err
    assert Path(again.out.strip()).read_bytes() == best.read_bytes()


def test_a_preset_near_a_target_is_known_before_it_is_measured(base: Path, tools: Toolchain) -> None:
    known, header = quantize.known_types(tools), read_header(base)

    def near(typed: str) -> QuantType:
        (kind,) = targets.resolve([typed], known)
        return foreseen.preset_near(tools, base, kind, known)

    assert [near(t).name for t in ("like:q5_k_m", "kld:0.02", "8.5bpw")] == ["Q5_K_M", "Q4_K_M", "Q6_K"]
    sizes = {
        t.name: foreseen.planned_bytes(header, quantize.plan(tools, base, t)) for t in known if t.name != "COPY"
    }
    assert sizes[near("800kB").name] <= 800_000 < sizes["Q4_K_M"]
    assert foreseen.bytes_at_most(tools, base, targets.resolve(["kld:0.02"], known)[0], known) == sizes["Q8_0"]
