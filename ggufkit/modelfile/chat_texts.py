"""Conversations as a text: each rendered by the model's own chat template, one after the other.

The template is a program that somebody else wrote: it runs within limits, in a process of its own, which is this module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from ggufkit.core import confined
from ggufkit.core.errors import CorpusError, InputError, TokenizerError
from ggufkit.core.hashing import remember, sha256_file
from ggufkit.core.jsonfile import read_json
from ggufkit.core.limits import Limits
from ggufkit.core.manifest import PARTIAL
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint, GgufFile, Json
from ggufkit.llama.gguf import read_header
from ggufkit.modelfile.metadata import ChatMeta, read_meta
from ggufkit.modelfile.reference import ChatTemplateError, Reference
from ggufkit.texts.calibration import load_tokenizer
from ggufkit.texts.calibration_text import Part, mixed
from ggufkit.texts.chats import read_chats
from ggufkit.texts.corpus import Corpus

_DAY = date(2025, 1, 1)
"""Today for a template that asks: another one would make another text of the same conversations every day."""
_TURN_S, _LEAST_S, _BYTES_PER_S = 5, 60, 1 << 16
_MEMORY, _TIMES = 1 << 30, 64


@dataclass(frozen=True)
class _Template:
    """What decides how conversations are rendered. `add_bos`: the tokenizer puts a BOS before the whole text by itself."""

    name: str
    template: str
    bos: str
    eos: str
    add_bos: bool

    @property
    def key(self) -> str:
        """Changes with what is made of a conversation."""
        return hashlib.sha256(json.dumps([_DAY.isoformat(), *asdict(self).values()]).encode()).hexdigest()


def calibration(parts: Sequence[Part], model: Checkpoint | GgufFile, reporter: Reporter) -> Corpus:
    """The text to calibrate a model on: conversations rendered, and several texts mixed. Raises as `rendered` does."""
    return mixed([replace(part, text=rendered(part.text, model, reporter)) for part in parts])


def rendered(corpus: Corpus, model: Checkpoint | GgufFile, reporter: Reporter) -> Corpus:
    """A text as it is; one of conversations as the model's own template renders them, with its special tokens.

    Each is what transformers' `apply_chat_template` makes of its messages and tools. Each begins with a BOS where the
    tokenizer adds one to every prompt; the first of the text is left for the tool to add.

    Raises:
        CorpusError: an entry is no conversation, or the template refuses it.
        InputError: the model has no chat template, or it takes time or memory without end.
    """
    if not corpus.chats:
        return corpus
    template = _of_checkpoint(model) if isinstance(model, Checkpoint) else _of_gguf(model.path)
    key = hashlib.sha256(f"{corpus.sha256}{template.key}".encode()).hexdigest()[:16]
    target = cache_dir() / "texts" / f"{corpus.path.stem}-{key}.txt"
    if not target.is_file():
        with reporter.step(f"Rendering {corpus.name} with the chat template of {template.name}"):
            _render(corpus, template, target)
    return Corpus(target, sha256_file(target), target.stat().st_size, corpus.name, special=True)


def _render(corpus: Corpus, template: _Template, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + PARTIAL)
    limits = Limits(
        cpu_s=_LEAST_S + corpus.n_bytes // _BYTES_PER_S,
        memory_bytes=_MEMORY + _TIMES * corpus.n_bytes,
        turn_s=_TURN_S,
    )
    request: Json = {"chats": str(corpus.path), "template": asdict(template), "target": str(partial)}
    try:
        confined.call(__name__, request, limits)
    except confined.Unfinished as ended:
        message = f"The chat template of {template.name} is refused: to render {corpus.name} {ended.reason}."
        raise InputError(message, hint="Take the template of the model's author.") from ended
    digest = sha256_file(partial)
    partial.replace(target)
    remember(target, digest)


def _of_gguf(path: Path) -> _Template:
    meta = read_meta(read_header(path).metadata)
    if meta.chat_template is None:
        raise _without_template(path.name)
    return _Template(path.name, meta.chat_template, meta.bos_token, meta.eos_token, meta.add_bos)


def _of_checkpoint(model: Checkpoint) -> _Template:
    file, config = model.path / "chat_template.jinja", model.path / "tokenizer_config.json"
    told = read_json(config, dict[str, Any], TokenizerError) if config.is_file() else {}
    found = file.read_text(encoding="utf-8") if file.is_file() else _default(told.get("chat_template"))
    if not found.strip():
        raise _without_template(model.name)
    adds_bos = load_tokenizer(model.path).bos is not None
    return _Template(model.name, found, _text(told.get("bos_token")), _text(told.get("eos_token")), adds_bos)


def _default(template: object) -> str:
    """Of several templates the one called so."""
    rows = template if isinstance(template, list) else [{"name": "default", "template": template}]
    return next(
        (str(r.get("template") or "") for r in rows if isinstance(r, dict) and r.get("name") == "default"), ""
    )


def _text(token: object) -> str:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else ""


def _without_template(name: str) -> InputError:
    hint = "Give plain text, or the instruction-tuned model."
    return InputError(f"{name} has no chat template to render conversations with.", hint=hint)


def _work(asked: dict[str, Any]) -> Json:
    """The work of the other process."""
    template, chats = _Template(**asked["template"]), Path(asked["chats"])
    meta = ChatMeta(template.name, "", template.template, template.bos, template.eos)
    reference, lead = Reference(meta, _DAY), template.bos if template.add_bos else ""
    with Path(asked["target"]).open("w", encoding="utf-8", newline="") as file:
        for number, chat in enumerate(read_chats(chats), 1):
            try:
                text = reference.whole(chat.messages, chat.tools)
            except ChatTemplateError as error:
                message = f"Entry {number} of {chats} is refused: {error.message}"
                raise CorpusError(message, hint="Leave it out, or write it as the template wants it.") from error
            begins = lead if number > 1 else ""
            file.write(begins + (text.removeprefix(lead) if lead else text))
    return True


if __name__ == "__main__":
    confined.serve(_work)
