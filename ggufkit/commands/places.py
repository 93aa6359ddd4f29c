"""Where results go by default, and the steps' usual ways to a model and a text."""

from __future__ import annotations

import os
from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.core.paths import user_path
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile
from ggufkit.models import dequantized, sources
from ggufkit.models.lora import merge
from ggufkit.request import CalibrationOptions, Source
from ggufkit.texts.calibration import Calibration, draw, load_tokenizer, read_texts
from ggufkit.texts.corpus import Corpus


def beside(gguf: Path) -> Path:
    """The directory that the user named with a file: where a hub's cache keeps what its links point to is no place."""
    return gguf.absolute().parent


def beside_model(model: str) -> Path:
    """The directory that the user named with a local MODEL; the current one for a hub's."""
    if not sources.is_local(model):
        return Path()
    return Path(os.path.abspath(user_path(model))).parent  # noqa: PTH100 - links stay as the user named them


def checkpoint_of(model: str, source: Source, reporter: Reporter, hint: str) -> Checkpoint:
    """The checkpoint that a model is, its adapter merged. Raises InputError, with `hint`, where it is a GGUF."""
    found = sources.resolve(model, source, reporter)
    if isinstance(found, GgufFile):
        raise InputError(f"{model} is a GGUF already.", hint=hint)
    if source.lora is not None:
        return merge(dequantized.floats(found, reporter), source.lora, reporter)
    return found


def floats_of(model: str, source: Source, reporter: Reporter, hint: str) -> Checkpoint:
    """The same, made one of floats where it is quantized: what runs layer by layer. Raises InputError likewise."""
    return dequantized.floats(checkpoint_of(model, source, reporter, hint), reporter)


def drawn(checkpoint: Checkpoint, text: Corpus, how: CalibrationOptions) -> Calibration:
    """Samples of a text, as tokens of a checkpoint."""
    return draw(
        read_texts(text.path),
        load_tokenizer(checkpoint.path, special=text.special),
        how.sampling,
        source=text.name,
    )
