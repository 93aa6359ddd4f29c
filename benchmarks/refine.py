"""What refining costs: seconds of each layer by part, how busy the GPU is, and the memory that it takes.

    python -m benchmarks.refine shape 7b                     # random weights of that shape, on the GPU
    python -m benchmarks.refine file Q4_K_M.gguf --base F16.gguf --model DIR --calibration TEXT --device cpu

Of a shape, the first layer is not to be counted: kernels are compiled in it; nor the last, whose outputs nobody needs.
With `--profile` every launch of the second layer is noted, which tells how long the GPU computed, and slows it a little.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import record
from benchmarks.shape import QWEN25_05B
from ggufkit.core import machine
from ggufkit.core.progress import SilentReporter
from ggufkit.layers import StreamedModel
from ggufkit.refine import layerwise, matrices, solve
from ggufkit.refine.codecs import CODECS, Codec
from ggufkit.refine.engine import RefineInputs, refine_gguf
from ggufkit.refine.grid import Grid, write_grid
from ggufkit.refine.options import RefineOptions
from ggufkit.refine.pace import Pace
from ggufkit.refine.stages import TwinLayer
from ggufkit.texts import calibration as texts

N_TOKENS = 4096  # of the vocabulary: what refining a layer costs does not depend on it


def _config(width: int, inner: int, heads: int, kv_heads: int) -> dict[str, Any]:
    shape = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
    return {**QWEN25_05B, **shape, "num_key_value_heads": kv_heads, "vocab_size": N_TOKENS}


SHAPES = {
    "0.5b": _config(896, 4864, 14, 2),
    "7b": _config(3584, 18944, 28, 4),
    "70b": _config(8192, 28672, 64, 8),
}
# Widths of 0.5 B are no multiple of 256: llama-quantize falls back to blocks of 32 there.
TYPES = {
    "q4_k_m": ("Q4_K", "Q6_K"),
    "q4_0": ("Q4_0", "Q4_0"),
    "q3_k_m": ("Q3_K", "Q5_K"),
    "q2_k": ("Q2_K", "Q4_K"),
}
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@click.group()
def main() -> None:
    """Time a refinement."""


@main.command()
@click.argument("name", type=click.Choice(list(SHAPES)))
@click.option("--type", "kind", type=click.Choice(list(TYPES)), default="q4_k_m", show_default=True)
@click.option("--layers", default=4, show_default=True, help="Every second has its v and down in the larger type.")
@click.option("--samples", default=128, show_default=True)
@click.option("--length", default=512, show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--profile", is_flag=True, help="Note every launch.")
@click.option("--save/--no-save", "keep", default=True, show_default=True)
def shape(
    name: str, kind: str, layers: int, samples: int, length: int, device: str, profile: bool, keep: bool
) -> None:
    """Refine layers of a published model's shape with random weights."""
    with tempfile.TemporaryDirectory(prefix="ggufkit-refine-") as scratch:
        config = {**SHAPES[name], "num_hidden_layers": layers}
        inputs = _Files(Path(scratch), config, TYPES[kind], torch.device(device)).write(samples, length)
        told = _run(inputs, Path(scratch), device, profile=profile)
    click.echo(json.dumps(told, indent=1))
    if keep:
        which = {
            "what": "refine",
            "machine": machine.describe(),
            "device": _gpu(device),
            "commit": record.commit(),
        }
        how = {"shape": name, "type": kind, "tokens": [samples, length], "n_layers": layers}
        click.echo(record.write(f"refine-{name}", {**which, **how, **told}))


def _gpu(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)


@main.command()
@click.argument("quantized", type=click.Path(exists=True, path_type=Path))
@click.option("--base", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--calibration", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Leave the refined file here.")
@click.option("--profile", is_flag=True, help="Note every launch.")
def file(
    quantized: Path, base: Path, model: Path, calibration: Path, device: str, out: Path | None, profile: bool
) -> None:
    """Refine a real file, as the command `refine` does."""
    tokenizer = texts.load_tokenizer(model)
    drawn = texts.draw(texts.read_texts(calibration), tokenizer, texts.Sampling(), source=str(calibration))
    with tempfile.TemporaryDirectory(prefix="ggufkit-refine-") as scratch:
        inputs = RefineInputs(quantized, base, model, drawn)
        told = _run(inputs, Path(scratch), device, profile=profile, out=out)
    click.echo(json.dumps(told, indent=1))


class _Parts:
    """Seconds of each part, without those of parts within it; layer by layer."""

    def __init__(self, device: torch.device) -> None:
        self.layers: list[dict[str, float]] = []
        self._device, self._open = device, list[float]()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done here as `name`."""
        started = self._now()
        self._open.append(0.0)
        try:
            yield
        finally:
            seconds = self._now() - started
            inner = self._open.pop()
            if self._open:
                self._open[-1] += seconds
            layer = self.layers[-1]
            layer[name] = layer.get(name, 0.0) + seconds - inner

    def counted(self, owner: Any, attribute: str, name: str) -> None:
        """From now on count what a function takes."""
        real: Callable[..., Any] = getattr(owner, attribute)

        @functools.wraps(real)
        def timed(*args: Any, **more: Any) -> Any:
            with self.part(name):
                return real(*args, **more)

        setattr(owner, attribute, timed)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()


def _run(
    inputs: RefineInputs, scratch: Path, device: str, *, profile: bool, out: Path | None = None
) -> dict[str, object]:
    parts, profiler, reporter = _Parts(torch.device(device)), _profiler() if profile else None, SilentReporter()
    _count_layers(parts, profiler)
    parts.counted(StreamedModel, "load_layer", "weights of the layer")
    parts.counted(layerwise, "gather", "inputs and their moments")
    parts.counted(TwinLayer, "finish", "outputs")
    parts.counted(matrices, "_matrix", "blocks and base weights")
    parts.counted(matrices, "_target", "targets")
    parts.counted(matrices, "_settle", "judging and packing")
    parts.counted(matrices, "solve", "search of levels and scales")
    parts.counted(solve, "_factors", "factors of second moments")
    started, options = time.monotonic(), RefineOptions(device=device)
    refined = out or scratch / "refined.gguf"
    result = refine_gguf(inputs, refined, options, state_dir=scratch / "state", reporter=reporter)
    seconds = time.monotonic() - started
    for warning in reporter.warnings:
        click.echo(warning, err=True)
    told: dict[str, object] = {
        "seconds": round(seconds, 2),
        "layers": [{k: round(v, 2) for k, v in {"seconds": sum(x.values()), **x}.items()} for x in parts.layers],
        "error_left": round(float(np.mean([o.after / o.before for o in result.outcomes])), 5),
        "gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if device != "cpu" else None,
    }
    return told if profiler is None else {**told, **_busy(profiler, sum(parts.layers[1].values()))}


def _profiler() -> Any:
    from torch.profiler import ProfilerActivity, profile

    return profile(activities=[ProfilerActivity.CUDA])


def _count_layers(parts: _Parts, profiler: Any) -> None:
    real = layerwise.Layers._layer

    def timed(self: layerwise.Layers, index: int, pace: Pace) -> None:
        parts.layers.append({})
        with parts.part("rest of the layer"):
            real(self, index, pace)

    def noted(self: layerwise.Layers, index: int, pace: Pace) -> None:
        with profiler if profiler and index == 1 else nullcontext():
            timed(self, index, pace)

    layerwise.Layers._layer = noted  # type: ignore[method-assign]


def _busy(profiler: Any, seconds: float) -> dict[str, object]:
    """How much of the time the GPU computed, and at what: launches and seconds of the most expensive kernels."""
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events) / 1e6
    top = {e.key[:60]: [e.count, round(e.self_device_time_total / 1e6, 3)] for e in events[:20]}
    launches = sum(e.count for e in events if e.self_device_time_total > 0)
    return {"gpu_busy": round(total / seconds, 3), "launches": launches, "kernels": top}


class _Files:
    """A checkpoint with random weights, its F16 GGUF, and a quantized one."""

    def __init__(self, path: Path, config: dict[str, Any], types: Sequence[str], device: torch.device) -> None:
        self.path, self.config, self.types, self.device = path, config, types, device
        torch.manual_seed(0)

    def write(self, samples: int, length: int) -> RefineInputs:
        """Write all three; tokens are random, too."""
        from gguf import GGMLQuantizationType, GGUFWriter
        from safetensors.torch import save_file

        checkpoint = self.path / "checkpoint"
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text(json.dumps(self.config))
        files = [self.path / "base.gguf", self.path / "quantized.gguf"]
        base, quantized = (GGUFWriter(f, "qwen2") for f in files)
        stored: dict[str, torch.Tensor] = {}
        for name, tensor, weight, kind in self._tensors():
            stored[name] = weight.to(torch.bfloat16).cpu()
            values = weight.cpu().numpy()
            base.add_tensor(tensor, values if values.ndim == 1 else values.astype(np.float16))
            if kind is None:
                quantized.add_tensor(tensor, values if values.ndim == 1 else values.astype(np.float16))
            else:
                raw = write_grid(rounded(CODECS[kind], weight.T.contiguous()))
                quantized.add_tensor(tensor, raw, raw_dtype=GGMLQuantizationType[kind])
        save_file(stored, checkpoint / "model.safetensors", {"format": "pt"})
        for writer in (base, quantized):
            writer.add_block_count(self.config["num_hidden_layers"])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        tokens = np.random.default_rng(0).integers(0, N_TOKENS, (samples + 8, length), np.int32)
        drawn = texts.Calibration(tokens[:samples], tokens[samples:], "random", "", 0)
        return RefineInputs(files[1], files[0], checkpoint, drawn)

    def _tensors(self) -> Iterator[tuple[str, str, torch.Tensor, str | None]]:
        """Name in the checkpoint, name in a GGUF, weight and type of blocks."""
        width, inner, n_layers = (
            self.config[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers")
        )
        kv = width // self.config["num_attention_heads"] * self.config["num_key_value_heads"]
        yield "model.embed_tokens.weight", "token_embd.weight", self._random(N_TOKENS, width), None
        yield "model.norm.weight", "output_norm.weight", torch.ones(width), None
        rows = (("self_attn.q_proj", "attn_q", width, width), ("self_attn.k_proj", "attn_k", kv, width),
                ("self_attn.v_proj", "attn_v", kv, width), ("self_attn.o_proj", "attn_output", width, width),
                ("mlp.gate_proj", "ffn_gate", inner, width), ("mlp.up_proj", "ffn_up", inner, width),
                ("mlp.down_proj", "ffn_down", width, inner))  # fmt: skip
        for i in range(n_layers):
            for module, tensor, n_out, n_in in rows:
                larger = i % 2 == 0 and tensor in ("attn_v", "ffn_down")
                kind, weight = self.types[larger], self._random(n_out, n_in)
                kind = kind if n_in % CODECS[kind].block == 0 else FALLBACKS[kind]
                yield f"model.layers.{i}.{module}.weight", f"blk.{i}.{tensor}.weight", weight, kind
                if tensor in ("attn_q", "attn_k", "attn_v"):
                    yield f"model.layers.{i}.{module}.bias", f"blk.{i}.{tensor}.bias", torch.zeros(n_out), None
            for module, tensor in (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")):
                yield f"model.layers.{i}.{module}.weight", f"blk.{i}.{tensor}.weight", torch.ones(width), None

    def _random(self, *size: int) -> torch.Tensor:
        return (torch.randn(size, device=self.device) * 0.02).bfloat16().float()


def rounded(codec: Codec, weights: torch.Tensor) -> Grid:
    """Weights (columns, rows) in blocks, every one rounded by itself: where llama-quantize would begin."""
    runs = weights.view(-1, codec.block // codec.sub, codec.sub, weights.shape[1])
    lowest, highest = codec.grid[0], codec.grid[-1]
    if codec.dmin is None:
        offset, step = torch.zeros_like(runs[:, :, 0]), runs.abs().amax(2) / max(-lowest, highest)
    else:
        offset = runs.amin(2).clamp(max=0)
        step = (runs.amax(2) - offset) / (highest - lowest)
    d, scale = _shared(step, codec.scale.sorted_values[-1] if codec.scale else None)
    dmin, least = _shared(codec.sign * offset, codec.least.sorted_values[-1] if codec.least else None)
    grid = Grid(codec, torch.zeros_like(weights), d, dmin, scale, least)
    steps, offsets = (t.repeat_interleave(codec.sub, 0) for t in (grid.steps(), grid.offsets()))
    grid.level.copy_(grid.nearest(torch.where(steps != 0, (weights - offsets) / steps, 0)))
    return grid


def _shared(values: torch.Tensor, largest: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Values as a float16 for each block, and an integer for each run if there are some."""
    if largest is None:
        return values.half().float(), torch.ones_like(values)
    shared = (values.amax(1, keepdim=True) / largest).half().float()
    return shared, torch.where(shared != 0, values / shared, 0).round_().clamp_(0, largest)


if __name__ == "__main__":
    main()
