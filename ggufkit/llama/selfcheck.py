"""Does a fresh build compute on its device, and as the CPU does? Answered with a tiny random model, in a second."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.errors import ToolchainError
from ggufkit.core.records import Toolchain
from ggufkit.llama import argv, logs
from ggufkit.llama.argv import Compute, Excerpt

TOLERANCE = 0.01
_WIDTH, _LAYERS, _HEADS, _INNER, _CONTEXT = 256, 2, 4, 512, 128
_SEED = 7


def self_check(tools: Toolchain) -> None:
    """Evaluate a tiny model on the backend's device and on the CPU.

    Raises:
        ToolchainError: the device was not used, or its result differs from the CPU's by more than 1 %.
    """
    with tempfile.TemporaryDirectory(prefix="ggufkit-check-") as directory:
        model, text = _write_model(Path(directory) / "tiny.gguf"), Path(directory) / "text.txt"
        text.write_text("The quick brown fox jumps over the lazy dog. 0123456789\n" * 20)
        on_device, placement = _evaluate(tools, model, text, Compute(tools.backend, threads=2))
        on_cpu, _ = _evaluate(tools, model, text, Compute("cpu", threads=2))
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
    output = process.run(argv.perplexity(tools, model, Excerpt(text, _CONTEXT, 4), compute))
    failures.require_success(output, f"checking the build for {tools.backend}")
    return logs.parse_perplexity(output).ppl, logs.parse_placement(output)


def _write_model(path: Path) -> Path:
    """A llama of a quarter million random weights with a vocabulary of bytes."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(_SEED)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = gguf.TokenType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256])
    for name, shape in _shapes(len(tokens)).items():
        values = rng.standard_normal(shape) * 0.1 if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float16 if len(shape) > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(n_vocab: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (n_vocab, _WIDTH), "output": (n_vocab, _WIDTH), "output_norm": (_WIDTH,)
    }  # fmt: skip
    for i in range(_LAYERS):
        block = {
            "attn_norm": (_WIDTH,), "ffn_norm": (_WIDTH,), "attn_q": (_WIDTH, _WIDTH), "attn_k": (_WIDTH, _WIDTH),
            "attn_v": (_WIDTH, _WIDTH), "attn_output": (_WIDTH, _WIDTH), "ffn_gate": (_INNER, _WIDTH),
            "ffn_up": (_INNER, _WIDTH), "ffn_down": (_WIDTH, _INNER),
        }  # fmt: skip
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    return shapes
