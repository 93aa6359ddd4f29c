"""Refined files: the bytes around the new blocks, a base that must fit, and what a killed run leaves."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from ggufkit.core.errors import GgufError, ResourceError
from ggufkit.core.records import Checkpoint, Toolchain
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.llama.gguf_bytes import MetadataValue
from ggufkit.refine.state import Outcome, State
from ggufkit.refine.tensors import Pair
from ggufkit.refine.writer import rewrite
from ggufkit.steps import refine as step
from ggufkit.steps.session import Session
from ggufkit.steps.step import Recipe, Workspace
from ggufkit.texts.calibration import Calibration

RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal((6, 64)).astype(np.float32) for name in ("a.weight", "token_embd.weight")}
EXPERTS = RNG.standard_normal((3, 4, 32)).astype(np.float32)


def write_gguf(path: Path, quantized: str | None, *, alignment: int | None = None) -> Path:
    """Two matrices, stacked experts and a norm, in F16 or in a type that gguf can make."""
    writer = GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_string("general.name", "a.weight")
    writer.add_array("tokenizer.ggml.tokens", ["a", "token_embd.weight", "ü"])
    writer.add_tensor("norm", np.arange(5, dtype=np.float32))
    for name, values in {**WEIGHTS, "experts": EXPERTS}.items():
        if quantized:
            kind = GGMLQuantizationType[quantized]
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [None, 32, 64, 256])
def test_a_rewritten_file_differs_where_it_should(tmp_path: Path, alignment: int | None) -> None:
    header = read_header(write_gguf(tmp_path / "q.gguf", "Q4_0", alignment=alignment))
    new = bytes(range(108)) * 2
    out = tmp_path / "out.gguf"
    keys: dict[str, MetadataValue] = {
        "general.refined.by": "ü",
        "general.refined.tensors": 7,
        "general.refined.share": 0.5,
    }
    rewrite(header, out, keys, lambda t: new if t.name == "a.weight" else None)
    made = read_header(out)
    assert {k: v for k, v in made.metadata.items() if k not in keys} == dict(header.metadata)
    assert {k: made.metadata[k] for k in keys} == keys
    assert [(t.name, t.shape, t.type) for t in made.tensors] == [(t.name, t.shape, t.type) for t in header.tensors]
    assert made.data_offset % made.alignment == 0
    before, after = header.path.read_bytes(), out.read_bytes()
    assert len(after) - made.data_offset == len(before) - header.data_offset
    for tensor in header.tensors:
        old = before[tensor.offset : tensor.offset + tensor.n_bytes]
        at = made.by_name[tensor.name].offset
        assert after[at : at + tensor.n_bytes] == (new if tensor.name == "a.weight" else old)
    assert {t.name for t in GGUFReader(out).tensors} == set(header.by_name)


def test_a_file_is_refined_once(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "q.gguf", "Q4_0"))
    once = tmp_path / "once.gguf"
    rewrite(header, once, {"general.refined.by": "x"}, lambda _: None)
    with pytest.raises(GgufError, match="refined already"):
        rewrite(read_header(once), tmp_path / "twice.gguf", {"general.refined.by": "x"}, lambda _: None)
    assert not (tmp_path / "twice.gguf").exists()


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(write_gguf(tmp_path / "q.gguf", "Q4_0"))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ggufkit.llama.whole.Located.blocks", full)
    with pytest.raises(ResourceError, match="No space left"):
        rewrite(header, tmp_path / "out.gguf", {}, lambda _: None)
    assert [p.name for p in tmp_path.iterdir()] == ["q.gguf"]


def test_rows_are_those_that_were_written(tmp_path: Path) -> None:
    pair = Pair(write_gguf(tmp_path / "q.gguf", "Q4_0"), write_gguf(tmp_path / "b.gguf", None))
    assert torch.equal(pair.weights("a.weight"), torch.from_numpy(WEIGHTS["a.weight"].astype(np.float16)).float())
    assert np.array_equal(pair.raw("experts", 2), quantize(EXPERTS[2], GGMLQuantizationType.Q4_0))
    assert torch.allclose(pair.weights("experts", 1), torch.from_numpy(EXPERTS[1]), atol=2e-3)
    ids = torch.tensor([5, 0, 5])
    assert torch.equal(pair.embedding(ids), pair.stored("token_embd.weight")[ids])
    assert pair.codec("norm") is None
    assert pair.codec("absent") is None


def test_a_base_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    quantized, base = write_gguf(tmp_path / "q.gguf", "Q4_0"), write_gguf(tmp_path / "b.gguf", None)
    with pytest.raises(GgufError, match="is quantized itself"):
        Pair(quantized, quantized)
    header = read_header(base)
    data = bytearray(base.read_bytes())
    at = data.rfind(b"a.weight", 0, header.data_offset)
    data[at : at + 8] = b"b.weight"
    base.write_bytes(data)
    with pytest.raises(GgufError, match=r"has no a\.weight"):
        Pair(quantized, base)


def test_a_type_that_cannot_be_read_is_told_before_anything_is_refined(tmp_path: Path) -> None:
    kind, files = GGMLQuantizationType.Q1_0, []
    width, n_bytes = GGML_QUANT_SIZES[kind]
    for name in ("q", "base"):
        writer = GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        if name == "q":
            writer.add_tensor("a.weight", np.zeros((2, n_bytes), np.uint8), raw_dtype=kind)
        else:
            writer.add_tensor("a.weight", np.zeros((2, width), np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.append(tmp_path / f"{name}.gguf")
    with pytest.raises(GgufError, match=r"has a\.weight as Q1_0, which refinement cannot read"):
        Pair(*files)


def test_state_returns_what_was_saved_for_the_same_key_only(tmp_path: Path) -> None:
    raw = RNG.integers(0, 256, 50, dtype=np.uint8)
    kept = Outcome("blk.0.ffn_up_exps.weight", "Q4_K", 0.5, 0.25, True, expert=3)
    dropped = Outcome("blk.0.attn_q.weight", "Q4_K", 0.5, 0.75, False, "no better")
    first = State(tmp_path / "state", "key")
    first.save(kept, raw)
    first.save(dropped, None)
    first.enter(4)
    again = State(tmp_path / "state", "key")
    loaded = again.load("blk.0.ffn_up_exps.weight", 3)
    assert loaded is not None
    assert loaded[0] == kept
    assert np.array_equal(loaded[1], raw)
    assert again.load("blk.0.ffn_up_exps.weight", 2) is None
    assert again.outcomes() == [dropped, kept]
    assert again.layer() == 4
    other = State(tmp_path / "state", "another")
    assert (other.layer(), other.outcomes()) == (0, [])


def test_state_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(tmp_path / "state", "key")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ggufkit.refine.state.os.replace", full)
    with pytest.raises(ResourceError, match="No space left"):
        state.save(Outcome("x", "Q4_0", 1, 0, True), np.zeros(4, np.uint8))
    assert state.outcomes() == []
    assert not list((tmp_path / "state").rglob("*.partial"))


@pytest.mark.parametrize(("kind", "told"), [("Q4_0", None), ("MXFP4", "MXFP4")])
def test_a_recipe_names_types_that_earlier_versions_left_as_they_were(
    kind: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: list[Recipe] = []
    monkeypatch.setattr(Session, "ensure", lambda _self, recipe, *_given, **_more: recipes.append(recipe))
    monkeypatch.setattr(step, "fingerprint", lambda _path, _reporter: "c")
    base, file = (read_gguf(write_gguf(tmp_path / f"{k}.gguf", k or None), "h") for k in ("", kind))
    tokens = np.zeros((1, 4), np.int32)
    checkpoint = Checkpoint(tmp_path, "tiny", "tiny", None, "LlamaForCausalLM", 1, 1)
    wanted = step.Refinable(file, base, checkpoint, Calibration(tokens, tokens, "text", "t", 1))
    session = Session(Toolchain(tmp_path, "built", "c", "cpu", "1"), Workspace(tmp_path))
    step.refine(wanted, tmp_path / "out.gguf", step.RefiningOptions(), session)
    assert recipes[0].params.get("further_types") == told
