"""What a user calls a model: an alias, a Hugging Face id, or a ModelScope id."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ggufkit.core.errors import SourceError, UsageError
from ggufkit.hub import huggingface, modelscope
from ggufkit.hub.listing import Repo
from ggufkit.hub.obtain import Place

_ID = re.compile(r"(?P<ms>ms:)?(?P<id>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[^@\s]+))?")
_NO_REVISION = re.compile(r"\.\.|^/|[\0-\x20\x7f-\x9f~^:?*\[\\]")
"""What git has in no name: some of it would lead out of the cache."""


@dataclass(frozen=True)
class Alias:
    """A short name. `n_params` counts all weights; `modelscope` is None where that hub does not have it."""

    name: str
    family: str
    architecture: str
    n_params: int
    huggingface: str
    modelscope: str | None


@cache
def aliases() -> tuple[Alias, ...]:
    """All aliases, in the order of the data file."""
    rows = json.loads(resources.files("ggufkit.hub").joinpath("aliases.json").read_text(encoding="utf-8"))
    return tuple(Alias(family=family, **row) for family, rows_of in rows.items() for row in rows_of)


def find_alias(name: str) -> Alias | None:
    """The alias of a name; punctuation, case and a final "-instruct" do not matter: `Llama-3.1-8B-Instruct`."""
    wanted = _key(name)
    return next((a for a in aliases() if _key(a.name) == wanted), None)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9./@]", "", re.sub(r"[-_](instruct|it|chat)$", "", name.lower()))


def matching(pattern: str = "") -> list[Alias]:
    """The aliases whose name, ids, family or architecture hold every word of `pattern`."""
    words = pattern.lower().split()
    return [a for a in aliases() if all(w in " ".join(map(str, vars(a).values())).lower() for w in words)]


def places(model: str, source: str = "auto") -> list[Place]:
    """Where a model may be had, the best place first; nothing if it is not a hub's name at all.

    Args:
        source: auto, hf or modelscope.

    Raises:
        UsageError: `ms:` together with hf, or a revision that can be none.
    """
    name, _, revision = model.partition("@")
    if _NO_REVISION.search(revision):
        raise UsageError(
            f"{revision!r} is no branch, tag or commit.",
            hint="Write MODEL@REVISION, or MODEL alone for the newest.",
        )
    alias = find_alias(name)
    if alias is not None:
        return _both(alias.huggingface, alias.modelscope, revision or None, source)
    match = _ID.fullmatch(model)
    if match is None:
        return []
    if match["ms"]:
        if source == "hf":
            raise UsageError(
                f"{model} names ModelScope, --from names Hugging Face.", hint="Leave one of them out."
            )
        return [Place(modelscope, Repo(match["id"], match["revision"]))]
    twin = next((a.modelscope for a in aliases() if a.huggingface == match["id"]), None)
    return _both(match["id"], twin, match["revision"], source)


def _both(hf_id: str, ms_id: str | None, revision: str | None, source: str) -> list[Place]:
    """A revision means something on the hub that it was given for only."""
    here = Place(huggingface, Repo(hf_id, revision))
    if source == "hf":
        return [here]
    there = Place(modelscope, Repo(ms_id or hf_id, revision))
    if source == "modelscope":
        return [there]
    return [here] if ms_id is None or revision is not None else [here, there]


def on_huggingface(source: str) -> str:
    """The id to name as a card's base model: Hugging Face's, where the aliases know it for one of ModelScope."""
    if not source.startswith("ms:"):
        return source
    given = source.removeprefix("ms:")
    return next((a.huggingface for a in aliases() if a.modelscope == given), given)


def on_modelscope(source: str) -> str:
    """The same for a card on ModelScope."""
    if source.startswith("ms:"):
        return source.removeprefix("ms:")
    return next((a.modelscope for a in aliases() if a.huggingface == source and a.modelscope), source)


def unknown(model: str) -> SourceError:
    """The error for a name that is neither a file, a directory nor a hub's."""
    near = difflib.get_close_matches(model.lower(), [a.name for a in aliases()], 3)
    hint = "Give a checkpoint directory, a .gguf file, a hub's OWNER/NAME, or an alias (`ggufkit models`)."
    if near:
        hint = f"Did you mean {', '.join(near)}? " + hint
    return SourceError(f"There is no model {model!r}: no such file, directory or alias.", hint=hint)
