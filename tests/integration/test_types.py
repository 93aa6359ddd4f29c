"""Types of files that are not llama-quantize's own, through `build`: the same bytes as the raw tool's, and their recipes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from ggufkit.core import process
from ggufkit.core.manifest import read_manifest
from ggufkit.core.records import Toolchain
from ggufkit.llama.gguf import read_header
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
