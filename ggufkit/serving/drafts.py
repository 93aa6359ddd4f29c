"""What drafts for a served model, whose guesses it verifies: a small model, or layers that predict further tokens.

llama-server serves without a word where a draft does not belong to its model, only no faster: so they are compared here,
token by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core.errors import InputError, ToolOutputError, UsageError
from ggufkit.core.jsonfile import parse_json
from ggufkit.llama import evaluates, mtp
from ggufkit.llama.gguf import GgufHeader, read_gguf, read_header
from ggufkit.llama.kinship import Vocabulary, vocabulary
from ggufkit.llama.server_argv import Drafting

_FIRST_COMPARED, _PADDING = 5, 128
"""llama.cpp lets the first tokens have other names, and a vocabulary be longer by so many. Source: `common/speculative.cpp`,
`common_speculative_are_compatible`."""
_ENDS = (("add_bos_token", "bos_token_id", "begin"), ("add_eos_token", "eos_token_id", "end"))
_OF_ITS_FAMILY = "Give a small model of the same vocabulary: of the same family and generation."
_SHOWN = 60


@dataclass(frozen=True)
class DraftOptions:
    """What is to draft: another GGUF, or the model's own MTP layers; and how many tokens at once, at most and at least.

    None of the two: nothing drafts. None of a number: llama-server's own.
    """

    model: Path | None = None
    mtp: bool = False
    most: int | None = None
    least: int | None = None

    @property
    def are_wanted(self) -> bool:
        """Whether anything is to draft."""
        return self.model is not None or self.mtp


def choose(header: GgufHeader, wanted: DraftOptions) -> Drafting | None:
    """What llama-server is told of a draft; None where nothing drafts.

    Raises:
        UsageError: options that contradict each other.
        InputError, GgufError: what is to draft is not there, or is of another vocabulary.
    """
    if wanted.model is not None and wanted.mtp:
        message = "--draft and --mtp both say what drafts."
        raise UsageError(message, hint="Choose one. MTP layers in a file of their own are a --draft.")
    if not wanted.are_wanted:
        if wanted.most is not None or wanted.least is not None:
            message = "--draft-max and --draft-min are about drafts, and nothing drafts."
            raise UsageError(message, hint="Give --draft GGUF, or --mtp.")
        return None
    if (wanted.least or 0) > (wanted.most or 1 << 30):
        raise UsageError("--draft-min is more than --draft-max.", hint="Give a smaller one.")
    if evaluates.embeds(header):
        raise InputError(
            f"{header.path.name} gives embeddings: there is nothing to draft.", hint="Serve it without."
        )
    if wanted.model is None:
        _require_layers(header)
        return Drafting(None, True, wanted.most, wanted.least)
    read_gguf(wanted.model)
    draft = read_header(wanted.model)
    require_draft(draft, header)
    return Drafting(draft.path, mtp.drafts_alone(draft), wanted.most, wanted.least)


def _require_layers(header: GgufHeader) -> None:
    if not mtp.layers(header):
        message = f"{header.path.name} has no MTP layers to draft with."
        hint = "`ggufkit convert` keeps those of a checkpoint that has some. Or give a small model with --draft."
        raise InputError(message, hint=hint)


def require_draft(draft: GgufHeader, model: GgufHeader) -> None:
    """Whether a file can draft for a model.

    Raises:
        InputError: it is of another vocabulary, and the first token that differs is named; or it is no model of text.
    """
    why = (
        _other_model(draft, model)
        or _other_vocabulary(vocabulary(draft), vocabulary(model))
        or _other_ends(draft, model)
    )
    if why is not None:
        raise InputError(f"{draft.path.name} cannot draft for {model.path.name}: {why}.", hint=_OF_ITS_FAMILY)


def _other_model(draft: GgufHeader, model: GgufHeader) -> str | None:
    if not evaluates.generates(draft) or evaluates.embeds(draft):
        return f"it is an encoder ({draft.architecture}), which predicts no next token"
    if not mtp.drafts_alone(draft):
        return None
    if draft.architecture != model.architecture:
        return f"its MTP layers are of {draft.architecture}, the model is {model.architecture}"
    widths = [header.hparam("embedding_length") for header in (draft, model)]
    if widths[0] != widths[1]:
        return f"its MTP layers are {widths[0]:,} wide, the model {widths[1]:,}"
    return None


def _other_vocabulary(draft: Vocabulary, model: Vocabulary) -> str | None:
    if draft.kind != model.kind:
        return f"its tokenizer is {draft.kind}, that of the model {model.kind}"
    n_common = min(len(draft), len(model))
    for i in range(_FIRST_COMPARED, n_common):
        if draft.tokens[i] != model.tokens[i]:
            return (
                f"its token {i:,} is {draft.tokens[i][:_SHOWN]!r}, that of the model {model.tokens[i][:_SHOWN]!r}"
            )
    if abs(len(draft) - len(model)) > _PADDING:
        return f"it has {len(draft):,} tokens, the model {len(model):,}; up to {n_common:,} they are the same"
    return None


def _other_ends(draft: GgufHeader, model: GgufHeader) -> str | None:
    """Whether texts begin or end with other tokens, as far as both files tell; else llama.cpp knows by the tokenizer."""
    for adds, which, where in _ENDS:
        both = [header.metadata.get(f"tokenizer.ggml.{adds}") for header in (draft, model)]
        if None in both:
            continue
        own, its = (h.metadata.get(f"tokenizer.ggml.{which}") if h.metadata[f"tokenizer.ggml.{adds}"] else None
                    for h in (draft, model))  # fmt: skip
        if own != its:
            return f"its texts {where} with {_said(own)}, those of the model with {_said(its)}"
    return None


def _said(token: object) -> str:
    return "no token added" if token is None else f"token {token}"


def are_used(slots: bytes) -> bool:
    """Whether llama-server drafts, by what it says of its slots."""
    said = parse_json(slots, list[dict[str, Any]], "The list of slots", ToolOutputError, hint="See the log.")
    return any(slot.get("speculative") is True for slot in said)
