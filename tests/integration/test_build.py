"""`ggufkit build` against the raw tools: the same bytes, the same digits."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ggufkit
from ggufkit.core import machine, process
from ggufkit.core.manifest import read_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import argv, logs, memory
from ggufkit.llama.argv import Conversion
from ggufkit.llama.gguf import read_header
from ggufkit.pipeline import plan
from ggufkit.request import BuildRequest, EvaluationOptions
from ggufkit.texts.corpus import WIKITEXT2_TEST_SHA256
from tests import tiny
from tests.integration.run_cli import fails
from tests.integration.run_cli import ggufkit as cli
from tests.shared import LLAMA, QWEN2, WIKI_TEST, needs_shared

TYPES = "q4_k_m,q5_k_m,q8_0,f16"
CHUNKS = "2"


@pytest.fixture(scope="module", params=[LLAMA, QWEN2], ids=lambda p: p.name)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tools: Toolchain
) -> tuple[Path, Path]:
    """A model and the directory of its build."""
    out = tmp_path_factory.mktemp("built")
    done = cli("build", request.param, "--types", TYPES, "--corpus", WIKI_TEST, "--chunks", CHUNKS, "--no-bench",
               "--no-kld", "--threads", "2", "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    return request.param, out


def raw(*command: object) -> process.ToolOutput:
    """Run a raw tool to a good end."""
    output = process.run([str(part) for part in command])
    assert output.returncode == 0, output.text[-2000:]
    return output


@needs_shared
def test_every_file_is_what_the_raw_tools_make(built: tuple[Path, Path], tmp_path: Path, tools: Toolchain) -> None:
    model, out = built
    base = tmp_path / "base.gguf"
    launcher = argv.convert(Path(str(tools.source)), model, base, Conversion("f16", model.name))
    if model == LLAMA:
        converter = [sys.executable, tools.source / "convert_hf_to_gguf.py", model]  # type: ignore[operator]
        raw(*converter, "--outfile", base, "--outtype", "f16", "--model-name", model.name)
    else:
        raw(*launcher)  # the bare converter refuses this tokenizer
    assert (out / f"{model.name}-F16.gguf").read_bytes() == base.read_bytes()
    for kind in ("Q4_K_M", "Q5_K_M", "Q8_0"):
        made = tmp_path / f"{kind}.gguf"
        raw(tools.binary("llama-quantize"), base, made, kind, 2)
        assert (out / f"{model.name}-{kind}.gguf").read_bytes() == made.read_bytes()


@needs_shared
def test_perplexity_and_bpw_in_every_printed_digit(built: tuple[Path, Path], tools: Toolchain) -> None:
    model, out = built
    table = ggufkit.load_results(out).set_index("type")
    for kind in ("F16", "Q8_0", "Q4_K_M"):
        file = out / f"{model.name}-{kind}.gguf"
        shown = raw(tools.binary("llama-perplexity"), "-m", file, "-f", WIKI_TEST, "-c", 512, "--chunks", CHUNKS,
                    "-t", 2, "-lv", 4)  # fmt: skip
        estimate = logs.parse_perplexity(shown)
        assert f"{table.loc[kind, 'ppl']:.4f}" == f"{estimate.ppl:.4f}"
        assert f"{table.loc[kind, 'ppl_stderr']:.5f}" == f"{estimate.stderr:.5f}"
        (bpw,) = set(re.findall(r"print_info: file size .*\(([\d.]+) BPW\)", logs.plain(shown.text)))
        assert table.loc[kind, "bpw"] == pytest.approx(float(bpw), abs=0.01)


@needs_shared
def test_the_table_keeps_the_contract(built: tuple[Path, Path]) -> None:
    model, out = built
    table = ggufkit.load_results(out)
    assert set(table["file"]) == {f"{model.name}-{k}.gguf" for k in ("F16", "Q8_0", "Q5_K_M", "Q4_K_M")}
    assert table["pp_tps"].isna().all(), "what was not measured is missing, not 0"
    assert (table["n_chunks"] == int(CHUNKS)).all()
    assert (table["corpus_sha256"] == WIKITEXT2_TEST_SHA256).all()
    assert table["backend"].unique().tolist() == ["cpu"]
    for row in table.itertuples():
        manifest = read_manifest(out / str(row.file))
        assert manifest is not None
        assert manifest.output["sha256"] == row.sha256
        assert manifest.output["size_bytes"] == row.size_bytes == (out / str(row.file)).stat().st_size
    assert json.loads((out / "results.json").read_text())[0]["pp_tps"] is None
    expected = 36 if model == QWEN2 else 0
    assert table.set_index("type")["n_fallback"]["Q4_K_M"] == expected


@needs_shared
def test_nothing_to_do_starts_no_tool(built: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = built
    before = {f.name: f.stat().st_mtime_ns for f in out.glob("*.gguf")}

    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"a tool was started: {args}")

    monkeypatch.setattr(process, "run", refuse)
    request = ggufkit.BuildRequest(
        str(model), out, tuple(TYPES.split(",")), corpus=str(WIKI_TEST), chunks=int(CHUNKS), bench=False, kld=False,
        threads=2, backend="cpu",
    )  # fmt: skip
    result = ggufkit.build(request)
    assert result.made == 0
    assert {f.name: f.stat().st_mtime_ns for f in out.glob("*.gguf")} == before


def test_every_type_that_the_tool_lists(tmp_path: Path, tools: Toolchain) -> None:
    """With an importance matrix for those that need one; what the tool cannot do for a shape, it says."""
    # As little as types in blocks of 256 allow: the smallest take 10 s for a million weights.
    assert cli("convert", tiny.write_llama(tmp_path / "small", inner=256, layers=1), "--out", tmp_path).code == 0
    base = tmp_path / "small-F16.gguf"
    corpus = tiny.text_file(tmp_path / "text.txt", 2000)
    listed = logs.parse_types(process.run(argv.list_types(tools)).text)
    names = [t.name for t in listed if t.name != "COPY" and "alias" not in t.description]
    out = tmp_path / "out"
    plan = (
        "build",
        base,
        "--types",
        ",".join(names),
        "--no-eval",
        "--no-bench",
        "--dry-run",
        "--json",
        "--out",
        out,
    )
    assert "needs an importance matrix" in fails(3, *plan)
    both = cli(*plan, "--variants", "imatrix,plain", "--calibration", corpus)
    assert both.code == 0, both.err
    planned = [(f["variant"], f["type"]) for f in json.loads(both.out)["files"]]
    assert ("imatrix", "IQ2_XXS") in planned
    assert ("plain", "IQ2_XXS") not in planned
    assert ("plain", "Q2_K") in planned
    assert re.search(r"Not made as plain,.*IQ2_XXS", " ".join(both.err.split()))
    done = cli("build", base, "--types", ",".join(names), "--variants", "imatrix", "--no-eval", "--no-bench",
               "--calibration", corpus, "--calibration-samples", 8, "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    made = set(ggufkit.load_results(out)["type"])
    assert set(names) - {"F16", "BF16", "F32"} <= made
    sizes = {f["file"]: f["size_bytes"] for f in json.loads(both.out)["files"] if f["variant"] == "imatrix"}
    assert sizes == {name: (out / name).stat().st_size for name in sizes}, "with a matrix, too"


def test_a_gguf_as_the_model(checkpoint: Path, tmp_path: Path, tools: Toolchain) -> None:
    corpus = tiny.text_file(tmp_path / "text.txt")
    assert cli("convert", checkpoint, "--type", "bf16", "--out", tmp_path / "a").code == 0
    base = tmp_path / "a" / "tiny-llama-BF16.gguf"
    done = cli("build", base, "--types", "q8_0", "--corpus", corpus, "--ctx", "64", "--chunks", "4", "--no-bench",
               "--out", tmp_path / "b", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert [row["file"] for row in json.loads(done.out)] == ["tiny-llama-BF16.gguf", "tiny-llama-Q8_0.gguf"]
    proven, evaluated = done.err.index("… Proving the chat template"), done.err.index("… Base pass")
    assert proven < evaluated, "the template is proven beside the quantizing"
    assert (tmp_path / "b" / "tiny-llama-BF16.gguf").read_bytes() == base.read_bytes()


def test_a_dry_run_writes_nothing_and_tells_the_exact_bytes(
    checkpoint: Path, tmp_path: Path, tools: Toolchain
) -> None:
    out = tmp_path / "out"
    arguments = ("build", checkpoint, "--types", "q4_k_m,q8_0", "--no-eval", "--no-bench", "--out", out)
    planned = cli(*arguments, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert not out.exists()
    assert cli(*arguments).code == 0
    files = {f["file"]: f["size_bytes"] for f in json.loads(planned.out)["files"]}
    assert files == {name: (out / name).stat().st_size for name in files}
    assert len(files) == 2


@needs_shared
def test_a_type_that_does_not_fit_the_shape_is_pointed_out(tmp_path: Path, tools: Toolchain) -> None:
    done = cli(
        "build", QWEN2, "--types", "q4_k_m", "--no-eval", "--no-bench", "--out", tmp_path / "out", "--dry-run"
    )
    assert done.code == 0, done.err
    assert "promises 4.90" in done.out
    assert re.search(r"\w+ has \d\.\d\d", done.out)
    assert max(map(len, done.out.splitlines())) <= 80


def test_explain_and_force(converted: Path, base: Path, tmp_path: Path) -> None:
    arguments = ("build", base, "--types", "q8_0", "--no-eval", "--no-bench", "--out", tmp_path / "out")
    assert cli(*arguments).code == 0
    assert "tiny-llama-Q8_0.gguf: skipped, nothing changed" in cli(*arguments, "--explain").err
    assert "asked for by --force" in cli(*arguments, "--explain", "--force").err
    home = shutil.copytree(converted.parent, tmp_path / "converted", ignore=shutil.ignore_patterns("tiny-llama"))
    checkpoint = shutil.copytree(converted.parent / "tiny-llama", tmp_path / "tiny-llama")
    again = ("convert", checkpoint, "--out", home)
    assert "tiny-llama-F16.gguf: skipped, nothing changed" in cli(*again, "--explain").err
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + "\n")
    assert "input checkpoint changed" in cli(*again, "--explain").err


def test_a_modelfile_that_was_edited_stays(base: Path, tmp_path: Path) -> None:
    arguments = ("build", base, "--types", "q8_0", "--no-eval", "--no-bench", "--out", tmp_path / "out")
    assert cli(*arguments).code == 0
    own = tmp_path / "out" / "Modelfile.Q8_0"
    made = own.read_text()
    own.write_text(made + "PARAMETER num_ctx 77\n")
    again = cli(*arguments)
    assert "Modelfile.Q8_0 was edited and stays as it is" in again.err
    assert "num_ctx 77" in own.read_text()
    assert cli(*arguments, "--force").code == 0
    assert own.read_text() == made


def request_for(base: Path, text: Path, out: Path, **more: Any) -> BuildRequest:
    return BuildRequest(
        str(base), out, ("q4_0",), corpus=str(text), ctx=64, chunks=4, backend="cpu", bench=False, **more
    )


@pytest.mark.usefixtures("tools")
def test_a_base_that_memory_does_not_hold_is_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, reporter = tiny.text_file(tmp_path / "text.txt"), SilentReporter()
    header = read_header(base)
    needed = memory.evaluation_ram(header, header.size_bytes, 64)
    monkeypatch.setattr(machine, "free_memory", lambda: needed)
    plan.plan(request_for(base, text, tmp_path / "out"), reporter)
    assert reporter.warnings == []
    monkeypatch.setattr(machine, "free_memory", lambda: needed - 1)
    plan.plan(request_for(base, text, tmp_path / "out", eval=False), reporter)
    assert reporter.warnings == []
    plan.plan(request_for(base, text, tmp_path / "out"), reporter)
    assert any("read from disk again and again" in w for w in reporter.warnings)


@pytest.mark.usefixtures("tools")
def test_a_context_beyond_the_trained_one_is_told(base: Path, tmp_path: Path) -> None:
    text, trained = tiny.text_file(tmp_path / "text.txt"), read_header(base).hparam("context_length")
    for n_ctx, evaluate, n_warnings in ((trained, True, 0), (trained + 1, True, 1), (trained + 1, False, 0)):
        measured, reporter = (
            EvaluationOptions(corpus=str(text), ctx=n_ctx, chunks=4, quality=evaluate, bench=False),
            SilentReporter(),
        )
        plan.plan(replace(request_for(base, text, tmp_path / "out"), evaluation=measured), reporter)
        assert sum("its figures are not reliable" in w for w in reporter.warnings) == n_warnings
    failed = cli("perplexity", base, "--corpus", tmp_path / "none.txt", "--ctx", trained + 1)
    assert "its figures are not reliable" in " ".join(failed.err.split())
    short = (
        "--types",
        "q8_0",
        "--corpus",
        text,
        "--chunks",
        2,
        "--no-kld",
        "--no-bench",
        "--out",
        tmp_path / "out",
    )
    built = cli("build", base, *short, "--ctx", trained + 1)
    assert " ".join(built.err.split()).count("its figures are not reliable") == 1, built.err
