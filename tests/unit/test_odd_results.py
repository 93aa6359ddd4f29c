"""An odd manifest or measurement costs what it tells, and one warning: never the whole directory's report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ggufkit.cli import cli
from ggufkit.core.errors import InputError
from ggufkit.core.manifest import open_manifest, read_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.report import results
from tests.fake_results import FAKES, write_results

Change = Callable[[dict[str, Any]], object]
DEEP: list[Any] = []
for _ in range(150):
    DEEP = [DEEP]
MANIFESTS: dict[str, tuple[Change, str]] = {
    "schema": (lambda m: m.update(schema=7), "of a schema that this version does not know"),
    "no step": (lambda m: m.pop("step"), "missing required field `step`"),
    "inputs": (lambda m: m.update(inputs=[]), "Expected `object`, got `array` - at `$.inputs`"),
    "input hash": (lambda m: m.update(inputs={"base": 1}), "Expected `str`, got `int`"),
    "argv": (lambda m: m.update(argv=[["a", 1]]), "at `$.argv[0][1]`"),
    "time": (lambda m: m.update(started_at="yesterday"), "started_at is 'yesterday'"),
    "time zone": (lambda m: m.update(started_at="0001-01-01T00:00:00"), "started_at is '0001"),
    "seconds": (lambda m: m.update(duration_s=float("nan")), "duration_s is nan"),
    "name": (lambda m: m["notes"].update(name=["x"]), "name is ['x']"),
    "variant": (lambda m: m["notes"].update(variant=3), "variant is 3"),
    "n_fallback": (lambda m: m["notes"].update(n_fallback="all"), "n_fallback is 'all'"),
    "sha256": (lambda m: m["output"].update(sha256=1.5), "output is"),
    "deep": (lambda m: m["notes"].update(name=DEEP), "nested more than 100 deep"),
}
MEASUREMENTS: dict[str, tuple[Change, str]] = {
    "value": (lambda m: m.update(value="30"), "Expected `float`, got `str` - at `$[0].value`"),
    "nan": (lambda m: m.update(value=float("nan")), "has nan ± "),
    "stderr": (lambda m: m.update(stderr=float("inf")), "± inf as"),
    "conditions": (lambda m: m.update(conditions=None), "Expected `object`, got `null` - at `$[0].conditions`"),
    "n_ctx": (lambda m: m["conditions"].update(n_ctx="many"), "at `$[0].conditions.n_ctx`"),
    "metric": (lambda m: m.pop("metric"), "missing required field `metric`"),
}


def collected(root: Path) -> tuple[dict[str, Any], list[str]]:
    said = SilentReporter()
    rows = results.collect(root, said)
    return {row.file: row for row in rows}, said.warnings


@pytest.mark.parametrize("case", MANIFESTS)
def test_an_odd_manifest_costs_its_own_row(tmp_path: Path, case: str) -> None:
    root, (change, said) = write_results(tmp_path / "out", FAKES[:2]), MANIFESTS[case]
    file = root / "tiny-Q8_0.gguf.manifest.json"
    made = json.loads(file.read_text())
    change(made)
    file.write_text(json.dumps(made))
    rows, warnings = collected(root)
    assert list(rows) == ["tiny-F16.gguf"]
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert said in warnings[0]
    assert read_manifest(root / "tiny-Q8_0.gguf") is None
    with pytest.raises(InputError) as caught:
        open_manifest(root / "tiny-Q8_0.gguf")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("case", MEASUREMENTS)
def test_an_odd_measurement_is_missing(tmp_path: Path, case: str) -> None:
    root, (change, said) = write_results(tmp_path / "out", FAKES[:2]), MEASUREMENTS[case]
    file = root / ".ggufkit" / "measurements" / "tiny-Q8_0.divergence.json"
    found = json.loads(file.read_text())
    change(found[0])
    file.write_text(json.dumps(found))
    rows, warnings = collected(root)
    assert (rows["tiny-Q8_0.gguf"].ppl, rows["tiny-Q8_0.gguf"].kld_mean) == (None, None)
    assert rows["tiny-Q8_0.gguf"].tg_tps == FAKES[1].tg
    assert rows["tiny-F16.gguf"].ppl == FAKES[0].ppl
    assert len(warnings) == 1
    assert said in warnings[0]


def test_a_damaged_gguf_costs_its_own_row(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    (root / "tiny-Q8_0.gguf").write_bytes(b"GGUF")
    rows, warnings = collected(root)
    assert list(rows) == ["tiny-F16.gguf"]
    assert len(warnings) == 1
    assert "tiny-Q8_0.gguf" in warnings[0]


def test_the_command_warns_and_ends_well(tmp_path: Path) -> None:
    root = write_results(tmp_path / "out", FAKES[:2])
    (root / "tiny-Q8_0.gguf.manifest.json").write_text("{" * 1000)
    (root / "results.json").write_text("[1]")
    ended = CliRunner().invoke(cli, ["report", str(root)])
    assert ended.exit_code == 1
    assert isinstance(ended.exception, InputError), "what ggufkit did not write stays"
    (root / "results.json").unlink()
    ended = CliRunner().invoke(cli, ["report", str(root), "--json"])
    assert ended.exit_code == 0
    assert [row["file"] for row in json.loads(ended.stdout)] == ["tiny-F16.gguf"]
    assert ended.stderr.count("Warning:") == 1
