"""A package's variants and metric go through plan, manifest, table and report like ggufkit's own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ggufkit
from ggufkit.core.manifest import manifest_path, read_manifest
from tests import tiny
from tests.integration.run_cli import ggufkit as cli
from tests.packages import OWN_METHOD, forget, install_own_method


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", f"{OWN_METHOD}:{tmp_path / 'site'}", prepend=":")
    install_own_method(tmp_path / "site", monkeypatch)
    yield
    for module in [name for name in sys.modules if name.startswith("ggufkit_fewer_bits")]:
        del sys.modules[module]
    forget()


def test_a_build_with_a_method_of_one_s_own(converted: Path, tmp_path: Path) -> None:
    text, out = tiny.text_file(tmp_path / "text.txt", 1500), tmp_path / "out"
    out.mkdir()
    for file in (converted, manifest_path(converted)):
        shutil.copyfile(file, out / file.name)
    model = str(converted.parent / "tiny-llama")
    asked: dict[str, Any] = {
        "types": "q4_0", "variants": "plain,fewer_bits,smaller_norms", "variant_option": ["fewer_bits.bits=3"],
        "metrics": "weight_sqnr", "corpus": text, "chunks": 2, "bench": False, "out": out, "quiet": True,
    }  # fmt: skip
    plan = ggufkit.plan(model, **asked)
    assert {file.variant for file in plan.files} == {"plain", "fewer_bits", "smaller_norms"}
    said = [step.doing for step in plan.steps]
    assert {"fewer_bits of ggufkit-fewer-bits 0.1", "smaller_norms of ggufkit-fewer-bits 0.1"} <= set(said)

    result = ggufkit.build(model, **asked)
    table = result.df.set_index("variant")
    assert [p.name for p in result.paths] == [
        "tiny-llama-F16.gguf", "tiny-llama-Q4_0.gguf", "tiny-llama-fewer_bits-Q4_0.gguf",
        "tiny-llama-smaller_norms-Q4_0.gguf",
    ]  # fmt: skip
    assert {f.file: f.size_bytes for f in plan.files} == {p.name: p.stat().st_size for p in result.paths[1:]}
    assert table.loc["fewer_bits", "weight_sqnr"] < table[table["type"] == "Q4_0"].loc["plain", "weight_sqnr"]
    assert table[table["type"] == "F16"]["weight_sqnr"].isna().all(), "not measured is missing"
    assert ggufkit.load_results(out)["weight_sqnr"].notna().sum() == 3
    assert table.loc["fewer_bits", "kld_mean"] > 0

    made = read_manifest(out / ".ggufkit" / "fewer_bits")
    assert made is not None
    assert made.params == {
        "method": "fewer_bits", "package": "ggufkit-fewer-bits", "package_version": "0.1", "method_options": {"bits": 3},
    }  # fmt: skip
    assert made.notes["said"] == {"matrices": 16}

    for report in ("report.md", "report.html"):
        told = (out / report).read_text(encoding="utf-8")
        assert "fewer_bits.bits=3" in told
        assert "weight" in told
        assert "# fewer_bits of ggufkit-fewer-bits 0.1" in told

    assert ggufkit.build(model, **asked).made == 0
    before = {p.name: p.stat().st_mtime_ns for p in result.paths}
    more = {"variant_option": ["fewer_bits.bits=3", "smaller_norms.strength=0.02"]}
    again = ggufkit.build(model, **{**asked, **more})
    changed = {p.name for p in again.paths if p.stat().st_mtime_ns != before[p.name]}
    assert changed == {"tiny-llama-smaller_norms-Q4_0.gguf"}, "what does not depend on the option stays"


def test_help_names_what_is_installed() -> None:
    shown = cli("build", "--help")
    assert "smaller_norms" in shown.out
    assert "--metrics" in shown.out
