"""Types of single tensors: what ggufkit makes has the bytes that llama-quantize makes of the same wishes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.core import process
from ggufkit.core.errors import InputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.records import QuantType, Target, Toolchain
from ggufkit.llama.argv import Overrides
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.pipeline import recipes
from ggufkit.pipeline.recipe_engine import RecipeEngine, RecipeSources
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.recipe_file import read_recipe, write_recipe
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.steps import quantize
from ggufkit.steps.quantize import QuantizeNotes, QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.texts import corpus
from tests import tiny
from tests.integration.run_cli import ggufkit

Q4_K_M = QuantType("Q4_K_M", "")
USAGE, INPUT = 2, 3


def raw(tools: Toolchain, base: Path, output: Path, kind: str, *options: str) -> str:
    """What llama-quantize itself makes, as SHA-256."""
    argv = [str(tools.binary("llama-quantize")), *options, str(base), str(output), kind, "2"]
    assert process.run(argv).returncode == 0
    return sha256_file(output)


def types_of(file: Path) -> dict[str, str]:
    return {tensor.name: tensor.type for tensor in read_header(file).tensors}


def test_what_is_typed_makes_the_bytes_of_llama_quantize(tools: Toolchain, base: Path, tmp_path: Path) -> None:
    options = [
        "--tensor-type", "attn_v=q8_0", "--tensor-type", r"blk\.0\.ffn_(up|down)=iq4_nl", "--output-tensor-type", "q5_0",
        "--token-embedding-type", "f16", "--override-kv", "general.name=str:other", "--prune-layers", "0",
    ]  # fmt: skip
    done = ggufkit("quantize", base, "--types", "q4_k_m", *options)
    assert done.code == 0, done.err
    made = Path(done.out.strip())
    assert sha256_file(made) == raw(tools, base, tmp_path / "raw.gguf", "Q4_K_M", *options)
    types = types_of(made)
    assert types["token_embd.weight"] == "F16"
    assert types["blk.0.attn_v.weight"] == "Q8_0"
    assert "blk.1.attn_v.weight" not in types, "a layer was left out"
    assert "nothing changed" in ggufkit("quantize", base, "--types", "q4_k_m", *options, "--explain").err
    assert "overrides" in ggufkit("quantize", base, "--types", "q4_k_m", "--pure", "--explain").err
    assert sha256_file(made) == raw(tools, base, tmp_path / "raw.gguf", "Q4_K_M", "--pure")


def test_a_recipe_makes_the_bytes_of_llama_quantize(tools: Toolchain, base: Path, tmp_path: Path) -> None:
    kinds = ["Q6_K", "Q3_K", "Q8_0", "IQ4_XS", "F16", "Q5_1"]
    named = [t.name for t in read_header(base).tensors if len(t.shape) > 1]
    choices = [Choice(name, kinds[i % len(kinds)]) for i, name in enumerate(named)]
    write_recipe(TypeRecipe(tuple(choices), "Q3_K_M"), file := tmp_path / "mine.recipe.yaml")
    done = ggufkit("quantize", base, "--recipe", file, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    made = Path(done.out.strip())
    options = [word for c in choices for word in ("--tensor-type", f"^{c.tensor}$={c.type}")]
    assert sha256_file(made) == raw(tools, base, tmp_path / "raw.gguf", "Q3_K_M", *options)
    assert {name: types_of(made)[name] for name in named} == {c.tensor: c.type for c in choices}
    again = ggufkit("quantize", base, "--recipe", made, "--out", tmp_path / "again")
    assert sha256_file(Path(again.out.strip())) == sha256_file(made), "copied from the file, the same file"


def test_no_type_of_a_recipe_is_a_fallback(tools: Toolchain, base: Path, session: Session, tmp_path: Path) -> None:
    choices = [Choice(t.name, "Q5_0") for t in read_header(base).tensors if len(t.shape) > 1]
    how, made = QuantizeOptions(recipe=TypeRecipe(tuple(choices))), session.workspace.root / "made.gguf"
    result = quantize.quantize(read_gguf(base), made, QuantType("mine", ""), how, session)
    assert QuantizeNotes.from_manifest(result.manifest).n_fallback == 0
    assert result.sha256 == raw(tools, base, tmp_path / "raw.gguf", "Q5_0", "--pure")


def narrow(path: Path) -> Path:
    """What llama-quantize takes for a Llama model, of rows whose length no K-quant has."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(96)
    writer.add_feed_forward_length(272)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (32, 96), "output": (32, 96), "output_norm": (96,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{part}": (96, 96) for part in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {
            f"blk.{layer}.ffn_down": (96, 272),
            f"blk.{layer}.ffn_up": (272, 96),
            f"blk.{layer}.attn_norm": (96,),
        }
    for name, shape in shapes.items():
        kind = np.float32 if "norm" in name else np.float16
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_copied_recipe_has_the_fallbacks_of_the_file(tools: Toolchain, tmp_path: Path) -> None:
    base = narrow(tmp_path / "narrow.gguf")
    raw(tools, base, copied := tmp_path / "other.gguf", "Q4_K_M")
    assert {"Q5_0", "Q8_0", "F16"} <= set(types_of(copied).values()), (
        "rows of 96, and of 272, which nothing divides"
    )
    recipe = read_recipe(copied, read_header(base))
    planned = quantize.plan(tools, base, Q4_K_M, QuantizeOptions(recipe=recipe))
    assert {t.name: t.after for t in planned.tensors} == types_of(copied)
    assert planned.n_fallback == 0
    assert quantize.plan(tools, base, Q4_K_M).n_fallback > 0


def test_a_type_that_has_no_fallback_is_no_candidate(session: Session, tmp_path: Path) -> None:
    """A recipe is compared with presets: with those that there are for the model's widths."""
    base = read_gguf(narrow(tmp_path / "narrow.gguf"))
    odd = QuantType("Q1_0", "")
    with pytest.raises(InputError, match=r"narrow.gguf has tensors whose rows no block of Q1_0 divides"):
        quantize.plan(session.tools, base.path, odd)
    engine = RecipeEngine(
        base, RecipeSources(None, corpus.open_text(tiny.text_file(tmp_path / "t"))), RecipeOptions(), session
    )
    chosen = recipes._Chosen(engine, Target("bpw", "5.00bpw", "5bpw", 5))
    assert chosen._of_preset(odd) == {}
    assert chosen._of_preset(Q4_K_M)["blk.0.attn_v.weight"] == "Q5_0"
    with pytest.raises(InputError):
        recipes._Chosen(engine, Target("like", "like-Q1_0", "like:q1_0", preset="Q1_0"))._of_preset(odd)


@pytest.mark.parametrize(
    ("code", "said", "options"),
    [
        (INPUT, "Did you mean", ["--types", "q4_k_m", "--tensor-type", "attn_v=q8_p"]),
        (INPUT, "no regular expression", ["--types", "q4_k_m", "--tensor-type", "attn_(v=q8_0"]),
        (INPUT, "matches no tensor", ["--types", "q4_k_m", "--tensor-type", "attn_w=q8_0"]),
        (INPUT, "llama-quantize does not take", ["--types", "q4_k_m", "--tensor-type", "attn{v=q8_0"]),
        (INPUT, "no such layer", ["--types", "q4_k_m", "--prune-layers", "7"]),
        (USAGE, "for 4.5bpw are chosen otherwise", ["--types", "q4_0,4.5bpw", "--prune-layers", "1"]),
        (INPUT, "without an importance matrix", ["--types", "q4_k_m", "--tensor-type", "attn_v=iq2_xxs"]),
        (INPUT, "without an importance matrix", ["--types", "q4_k_m", "--token-embedding-type", "iq2_xs"]),
        (INPUT, "does not heed --tensor-type", ["--types", "f16", "--tensor-type", "attn_v=q8_0"]),
        (
            USAGE,
            "exclude each other",
            ["--types", "q4_k_m", "--leave-output-tensor", "--output-tensor-type", "q8_0"],
        ),
        (USAGE, "Nothing to make", []),
    ],
)
def test_what_cannot_be_is_refused(base: Path, code: int, said: str, options: list[str]) -> None:
    done = ggufkit("quantize", base, *options)
    assert (done.code, done.out) == (code, "")
    assert said in " ".join(done.err.split())
    assert [file.name for file in base.parent.glob("*.gguf")] == [base.name]


def test_overrides_that_the_shape_changes_are_counted(tools: Toolchain, tmp_path: Path) -> None:
    base = narrow(tmp_path / "narrow.gguf")
    plan = quantize.plan(
        tools, base, QuantType("Q8_0", ""), QuantizeOptions(overrides=Overrides((("attn_v", "Q4_K"),)))
    )
    assert ("blk.0.attn_v.weight", "Q4_K", "Q5_0") in plan.fallbacks


def test_a_build_plans_makes_measures_and_reports_them(base: Path, tools: Toolchain, tmp_path: Path) -> None:
    text, out = tiny.text_file(tmp_path / "text.txt"), tmp_path / "out"
    told = ["--tensor-type", "attn_v=q8_0", "--leave-output-tensor", "--prune-layers", "1"]
    asked = ["build", base, "--types", "q4_k_m,f16", *told, "--corpus", text, "--ctx", "64", "--chunks", "4", "--no-bench",
             "--out", out]  # fmt: skip
    planned = json.loads(ggufkit(*asked, "--dry-run", "--json").out)
    assert any("--leave-output-tensor" in step["note"] for step in planned["steps"])
    (file,) = planned["files"]
    done = ggufkit(*asked, "--json")
    assert done.code == 0, done.err
    made = out / "tiny-llama-Q4_K_M.gguf"
    assert sha256_file(made) == raw(tools, base, tmp_path / "raw.gguf", "Q4_K_M", *told)
    assert 0 <= file["size_bytes"] - made.stat().st_size <= 32
    (row,) = [row for row in json.loads(done.out) if row["type"] == "Q4_K_M"]
    assert row["kld_mean"] > 0, "a pruned model has the vocabulary of the whole one"
    assert abs(file["bpw"] - row["bpw"]) < 0.01
    assert " ".join(["--types q4_k_m", *told]) in (out / "report.md").read_text()
    assert "Nothing had to be done again" in ggufkit(*asked).out


@pytest.mark.parametrize(
    ("code", "said", "options"),
    [
        (USAGE, "float types are conversions", ["--types", "bf16", "--pure"]),
        (USAGE, "only --override-kv goes with it", ["--types", "4.5bpw", "--pure", "--calibration", "x"]),
        (USAGE, "cannot go with --variants gptq", ["--prune-layers", "0", "--variants", "gptq"]),
        (INPUT, "Did you mean Q4_K", ["--output-tensor-type", "q4_k_m"]),
        (INPUT, "matches no tensor", ["--types", "q4_0", "--tensor-type", "attn_w=q8_0"]),
    ],
)
def test_a_build_refuses_what_cannot_be(
    base: Path, tmp_path: Path, code: int, said: str, options: list[str]
) -> None:
    done = ggufkit("build", base, *options, "--no-eval", "--no-bench", "--out", tmp_path / "out")
    assert (done.code, done.out) == (code, "")
    assert said in " ".join(done.err.split())
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_the_perplexity_of_several_files_is_a_table(base: Path, tmp_path: Path) -> None:
    """Whose ratios are those of its perplexities; --json has all figures."""
    made = ggufkit("quantize", base, "--types", "q8_0,q4_0").out.split()
    text = tiny.text_file(tmp_path / "text.txt")
    asked = (
        "perplexity",
        *made,
        "--base",
        base,
        "--corpus",
        text,
        "--ctx",
        64,
        "--chunks",
        8,
        "--out",
        tmp_path / "out",
    )
    head, *lines = (line.split() for line in ggufkit(*asked).out.splitlines())
    rows = [line for line in lines if not line[0].startswith("±")]
    assert len(lines) == 2 * len(rows), "errors stand below"
    assert head == ["file", "size", "PPL", "ln(PPL/base)", "KLD", "same", "top"]
    assert [row[0] for row in rows] == ["tiny-llama-F16", "tiny-llama-Q8_0", "tiny-llama-Q4_0"]
    found = json.loads(ggufkit(*asked, "--json").out)
    values = {file: {m["metric"]: m["value"] for m in ms} for file, ms in found.items()}
    own = values[base.name]["ppl"]
    for file in ("tiny-llama-Q8_0.gguf", "tiny-llama-Q4_0.gguf"):
        assert values[file]["ppl_base"] == own
        assert values[file]["ln_ppl_ratio"] == pytest.approx(math.log(values[file]["ppl"] / own))
        assert "kld_p99" in values[file]
    assert f"{values['tiny-llama-Q4_0.gguf']['ln_ppl_ratio']:.5f}" in rows[2]
    alone = ggufkit("perplexity", made[0], *asked[5:])
    assert alone.out.startswith("tiny-llama-Q8_0.gguf\n  ppl ")
