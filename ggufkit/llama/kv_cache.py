"""Types that a KV cache may have, and which models can have which. Pure functions."""

from __future__ import annotations

from ggufkit.core.errors import UsageError
from ggufkit.core.records import F16
from ggufkit.llama.gguf import GgufHeader, ggml_type_by_name

TYPES = ("f32", "bf16", F16, "q8_0", "q5_1", "q5_0", "iq4_nl", "q4_1", "q4_0")
"""What llama.cpp's `--cache-type-k` and `--cache-type-v` take, the largest first."""


def head_widths(header: GgufHeader) -> tuple[int, int]:
    """Elements of a key and of a value of one head."""
    heads = header.hparam("attention.head_count", 1)
    per_head = header.hparam("embedding_length") // max(heads, 1)
    return header.hparam("attention.key_length", per_head), header.hparam("attention.value_length", per_head)


def instead_of_f16(n_bytes: int, kv_type: str) -> int:
    """Bytes of what takes `n_bytes` in F16."""
    block, block_bytes = ggml_type_by_name(kv_type.upper())
    return n_bytes * block_bytes // (2 * block)


def require_possible(header: GgufHeader, kv_type: str, name: str) -> None:
    """Raise UsageError where the heads of the model `name` are no whole number of a type's blocks."""
    block, _ = ggml_type_by_name(kv_type.upper())
    odd = next((width for width in head_widths(header) if width % block), None)
    if odd is not None:
        raise UsageError(
            f"{name} has heads of {odd} elements, and a KV cache in {kv_type} has blocks of {block}: llama.cpp cannot "
            "compute with it.",
            hint=f"Leave {kv_type} out.",
        )
