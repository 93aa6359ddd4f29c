"""Does a fresh build compute on its device, and as the CPU does? Answered with a tiny random model, in a second."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.records import Toolchain
from ggufkit.llama import argv, logs
from ggufkit.llama.argv import Compute, Excerpt

TOLERANCE = 0.01
_SEED, _N_VOCAB = 7, 259


@dataclass(frozen=True)
class Shape:
    """Sizes of a random llama, whose vocabulary is bytes."""

    width: int = 256
    layers: int = 2
    heads: int = 4
    inner: int = 512
    context: int = 128

    @property
    def n_params(self) -> int:
        """Weights of its matrices that every token is multiplied with."""
        per_layer = 4 * self.width**2 + 3 * self.width * self.inner
        return self.layers * per_layer + _N_VOCAB * self.width


_SMALL = Shape()


def self_check(tools: Toolchain) -> None:
    """Evaluate a tiny model on the backend's device and on the CPU, or there alone.

    Raises:
        ToolError: nothing was computed.
        ToolchainError: the device was not used, or its result differs from the CPU's by more than 1 %.
    """
    with tempfile.TemporaryDirectory(prefix="ggufkit-check-") as directory:
        model, text = write_model(Path(directory) / "tiny.gguf", _SMALL), Path(directory) / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. 0123456789\n" * 20)
        on_cpu, _ = _evaluate(tools, model, text, Compute("cpu", threads=2))
        if tools.backend == "cpu":
            return
        on_device, placement = _evaluate(tools, model, text, Compute(tools.backend, threads=2))
    if not placement.layers_on_gpu:
        raise ToolchainError(
            f"The build for {tools.backend} runs, but puts nothing on a device.",
            hint="Is the GPU visible (nvidia-smi, CUDA_VISIBLE_DEVICES) and its driver working?",
        )
    if abs(on_device - on_cpu) > TOLERANCE * on_cpu:
        raise ToolchainError(
            f"The build for {tools.backend} computes wrongly: perplexity {on_device} where the CPU gives {on_cpu}.",
            hint="Update the driver, or use --backend cpu.",
        )


def _evaluate(tools: Toolchain, model: Path, text: Path, compute: Compute) -> tuple[float, logs.Placement]:
    output = process.run(argv.perplexity(tools, model, Excerpt(text, _SMALL.context, 4), compute))
    failures.require_success(output, f"checking the build for {tools.backend}")
    return logs.parse_perplexity(output).ppl, logs.parse_placement(output)


def write_model(path: Path, shape: Shape) -> Path:
    """A llama of random weights."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(_SEED)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = gguf.TokenType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256])
    for name, size in _sizes(shape, len(tokens)).items():
        values = rng.standard_normal(size, dtype=np.float32) * 0.1 if len(size) > 1 else np.ones(size)
        writer.add_tensor(f"{name}.weight", values.astype(np.float16 if len(size) > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _sizes(shape: Shape, n_vocab: int) -> dict[str, tuple[int, ...]]:
    n, inner = shape.width, shape.inner
    sizes: dict[str, tuple[int, ...]] = {"token_embd": (n_vocab, n), "output": (n_vocab, n), "output_norm": (n,)}
    for i in range(shape.layers):
        block = {
            "attn_norm": (n,), "ffn_norm": (n,), "attn_q": (n, n), "attn_k": (n, n), "attn_v": (n, n),
            "attn_output": (n, n), "ffn_gate": (inner, n), "ffn_up": (inner, n), "ffn_down": (n, inner),
        }  # fmt: skip
        sizes |= {f"blk.{i}.{name}": size for name, size in block.items()}
    return sizes
