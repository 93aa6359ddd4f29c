"""What a GGUF says about its chat: template, special tokens, context length, sampling, license."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from ggufkit.modelfile.conversation import Json

_CONTROL, _USER_DEFINED = 3, 4

# llama.cpp's own defaults where a GGUF does not say: tokenizer models, and BPE pre-tokenizers that add BOS.
# Source: `src/llama-vocab.cpp`.
_ADDS_BOS_MODELS = frozenset({"llama", "bert"})
_ADDS_BOS_PRE = frozenset(
    ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"]
) | {"tekken", "chameleon"}
_DEFAULT_IDS = {"llama": {"bos": 1, "eos": 2}, "gpt2": {"bos": 11, "eos": 11}}


@dataclass(frozen=True)
class ChatMeta:
    """What the Modelfile of a model is made from.

    `end_tokens` are the texts of the tokens that end a turn, `special_tokens` those of all control tokens.
    `kv_bytes_per_token` is the size of an F16 KV cache per token of context.
    """

    name: str
    architecture: str
    chat_template: str | None
    bos_token: str = ""
    eos_token: str = ""
    add_bos: bool = False
    end_tokens: tuple[str, ...] = ()
    special_tokens: frozenset[str] = frozenset()
    context_length: int | None = None
    kv_bytes_per_token: int | None = None
    license: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)


def read_meta(metadata: Mapping[str, Json], generation: Mapping[str, Json] | None = None) -> ChatMeta:
    """Gather what a Modelfile needs from a GGUF's metadata and the model's `generation_config.json`, if any.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    generation = generation or {}
    tokens = _list(metadata.get("tokenizer.ggml.tokens"))
    named = _named_tokens(metadata, tokens)
    ends = [named["eos"], named["eot"], named["eom"]]
    ends += [_token(tokens, index) for index in _list(generation.get("eos_token_id"))]
    arch = str(metadata.get("general.architecture", "unknown"))
    template, context = metadata.get("tokenizer.chat_template"), metadata.get(f"{arch}.context_length")
    return ChatMeta(
        name=str(metadata.get("general.name") or arch),
        architecture=arch,
        chat_template=template if isinstance(template, str) and template.strip() else None,
        bos_token=named["bos"],
        eos_token=named["eos"],
        add_bos=_adds_bos(metadata),
        end_tokens=tuple(dict.fromkeys(t for t in ends if t)),
        special_tokens=_special_tokens(metadata, tokens),
        context_length=context if isinstance(context, int) else None,
        kv_bytes_per_token=_kv_bytes_per_token(metadata, arch),
        license=str(metadata["general.license"]) if metadata.get("general.license") else None,
        sampling=_sampling(metadata, generation),
    )


def _named_tokens(metadata: Mapping[str, Json], tokens: list[Json]) -> dict[str, str]:
    """The texts of the tokens that a GGUF gives a part in a conversation; "" for those that it lacks."""
    defaults = _DEFAULT_IDS.get(str(metadata.get("tokenizer.ggml.model")), {})
    names = ("bos", "eos", "eot", "eom")
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id", defaults.get(name)) for name in names}
    return {name: _token(tokens, index) for name, index in ids.items()}


def _special_tokens(metadata: Mapping[str, Json], tokens: list[Json]) -> frozenset[str]:
    kinds = zip(tokens, _list(metadata.get("tokenizer.ggml.token_type")), strict=False)
    return frozenset(str(token) for token, kind in kinds if kind in (_CONTROL, _USER_DEFINED) and token)


def _list(value: Json) -> list[Json]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _token(tokens: list[Json], index: Json) -> str:
    return str(tokens[index]) if isinstance(index, int) and 0 <= index < len(tokens) else ""


def _adds_bos(metadata: Mapping[str, Json]) -> bool:
    stated = metadata.get("tokenizer.ggml.add_bos_token")
    if isinstance(stated, bool):
        return stated
    model, pre = (str(metadata.get(f"tokenizer.ggml.{key}")) for key in ("model", "pre"))
    return model in _ADDS_BOS_MODELS or (model == "gpt2" and pre in _ADDS_BOS_PRE)


def _kv_bytes_per_token(metadata: Mapping[str, Json], arch: str) -> int | None:
    """Two F16 values per layer, KV head and channel: the most that attention keeps for a token."""

    def number(key: str) -> int:
        values = _list(metadata.get(f"{arch}.{key}"))
        return max((v for v in values if isinstance(v, int) and not isinstance(v, bool)), default=0)

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    if min(layers, heads, width) < 1:
        return None
    kv_heads = number("attention.head_count_kv") or heads
    key = number("attention.key_length") or width // heads
    value = number("attention.value_length") or width // heads
    return layers * kv_heads * (key + value) * 2


# Ollama's parameter, generation_config.json's key, the GGUF's key under general.sampling.
_SAMPLING = (
    ("temperature", "temperature", "temp"),
    ("top_k", "top_k", "top_k"),
    ("top_p", "top_p", "top_p"),
    ("min_p", "min_p", "min_p"),
    ("repeat_penalty", "repetition_penalty", "penalty_repeat"),
    ("repeat_last_n", "", "penalty_last_n"),
)


def _sampling(metadata: Mapping[str, Json], generation: Mapping[str, Json]) -> dict[str, float]:
    """Sampling parameters under Ollama's names; greedy decoding is a temperature of 0."""
    found: dict[str, float] = {}
    for name, hf, gguf in _SAMPLING:
        value = generation.get(hf, metadata.get(f"general.sampling.{gguf}"))
        if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
            found[name] = value
    if generation.get("do_sample") is False:
        found["temperature"] = 0
    return found
