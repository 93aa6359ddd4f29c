"""Checkpoints under transformers against llama-perplexity: the same tokens, the same chunks, the same figures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import ggufkit
from ggufkit import report
from ggufkit.core import process
from ggufkit.core.errors import CheckpointError, UsageError
from ggufkit.core.manifest import manifest_path
from ggufkit.core.records import Toolchain
from ggufkit.formats.evaluator import evaluate
from ggufkit.formats.job import Job
from ggufkit.formats.loading import load
from ggufkit.formats.statistics import divergence
from ggufkit.formats.tokens import read_tokens
from ggufkit.llama import argv, vocab
from ggufkit.llama.argv import Compute, Excerpt
from ggufkit.llama.kld import Divergence
from ggufkit.report import results
from ggufkit.report.tables import load_results
from tests import tiny

N_CTX, N_CHUNKS = 64, 8


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.text_file(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def logits(tools: Toolchain, converted: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the base predicts, as llama-perplexity saves it."""
    saved = tmp_path_factory.mktemp("logits") / "base.logits"
    how = argv.base_logits(tools, converted, saved, Excerpt(text, N_CTX, N_CHUNKS), Compute("cpu", None, 1))
    assert process.run(how).returncode == 0
    return saved


def test_a_checkpoint_has_its_ggufs_figures_and_its_row(converted: Path, text: Path, tmp_path: Path) -> None:
    model, base = converted.parent / "tiny-llama", tmp_path / converted.name
    for file in (converted, manifest_path(converted)):
        shutil.copyfile(file, tmp_path / file.name)
    how: dict[str, Any] = {"corpus": text, "ctx": N_CTX, "chunks": N_CHUNKS, "threads": 1}
    done = ggufkit.perplexity([model, "hf:int8"], base, **how)
    theirs, ours, int8 = (done.df.iloc[i] for i in range(3))
    assert list(done.df["format"]) == ["gguf", "hf-f16", "hf-int8"]
    assert ours["ppl"] == pytest.approx(theirs["ppl"], rel=1e-4)
    assert ours["ppl_stderr"] == pytest.approx(theirs["ppl_stderr"], rel=1e-3)
    assert abs(ours["ln_ppl_ratio"]) < 1e-4
    assert ours["kld_mean"] < 1e-5 < int8["kld_mean"]
    assert ours["same_top_p"] > 0.98
    assert (ours["file"], ours["backend"], ours["n_chunks"]) == ("tiny-llama-hf-f16", "transformers", N_CHUNKS)
    assert ours["n_params"] == theirs["n_params"] == int8["n_params"]
    assert ours["bpw"] == pytest.approx(16)
    assert 8 < int8["bpw"] < 12
    assert ggufkit.perplexity([model, "hf:int8"], base, **how).made == 0
    piped = ggufkit.perplexity([model], base, out=tmp_path / "piped", strategy="pipe", **how)
    assert piped.df.iloc[1]["kld_mean"] == ours["kld_mean"]
    _require_in_report(tmp_path)


def _require_in_report(out: Path) -> None:
    report.write(results.collect(out), out)
    assert list(load_results(out)["format"]) == ["gguf", "hf-f16", "hf-int8"]
    assert ",tiny-llama-hf-int8," in (out / "measurements.csv").read_text(encoding="utf-8")
    assert "hf LLM.int8" in (out / "report.html").read_text(encoding="utf-8")
    said = (out / "report.md").read_text(encoding="utf-8")
    assert "tiny-llama-hf-int8" in said
    assert "should I take?** tiny-llama-hf" not in said


@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_packed_weights_compute_what_they_hold(
    kind: str, tools: Toolchain, converted: Path, logits: Path, tmp_path: Path
) -> None:
    held, packed = _packed(converted.parent / "tiny-llama", tmp_path, kind)
    wanted, found = (_figures(path, k, tools, converted, logits) for path, k in ((held, "f32"), (packed, kind)))
    assert found.kld == pytest.approx(wanted.kld, rel=1e-6)
    assert found.kld[0] > 1e-4


def test_what_bitsandbytes_makes_loses_what_its_bits_say(tools: Toolchain, converted: Path, logits: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = converted.parent / "tiny-llama"
    nf4, int8 = (_figures(model, kind, tools, converted, logits, made_of="f16") for kind in ("nf4", "int8"))
    assert 0 < int8.kld[0] < nf4.kld[0] / 5 < 1


@pytest.mark.parametrize("kind", ["w8a8", "fp8", "w4a16"])
def test_compressed_tensors_compute_what_their_scheme_says(kind: str, converted: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model, name = tmp_path / "model", "model.layers.1.mlp.down_proj"
    dense = _compressed(converted.parent / "tiny-llama", model, kind)
    loaded = load(model, kind, None, torch.device("cpu"))
    seen: dict[str, torch.Tensor] = {}
    linear = loaded.model.get_submodule(name)
    linear.register_forward_hook(lambda _m, given, made: seen.update(x=given[0][0], y=made[0]))
    with torch.inference_mode():
        loaded.model(torch.arange(5, 37)[None], use_cache=False)
    x, weight = seen["x"], dense[f"{name}.weight"]
    if kind == "w8a8":
        step = x.abs().amax(-1, keepdim=True) / 127.5
        x = (x / step).round().clamp(-128, 127) * step
    elif kind == "fp8":
        step = x.abs().amax(-1, keepdim=True) / 448
        x = (x / step).clamp(-448, 448).to(torch.float8_e4m3fn).float() * step
    assert torch.equal(linear.weight, weight)
    torch.testing.assert_close(seen["y"], x @ weight.T, rtol=1e-5, atol=1e-6)
    assert loaded.n_params == sum(one.numel() for one in dense.values())


def test_what_cannot_be_measured_is_refused(base: Path, converted: Path, tmp_path: Path, text: Path) -> None:
    model = converted.parent / "tiny-llama"
    with pytest.raises(UsageError, match="measured against a GGUF"):
        ggufkit.perplexity([model])
    with pytest.raises(UsageError, match="--model"):
        ggufkit.perplexity(["hf:nf4"], base)
    with pytest.raises(UsageError, match="--precision"):
        ggufkit.perplexity([model], base, precision="2%")
    other = tiny.write_llama(tmp_path / "other", width=128)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 600}))
    with pytest.raises(CheckpointError, match="evaluate"):
        ggufkit.perplexity([other], base, corpus=text, ctx=N_CTX, chunks=N_CHUNKS)


def _figures(
    checkpoint: Path, kind: str, tools: Toolchain, gguf: Path, logits: Path, made_of: str | None = None
) -> Divergence:
    output = logits.with_name(f"{os.getpid()}.npz")
    assert tools.source is not None
    bos = vocab.beginning(tools.dir, tools.source, gguf)
    done = evaluate(Job(str(checkpoint), kind, made_of, str(logits), bos, str(output), 1, "cpu"))
    return divergence(read_tokens(output), done.n_chunks, done.n_ctx)


def _packed(model: Path, home: Path, kind: str) -> tuple[Path, Path]:
    """Two checkpoints of the same rounded weights: as they are, and packed by the method."""
    held, packed = home / "held", home / "packed"
    tensors = load_file(model / "model.safetensors")
    whole, parts = dict(tensors), dict(tensors)
    for name in [n for n in tensors if ".layers." in n and tensors[n].ndim == 2]:
        codes, scales, zeros = _rounded(np.ascontiguousarray(tensors[name].float().numpy().T))
        group = np.arange(len(codes)) // (len(codes) // len(scales))
        values = (codes - zeros[group]) * scales.astype(np.float32)[group]
        whole[name] = torch.from_numpy(np.ascontiguousarray(values.T.astype(np.float32)))
        del parts[name]
        stem = name.removesuffix(".weight")
        stored = zeros if kind == "awq" else zeros - 1
        across = _awq_words if kind == "awq" else _words
        rows = _awq_words(codes) if kind == "awq" else _words(codes.T).T
        parts |= {
            f"{stem}.qweight": torch.from_numpy(np.ascontiguousarray(rows)),
            f"{stem}.qzeros": torch.from_numpy(across(stored)),
            f"{stem}.scales": torch.from_numpy(scales).contiguous(),
        }
    how = {"quant_method": kind, "bits": 4, "group_size": 32, "version": "gemm", "sym": False, "desc_act": False}
    for path, saved, more in ((held, whole, {}), (packed, parts, {"quantization_config": how})):
        shutil.copytree(model, path)
        save_file(saved, path / "model.safetensors", {"format": "pt"})
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | more))
    return held, packed


def _compressed(model: Path, path: Path, kind: str) -> dict[str, torch.Tensor]:
    """Write a checkpoint as compressed-tensors does; returns its weights as they are to be read."""
    bits, number = (4, "int") if kind == "w4a16" else (8, "float" if kind == "fp8" else "int")
    layout = {"w4a16": "pack-quantized", "fp8": "float-quantized", "w8a8": "int-quantized"}[kind]
    weights = {"num_bits": bits, "type": number, "symmetric": True, "strategy": "channel"}
    inputs = {"num_bits": bits, "type": number, "symmetric": True, "strategy": "token", "dynamic": True}
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None if kind == "w4a16" else inputs}
    how = {
        "quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": scheme},
        "ignore": ["lm_head"], "quantization_status": "compressed",
    }  # fmt: skip
    shutil.copytree(model, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": how}))
    dense, saved = {}, {}
    for name, tensor in load_file(model / "model.safetensors").items():
        dense[name] = saved[name] = tensor
        if ".layers." in name and tensor.ndim == 2:
            del saved[name]
            made, dense[name] = _compressed_matrix(name, tensor.float(), kind)
            saved |= made
    save_file(saved, path / "model.safetensors", {"format": "pt"})
    return {name: tensor.float() for name, tensor in dense.items()}


def _compressed_matrix(name: str, weight: torch.Tensor, kind: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A matrix with a scale for each row: the tensors that are saved, and what they hold."""
    largest = {"w4a16": 7, "w8a8": 127, "fp8": 448}[kind]
    scale = (weight.abs().amax(1, keepdim=True) / largest).bfloat16()
    codes = weight / scale.float()
    codes = codes.to(torch.float8_e4m3fn).float() if kind == "fp8" else codes.round().clamp(-largest, largest)
    made = {f"{name}_scale": scale}
    if kind == "w4a16":
        made[f"{name}_packed"] = torch.from_numpy(_words(codes.numpy().astype(np.int64) + 8))
        made[f"{name}_shape"] = torch.tensor(weight.shape)
    else:
        made[name] = codes.to(torch.float8_e4m3fn if kind == "fp8" else torch.int8)
    return made, codes * scale.float()


def _rounded(weights: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float16], NDArray[np.int64]]:
    """(inputs, outputs) weights to 4 bits in groups of 32 inputs: codes, scales, zero points from 1 to 15."""
    groups = weights.reshape(-1, 32, weights.shape[1])
    scales = (np.abs(groups).max(1) / 7).astype(np.float16)
    zeros = np.full(scales.shape, 8, np.int64)
    zeros[:, ::2] = 7
    codes = np.rint(groups / scales.astype(np.float32)[:, None]) + zeros[:, None]
    return codes.clip(0, 15).astype(np.int64).reshape(weights.shape), scales, zeros


def _words(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Eight values beside each other in a word, the first in the lowest bits."""
    parts = values.reshape(len(values), -1, 8) << np.arange(0, 32, 4)
    words: NDArray[np.int32] = parts.sum(-1).astype(np.uint32).view(np.int32)
    return words


def _awq_words(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """The same in AWQ's order."""
    return _words(values.reshape(len(values), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(values.shape))
