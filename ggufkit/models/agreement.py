"""Do config.json, tokenizer and weights speak of one model? What can be told of any architecture, in milliseconds.

What only transformers knows of an architecture is compared by `llama.implied`, in the converter's process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError, TokenizerError
from ggufkit.core.jsonfile import read_json
from ggufkit.llama.launcher import ORIGINAL
from ggufkit.models.checkpoint import read_config, stored_tensors
from ggufkit.models.hyperparameters import of_text

Shapes = Mapping[str, tuple[int, ...]]

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d{1,6})\.")
_EMBEDDING = re.compile(r"(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight")
_TOKENIZER_BYTES = 256 << 20
# A text model may share the tokenizer of its family; nobody gives it the tokens that stand for images.
_OF_IMAGES = ("<image_soft_token>",)
_NOT_OF_ONE_MODEL = "A shard is missing, or config.json is another model's: download it again."
_NOT_RESIZED = (
    "The embedding was not resized when tokens were added: call model.resize_token_embeddings(len(tokenizer)) and save the "
    "model again. Or it is another model's tokenizer: download it again."
)


_UNREADABLE = ("awq", "bitsandbytes")
"""Quantization methods that llama.cpp's converter never unpacked. Of others it says itself which it can (GPTQ, FP8)."""


@dataclass(frozen=True)
class _Added:
    id: int
    content: str = ""


@dataclass(frozen=True)
class _Vocabulary:
    vocab: dict[str, int] | list[Any] | None = None


@dataclass(frozen=True)
class _Tokenizer:
    """tokenizer.json, as far as it counts tokens."""

    model: _Vocabulary = _Vocabulary()
    added_tokens: list[_Added] = field(default_factory=list)


@dataclass(frozen=True)
class _TokenizerConfig:
    added_tokens_decoder: dict[str, Any] = field(default_factory=dict)


def require_agreement(path: Path, *, allow_losses: bool = False) -> Shapes:
    """Compare what a checkpoint says of itself in several places.

    Args:
        allow_losses: accept tokens without a row in the embedding, and another chat template than transformers'.

    Returns:
        The shapes of its tensors by name.

    Raises:
        CheckpointError: it is quantized so that no converter reads it; a layer is missing, or rows of the embedding.
        TokenizerError: there are tokens without a row in the embedding, or two chat templates.
    """
    config = read_config(path)
    _require_unpacked(path, config)
    shapes = {tensor.name: tensor.shape for tensor in stored_tensors(path)}
    _require_layers(path, config, shapes)
    rows = of_text(config, "vocab_size")
    if rows is not None:
        _require_rows(path, rows, shapes)
        if not allow_losses:
            _require_tokens_below(path, rows)
    if not allow_losses:
        _require_one_template(path)
    return shapes


def ids_of_images(path: Path) -> list[int]:
    """Tokens that a text model has from its family, and needs no rows for."""
    return [i for i, token, _ in _last_tokens(path) if token in _OF_IMAGES]


def _require_unpacked(path: Path, config: Mapping[str, Any]) -> None:
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method in _UNREADABLE:
        message = f"{path} is quantized already: llama.cpp's converter does not read {method}."
        raise CheckpointError(message, hint=ORIGINAL)


def _require_layers(path: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    layers = of_text(config, "num_hidden_layers") or of_text(config, "n_layer") or 0
    there = {int(number) for name in shapes for number in _LAYER.findall(name)}
    missing = [i for i in range(layers) if i not in there]
    # Layers that differ from each other may be without any tensor.
    if missing and there and "block_configs" not in config:
        shown = ", ".join(map(str, missing[:4])) + (" …" if len(missing) > 4 else "")
        message = f"{path} has no weights for layers that its config.json has: {shown}."
        raise CheckpointError(message, hint=_NOT_OF_ONE_MODEL)


def _require_rows(path: Path, rows: int, shapes: Shapes) -> None:
    tables = [(name, shape) for name, shape in shapes.items() if _EMBEDDING.search(name) and len(shape) == 2]
    if len(tables) == 1 and tables[0][1][0] < rows:
        name, shape = tables[0]
        message = f"{name} of {path} has {shape[0]:,} rows where its config.json has a vocab_size of {rows:,}."
        raise CheckpointError(message, hint=_NOT_RESIZED)


def _require_tokens_below(path: Path, rows: int) -> None:
    beyond = [(i, token, file) for i, token, file in _last_tokens(path) if i >= rows and token not in _OF_IMAGES]
    if beyond:
        i, token, file = max(beyond)
        message = (
            f"{path / file} has the token {token!r} with the id {i:,}; the vocab_size in config.json is {rows:,}."
        )
        raise TokenizerError(message, hint=_NOT_RESIZED)


def _require_one_template(path: Path) -> None:
    """Of two chat templates transformers takes the file, llama.cpp's converter what tokenizer_config.json has."""
    file, config = path / "chat_template.jinja", path / "tokenizer_config.json"
    settings = read_json(config, dict[str, Any], TokenizerError) if config.is_file() else {}
    if "chat_template" not in settings or not file.is_file():
        return
    files = {"default": file, **{f.stem: f for f in sorted((path / "additional_chat_templates").glob("*.jinja"))}}
    there = _named(settings["chat_template"])
    other = [f for name, f in files.items() if there.get(name, "").strip() != _text_of(f).strip()]
    if other:
        message = (
            f"{other[0]} is not the chat template that {config.name} has: transformers takes the one, llama.cpp's "
            "converter the other."
        )
        hint = f'Keep the one that is right: take "chat_template" out of {config.name}, or remove the file.'
        raise TokenizerError(message, hint=f"{hint} With --allow-losses the GGUF gets that of {config.name}.")


def _named(templates: object) -> dict[str, str]:
    """The chat templates of a tokenizer_config.json by name: one, or a list of named ones."""
    rows = templates if isinstance(templates, list) else [{"name": "default", "template": templates}]
    return {str(row.get("name")): str(row.get("template") or "") for row in rows if isinstance(row, dict)}


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file} is not UTF-8.", hint="Download it again.") from error


def _last_tokens(path: Path) -> Iterator[tuple[int, str, str]]:
    """Ids, tokens and the file that has them: all that were added, and the last of each vocabulary."""
    if (path / (name := "tokenizer.json")).is_file():
        tokenizer = read_json(path / name, _Tokenizer, TokenizerError, limit=_TOKENIZER_BYTES)
        vocab = tokenizer.model.vocab
        if isinstance(vocab, list):
            yield len(vocab) - 1, "", name
        elif vocab:
            yield (*max((i, token) for token, i in vocab.items()), name)
        yield from ((token.id, token.content, name) for token in tokenizer.added_tokens)
    elif (path / (name := "tokenizer.model")).is_file():
        yield _pieces(path / name) - 1, "", name
    if (path / (name := "added_tokens.json")).is_file():
        added = read_json(path / name, dict[str, int], TokenizerError)
        yield from ((i, token, name) for token, i in added.items())
    if (path / (name := "tokenizer_config.json")).is_file():
        decoder = read_json(path / name, _TokenizerConfig, TokenizerError).added_tokens_decoder
        for number, token in decoder.items():
            if number.isdecimal() and isinstance(token, dict):
                yield int(number[:12]), str(token.get("content", "")), name


def _pieces(file: Path) -> int:
    """How many tokens a SentencePiece model has; 0 if it is none, or SentencePiece is not installed."""
    try:
        from sentencepiece import SentencePieceProcessor

        return int(SentencePieceProcessor(str(file)).get_piece_size())
    except (ImportError, OSError, RuntimeError):
        return 0
