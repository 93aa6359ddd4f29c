"""Files of one model, whoever made them, against one base: from the disk and from hubs, strangers refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from ggufkit import quantize
from ggufkit.commands import compare
from ggufkit.core.errors import InputError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama.gguf import read_header
from ggufkit.models import published
from scripts import tiny_gguf
from tests import hubserver, tiny
from tests.fake_model import write
from tests.fake_results import split
from tests.integration.run_cli import fails, ggufkit


@pytest.fixture
def files(base: Path, tmp_path: Path, tools: Toolchain) -> dict[str, Path]:
    """One's own Q4_K_M, one of the same name by somebody else, in two parts by a third, and one of another model."""
    theirs = tmp_path / "theirs"
    mine = quantize(base, "q4_k_m", out=tmp_path / "mine", quiet=True).path
    other = quantize(base, "q4_k_m", tensor_type="attn_v=q8_0", out=theirs, quiet=True).path
    parts = split(other, 2)
    stranger = tmp_path / "tiny-Q4_K_M.gguf"
    tiny_gguf.write(str(stranger))
    return {"mine": mine, "theirs": other, "first": parts[0], "second": parts[1], "stranger": stranger}


def test_three_files_beside_each_other_and_a_stranger(base: Path, files: dict[str, Path], tmp_path: Path) -> None:
    text, out, name = tiny.text_file(tmp_path / "text.txt", 1500), tmp_path / "out", files["mine"].name
    env = {"HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
    how = ("--corpus", text, "--ctx", 128, "--chunks", 4, "--out", out)
    part = f"Q4_K_M/{files['first'].name}"
    held = {part: files["first"], f"Q4_K_M/{files['second'].name}": files["second"], name: files["theirs"]}
    with hubserver.serve({"acme/tiny-GGUF": {k: f.read_bytes() for k, f in held.items()}}) as hub:
        env["HF_ENDPOINT"] = hub.url
        given = (base, files["mine"], f"hub:acme/tiny-GGUF/{name}", f"hub:acme/tiny-GGUF/{part}")
        refused = fails(3, "compare", *given, files["stranger"], *how, env=env)
        assert f"Not of the model of {base.name}: tiny-Q4_K_M.gguf: it has 4 heads of keys and values" in refused
        assert not hub.asked
        assert not out.exists()
        absent = fails(3, "compare", base, "hub:acme/tiny-GGUF/tiny-llama-Q5_K_M.gguf", *how, env=env)
        assert f"has no file tiny-llama-Q5_K_M.gguf. Did you mean {name}" in absent
        found = ggufkit("compare", *given, *how, env=env)
        assert found.code == 0, found.err
    shown = found.out.partition("Done: ")[0]
    assert max(map(len, shown.splitlines())) <= 80
    assert "acme Q4_K_M beside Q4_K_M:\n  attn_v Q8_0 against Q4_K in layer 0\n" in shown
    with (out / "results.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == {base.name, name, f"acme-{name}", f"acme-2-{name}"}
    assert (out / name).is_symlink()
    again = ggufkit("compare", *given, *how, "--json", env={**env, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert again.code == 0, again.err
    shown = json.loads(again.out)
    assert [row["variant"] for row in shown][:3] == ["plain", "plain", "acme"]
    assert shown[2]["kld_mean"] == shown[3]["kld_mean"]
    assert shown[0]["kld_delta"] is None
    assert shown[2]["kld_delta_paired"] is True
    assert shown[2]["differs"] == ["attn_v Q8_0 against Q4_K in layer 0", "attn_v Q8_0 against Q6_K in layer 1"]
    shutil.rmtree(tmp_path / "hf")
    gone = ggufkit("report", out)
    assert "not there any more" in " ".join(gone.err.split())
    assert read_header(out / name).architecture == "llama"


@pytest.mark.parametrize("scheme", ["hub:", "ms:"])
def test_a_strangers_header_is_enough(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is of the model is downloaded, all parts of it, once."""
    if scheme == "ms:":
        pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    base, stranger = write(tmp_path / "base.gguf"), write(tmp_path / "wide.gguf", width=256)
    parts = split(write(tmp_path / "mine.gguf"), 2)
    held = {f"deep/{part.name}": part.read_bytes() for part in parts} | {"wide.gguf": stranger.read_bytes()}
    for name in ("HF_HOME", "MODELSCOPE_CACHE", "GGUFKIT_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with hubserver.serve({"acme/x-GGUF": held}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        wanted = [published.read(word) for word in (str(base), f"{scheme}acme/x-GGUF/deep/{parts[1].name}")]
        with pytest.raises(InputError, match=r"wide.gguf: token_embd.weight is 256 × 5, in the base 32 × 5"):
            compare._headers([*wanted, published.read(f"{scheme}acme/x-GGUF/wide.gguf")], SilentReporter())
        cached = [f for place in ("HF_HOME", "MODELSCOPE_CACHE") for f in (tmp_path / place).rglob("*.gguf")]
        assert cached == []
        _, mine = compare._headers(wanted, SilentReporter())
        assert [header.path.read_bytes() for header in mine.headers] == [part.read_bytes() for part in parts]
        n_asked = len(hub.asked)
        compare._headers(wanted, SilentReporter())
        assert len(hub.asked) == n_asked
