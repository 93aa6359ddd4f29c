"""What hubs read of a model card: the fields between its first lines of dashes.

Licence, tags and languages come from the source model, as its GGUF carries them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ggufkit.hub import names
from ggufkit.hub.addresses import Address
from ggufkit.llama import evaluates
from ggufkit.llama.gguf import GgufHeader
from ggufkit.models.lora import split_source
from ggufkit.report.data import Entry

_TAGS = ("gguf", "llama.cpp", "quantized")
_LICENSE_KEYS = {"license": "license", "license_name": "license.name", "license_link": "license.link"}
_LONGEST, _MOST_BRACKETS = 1 << 16, 200
"""More than any card has; PyYAML's time grows with the square of them."""
_FRONT_MATTER = re.compile(r"\A---\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_HUBS = re.compile(r"(ms:)?[\w.-]+/[\w.-]+", re.ASCII)
_OPEN = {"base_model": "OWNER/NAME of the original", "quantized_by": "your name"}


def text(fields: Mapping[str, Any]) -> str:
    """The fields as YAML between dashes, with those that are the user's to fill in as comments."""
    import yaml

    shown = {key: value for key, value in fields.items() if value not in (None, [], "")}
    dumped = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=1000)
    yours = "".join(f"# {field}: {what}\n" for field, what in _OPEN.items() if field not in shown)
    return f"---\n{dumped}{yours}---"


def read(card: str) -> dict[str, Any] | None:
    """The fields of a card; None if there are none that can be read."""
    import yaml

    try:
        match = _FRONT_MATTER.match(card)
        found = match[1] if match else ""
        odd = len(found) > _LONGEST or found.count("[") + found.count("{") > _MOST_BRACKETS
        fields = None if odd else yaml.safe_load(found)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return fields if isinstance(fields, dict) else None


def without(card: str) -> str:
    """A card's text alone."""
    return _FRONT_MATTER.sub("", card, count=1).strip()


def fields(entries: Sequence[Entry], header: GgufHeader, address: Address | None, told: str) -> dict[str, Any]:
    """The fields that follow from the source model, and from the repository that a card is for.

    Args:
        header: of one of the files.
        told: the base model by the user's word, where the files' own origin is not on a hub; "" for none.
    """
    metadata, (source, _) = header.metadata, origin(entries)
    found: dict[str, Any] = {key: metadata.get(f"general.{name}") for key, name in _LICENSE_KEYS.items()}
    found["language"] = metadata.get("general.languages")
    found["base_model"] = _base_model(told or (source if "/" in source else ""), address)
    found["base_model_relation"] = "quantized" if found["base_model"] else None
    found["quantized_by"] = address.owner if address is not None else None
    tags = metadata.get("general.tags")
    found["tags"] = list(dict.fromkeys([*_TAGS, *(str(t) for t in (tags if isinstance(tags, list) else []))]))
    return {
        **{k: v for k, v in found.items() if v is not None},
        "library_name": "gguf",
        "pipeline_tag": "feature-extraction" if evaluates.embeds(header) else "text-generation",
    }


def _base_model(source: str, address: Address | None) -> str | None:
    """The name of the source on the hub that a card is for."""
    on_modelscope = address is not None and address.on_modelscope
    return (names.on_modelscope if on_modelscope else names.on_huggingface)(source) or None


def origin(entries: Sequence[Entry]) -> tuple[str, str]:
    """The hub's name of the source and its commit; "" for what is not known."""
    source = next((e.source for e in entries if e.source), "")
    revision = next((e.revision for e in entries if e.source), "")
    return split_source(source)[0], revision


def is_hubs(source: str) -> bool:
    """Whether a source is a hub's, by its name."""
    return _HUBS.fullmatch(source) is not None
