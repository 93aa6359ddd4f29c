"""A tiny GGUF whose answers are known: its layers add nothing, so that the last token alone decides the next one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

_NOTHING = ("attn_output.weight", "ffn_down.weight")


def prefer(base: Path, target: Path, words: Mapping[str, float], after: tuple[str, str] = ("", "")) -> Path:
    """A copy of the tiny Llama that gives tokens these logits, and all others 0, after any token.

    Args:
        words: tokens by their text, as the vocabulary has them: "Ġfox".
        after: a token, and one that is likelier after it than after others.
    """
    shutil.copyfile(base, target)
    reader = gguf.GGUFReader(target, "r+")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, data in tensors.items():
        if name.endswith(_NOTHING) or name in ("token_embd.weight", "output.weight"):
            data[:] = 0
    embedding, output = tensors["token_embd.weight"], tensors["output.weight"]
    width = embedding.shape[1]
    embedding[:, 0] = 1
    # The norm makes of an axis alone the square root of the width; of two of them that of half of it each.
    scale = np.sqrt(width)
    for word, logit in words.items():
        output[tokens.index(word), 0] = logit / scale
    before, following = after
    if before:
        embedding[tokens.index(before), 1] = 1
        output[tokens.index(following), 1] = 8 / scale
    del reader
    return target
