"""The chat templates beside this file, with the tokens of the models whose shape they have."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path

from ggufkit.modelfile import ChatMeta, LearnedTemplate, to_go_template

HERE = Path(__file__).parent
TODAY = date(2026, 3, 5)
CHATML = ("<|endoftext|>", "<|im_end|>", False)
LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>", True)
SPM = ("<s>", "</s>", True)
GEMMA = ("<bos>", "<eos>", True)
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", True)

TOKENS = {
    **dict.fromkeys(("chatml", "qwen25", "qwen3", "smollm2", "phi4", "braces", "plain"), CHATML),
    **dict.fromkeys(("llama3", "llama31", "llama32"), LLAMA3),
    **dict.fromkeys(("llama2", "mistral", "mistral3", "zephyr", "alpaca"), SPM),
    **dict.fromkeys(("gemma", "gemma3"), GEMMA),
    **dict.fromkeys(("deepseek-v2", "deepseek-r1", "deepseek-v3"), DEEPSEEK),
    "phi3": ("<s>", "<|endoftext|>", True),
}
"""BOS, EOS and whether the tokenizer adds BOS, by template."""

REFUSED = tuple(sorted(path.stem for path in (HERE / "refused").glob("*.jinja")))


def meta(name: str) -> ChatMeta:
    """A model with a template of the catalog."""
    folder = HERE / "refused" if name in REFUSED else HERE
    bos, eos, add_bos = TOKENS.get(name, CHATML)
    source = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatMeta(name, "test", source.rstrip("\n"), bos, eos, add_bos, (eos,))


@cache
def converted(name: str) -> LearnedTemplate:
    """Its conversion, made once for all tests."""
    return to_go_template(meta(name), TODAY)
