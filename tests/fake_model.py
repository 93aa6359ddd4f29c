"""A GGUF of a model that is none, but has a vocabulary and shapes as one; made in a millisecond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType

TOKENS = ("<s>", "a", "b", "ab", "<unused>")
KINDS = (TokenType.CONTROL, *[TokenType.NORMAL] * 3, TokenType.UNUSED)


def write(path: Path, **more: Any) -> Path:
    """A file of a model; `more` changes it: arch, tokens, kinds, heads, width, layers, tied, rope, dtype."""
    how: dict[str, Any] = {
        "arch": "llama", "tokens": TOKENS, "kinds": KINDS, "heads": 2, "width": 32, "layers": 2, "tied": False,
        "rope": False, "kind": "gpt2", "type": GGMLQuantizationType.Q8_0,
    } | more  # fmt: skip
    writer = gguf.GGUFWriter(path, how["arch"])
    writer.add_head_count(how["heads"])
    writer.add_vocab_size(len(how["tokens"]))
    writer.add_tokenizer_model(how["kind"])
    writer.add_token_list(list(how["tokens"]))
    writer.add_token_types(list(how["kinds"]))
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(how["tokens"]), how["width"])}
    shapes |= {} if how["tied"] else {"output": (len(how["tokens"]), how["width"])}
    shapes |= {f"blk.{layer}.attn_q": (how["width"], how["width"]) for layer in range(how["layers"])}
    shapes |= {"rope_freqs": (16,)} if how["rope"] else {}
    for name, shape in shapes.items():
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        if name != "rope_freqs":
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, how["type"]), raw_dtype=how["type"])
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
