"""What a sweep would do and take, told before it is begun."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import ggufkit
from ggufkit.core.records import Toolchain
from tests import hubserver
from tests.hubserver import HubServer
from tests.integration.run_cli import ggufkit as cli

ID = "acme/tiny-llama"


def sweep_file(directory: Path, *models: object, more: str = "") -> Path:
    file = directory / "sweep.yaml"
    listed = "".join(f"  - {model}\n" for model in models)
    file.write_text(
        f"models:\n{listed}types: [q8_0, q4_0]\noptions: {{eval: false, bench: false, backend: cpu}}\n{more}"
    )
    return file


def test_models_of_a_hub_are_planned_by_their_headers(
    checkpoint: Path,
    base: Path,
    tools: Toolchain,
    own_hub_caches: None,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(tools.dir))
    hub.repos[ID] = hubserver.files_of(checkpoint)
    file = sweep_file(tmp_path, f"{{model: {ID}, name: there, hub: hf}}", f"{{model: {base}, name: here}}",
                      "{model: acme/none, hub: hf}")  # fmt: skip
    done = cli("sweep", file, "--dry-run", "--json")
    told = json.loads(done.out)
    there, here, none = told["cells"]
    weights = pytest.approx(
        (checkpoint / "model.safetensors").stat().st_size, rel=1e-3
    )  # headers are written anew
    assert (there["n_jobs"], there["n_there"], there["n_files"], there["download_bytes"]) == (5, 0, 2, weights)
    assert (here["n_jobs"], here["n_there"], here["n_files"], here["download_bytes"]) == (5, 1, 2, 0)
    assert here["result_bytes"] == there["result_bytes"] < here["disk_bytes"]
    assert done.code == none["exit_code"] == 3
    assert "acme/none" in none["message"]
    assert told["total"]["n_jobs"] == 10
    assert told["total"]["download_bytes"] == weights
    assert told["total"]["result_bytes"] == 2 * here["result_bytes"]
    assert not (tmp_path / "sweep").exists()
    fetched = [Path(home) / name for home, _, names in os.walk(tmp_path / "hf") for name in names]
    assert not [path for path in fetched if path.stat().st_size > 1 << 20]

    shown = cli("sweep", file, "--dry-run")
    assert max(map(len, shown.out.split("Not counted")[0].splitlines()[:4])) <= 80
    assert "10 jobs, of which 1 have their results already; 4 GGUFs." in shown.out
    assert "Not counted above is what nothing is known of, 1 of 3" in shown.out


def test_weights_are_not_fetched_for_a_plan(
    checkpoint: Path,
    tools: Toolchain,
    own_hub_caches: None,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(tools.dir))
    hub.repos[ID] = hubserver.files_of(checkpoint)
    (cell,) = ggufkit.plan_sweep(sweep_file(tmp_path, f"ms:{ID}")).cells
    assert "only its weights tell" in cell.message
    assert not any("model.safetensors" in f"{asked.path} {asked.query}" for asked in hub.asked)


def test_what_is_there_is_counted(base: Path, tools: Toolchain, tmp_path: Path) -> None:
    out = tmp_path / "sweep" / "tiny-llama"
    file = sweep_file(tmp_path, base, more="exclude: [{types: [q4_0]}]\n")
    ggufkit.build(base, types="q8_0", eval=False, bench=False, backend="cpu", out=out, quiet=True)
    (cell,) = ggufkit.plan_sweep(file).cells
    assert (cell.n_jobs, cell.n_there, cell.n_files) == (4, 4, 1)
    (out / "tiny-llama-Q8_0.gguf").unlink()
    (cell,) = ggufkit.plan_sweep(file).cells
    assert (cell.n_jobs, cell.n_there) == (4, 2)


def test_a_fault_is_told_before_anything_else(tmp_path: Path) -> None:
    done = cli("sweep", sweep_file(tmp_path, "qwen2.5-0.5b", more="variant: [awq]\n"), "--dry-run")
    assert done.code == 3
    assert "line 5, column 1" in done.err
    assert "Did you mean 'variants'?" in done.err


def test_python_sweeps_what_it_planned(base: Path, tools: Toolchain, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    file = sweep_file(tmp_path, base, more="exclude: [{types: [q4_0]}]\n")
    planned = ggufkit.plan_sweep(file)
    swept = ggufkit.sweep(file, workers=1, quiet=True)
    assert (len(swept.outcomes), swept.failed) == (planned.total.n_jobs, ())
    assert swept.df[["model", "type"]].to_numpy().tolist() == [["tiny-llama", "F16"], ["tiny-llama", "Q8_0"]]
    assert ggufkit.plan_sweep(file).total.n_there == planned.total.n_jobs
    with pytest.raises(TypeError, match="Did you mean 'workers'"):
        ggufkit.sweep(file, worker=1)  # type: ignore[call-arg]
    with pytest.raises(ggufkit.UsageError, match="system"):
        ggufkit.sweep(file, system="slurmm")
