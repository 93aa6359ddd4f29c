"""Write a tiny Llama with random weights as a GGUF: enough to try every tool on, made without torch.

`python scripts/tiny_gguf.py FILE`; needs numpy and gguf, which ggufkit brings.
"""

from __future__ import annotations

import sys

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

WIDTH, INNER, LAYERS, HEADS, CONTEXT = 256, 512, 2, 4, 512
END = "<|endoftext|>"


def byte_tokens() -> list[str]:
    """GPT-2's letter for each byte: itself if it can be seen, else one from U+0100 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + i) for i in range(len(hidden))]


def write(path: str) -> None:
    """Write the header, the vocabulary of single bytes and one merge, and the weights, half precision."""
    tokens = [*byte_tokens(), "Ġt", END]
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL])
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        shapes |= {f"{name}attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {
            f"{name}ffn_gate": (INNER, WIDTH),
            f"{name}ffn_up": (INNER, WIDTH),
            f"{name}ffn_down": (WIDTH, INNER),
        }
        shapes |= {f"{name}attn_norm": (WIDTH,), f"{name}ffn_norm": (WIDTH,)}
    random = np.random.default_rng(0)
    for tensor, shape in shapes.items():
        weight = np.ones(shape, np.float32) if len(shape) == 1 else random.normal(0, WIDTH**-0.5, shape)
        writer.add_tensor(f"{tensor}.weight", weight.astype(np.float32 if len(shape) == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
