"""What tools print."""

from __future__ import annotations

from benchmarks.fuzzing.mutate import mutate, mutate_json, mutate_lines
from benchmarks.fuzzing.reader import ROOT, Reader, accepted, of_output, of_text
from ggufkit.core.process import ToolOutput
from ggufkit.llama import cuda, embeddings, kld, launcher, load_errors, logs, progress_lines

_PARSERS = (
    ("perplexity", logs.parse_perplexity, mutate),
    ("divergence", kld.parse_divergence, mutate),
    ("bench", logs.parse_bench, mutate_lines),
    ("quantize", logs.parse_quantize, mutate),
)
_TYPES = b"""allowed quantization types:
   2  or  Q4_0    :  4.34G, +0.4685 ppl @ Llama-3-8B
   1  or  F16     : 14.00G
"""
_QUANTIZED = b"""[   1/   2]  token_embd.weight - [  256,   512,     1,     1], type =    f16, converting to q8_0 .. size = 1.00 MiB -> 0.50 MiB
[   2/   2]  output_norm.weight - [  256,     1,     1,     1], type =    f32, size =    0.001 MiB
llama_model_quantize_impl: model size  =     1.00 MiB (16.00 BPW)
llama_model_quantize_impl: quant size  =     0.50 MiB (8.50 BPW)
"""  # noqa: E501 - as llama-quantize prints it
_VERSIONS = b"""0, NVIDIA H200, GPU-1234, 9.0, 143000
CUDA Version: 12.4
release 12.4, V12.4.131
version: 0.5.0 (build 1, commit 0c1e570)
"""
_TOLD = b'ggufkit-error: {"kind": "CheckpointError", "message": "a", "hint": "b"}'
_EMBEDDINGS = b"[[0.25, -1.5, 3e-05], [0.5, 1, 0.125]]"
_NOT_LOADED = b"""llama_model_load: error loading model: check_tensor_dims: tensor 'blk.0.ffn_down.weight' has wrong shape; \
expected  1024,   256, got   512,   256,     1,     1
llama_model_load: error loading model: missing tensor 'output_norm.weight'
"""
_LINES = (
    progress_lines.steps_done, progress_lines.percent_written, progress_lines.chunks_collected,
    progress_lines.chunks_found, cuda.parse_gpus, cuda.parse_driver, cuda.parse_nvcc, logs.parse_version,
)  # fmt: skip


def readers() -> list[Reader]:
    """Logs, listings, progress."""
    shared = ROOT.parent / "shared" / "logs"
    files = [*(ROOT / "tests" / "logs").iterdir(), *(shared.iterdir() if shared.is_dir() else [])]
    texts = [*(file.read_bytes() for file in sorted(files)), _QUANTIZED]
    return [
        *(Reader(n, accepted(of_output(p), texts), of_output(p), how, 2) for n, p, how in _PARSERS),
        Reader("placement", texts, of_output(logs.parse_placement)),
        Reader("types", [_TYPES], of_text(logs.parse_types)),
        Reader("progress", [*texts, _VERSIONS], of_text(_lines)),
        Reader("embeddings", [_EMBEDDINGS], of_text(_vectors), mutate_json),
        Reader("load errors", [_NOT_LOADED], of_text(load_errors.why_not_loaded)),
        Reader("explained", [_TOLD], of_text(_explained), mutate_lines),
    ]


def _vectors(text: str) -> None:
    found = embeddings.parse_embeddings(ToolOutput(("llama-embedding",), 0, text, "", 1.0))
    assert len({len(vector) for vector in found}) == 1


def _lines(text: str) -> None:
    for read in _LINES:
        read(text)
    counter = progress_lines.ChunkCounter()
    for start in range(0, len(text), 4096):
        counter.feed(text[start : start + 4096])


def _explained(text: str) -> None:
    launcher.error_in(ToolOutput(("a",), 1, "", text, 1.0))
