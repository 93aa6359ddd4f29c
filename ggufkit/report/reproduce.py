"""The `ggufkit build` commands that give the files and measurements of a report again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ggufkit import request
from ggufkit.core import variants
from ggufkit.core.records import Json
from ggufkit.llama import quants
from ggufkit.models.lora import split_source
from ggufkit.report.data import Entry

_DECIDING = (
    "base_type", "lora", "pre", "allow_token_mismatch", "allow_losses", "mmproj", "tensor_type", "output_tensor_type",
    "token_embedding_type", "leave_output_tensor", "pure", "override_kv", "prune_layers", "effort", "types_allowed",
    "calibration", "calibration_samples", "seed", "imatrix", "process_output", "awq_engine", "awq_objective", "awq_dtype",
    "awq_per_type", "distill", "variant_option", "allow_requantize", "corpus", "ctx", "kv_types", "chunks", "precision",
    "eval", "kld", "bench", "bench_reps", "metrics", "tasks", "tasks_samples", "ngl",
)  # fmt: skip


def _spelt(name: str) -> tuple[str, Json]:
    """An option as it is typed to depart from its default, and that."""
    default, words = request.default(name), name.replace("_", "-")
    if default is True:
        return f"--no-{words}", False
    return f"--{words}", None if default in ((), "auto") else default


_EITHER = ("--check-function", "--no-check-function", "--no-mtp")
"""None by default: the model decides."""

DEFAULTS: Mapping[str, Json] = {**dict(map(_spelt, _DECIDING)), **dict.fromkeys(_EITHER, False)}
"""The options of `ggufkit build` that decide its results, in the order to print them. What the machine decides is
not among them: --backend, --threads, --scratch-limit."""


_MEASURING = ("--corpus", "--ctx", "--kv-types", "--chunks", "--precision", "--ngl")
"""Of these what decides a measurement of quality."""


@dataclass
class _Group:
    """Files that one command makes: the types of each variant, and the options that decided them."""

    types: dict[str, list[str]]
    options: dict[str, Json]
    hashes: dict[str, str] = field(default_factory=dict)


def commands(entries: Sequence[Entry]) -> str:
    """One command for each group of variants that share types and options; before them the hashes of own files.

    A base is made by every command, and asked for only where there is nothing else.
    """
    own, guests = [e for e in entries if not e.guest], [e for e in entries if e.guest]
    groups = _merged(_by_variant([e for e in own if not e.is_start] or own))
    hashes = {name: digest for group in groups for name, digest in group.hashes.items()}
    hashes |= {name: digest for e in guests for name, digest in e.settings.hashes.items()}
    notes = [" ".join(f"# {name}: sha256 {digest}".split()) for name, digest in hashes.items()]
    model, specs = _model(own) if own else "", {e.row.type: e.spec for e in own}
    compared = [_comparison(guests, next((e for e in own if e.is_base), None))] if guests else []
    return "\n".join([*notes, *(_command(model, group, specs) for group in groups), *compared])


def _comparison(guests: Sequence[Entry], base: Entry | None) -> str:
    """The command that measures files of somebody else's against their base."""
    ordered = sorted(guests, key=lambda e: not e.is_base)
    files = [base.row.file] if base is not None else []
    words = ["ggufkit", "compare", *files, *(e.guest for e in ordered)]
    for option in _MEASURING:
        value = ordered[-1].settings.options.get(option, DEFAULTS[option])
        if value is not None and value != DEFAULTS[option]:
            words += _spelt_out(option, value)
    return shlex.join(words)


def _model(entries: Sequence[Entry]) -> str:
    found = next((e for e in entries if e.source), None)
    if found is None:
        return entries[0].row.name
    source, _ = split_source(found.source)
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None
    return f"{source}@{found.revision}" if on_hub and found.revision else source


def _by_variant(entries: Sequence[Entry]) -> list[_Group]:
    """The files of each variant; of one variant more than one group where their options differ."""
    groups: list[_Group] = []
    for entry in entries:
        variant, decided = entry.row.variant, entry.settings
        same = [g for g in groups if variant in g.types and _agree(g.options, decided.options)]
        if not same:
            same = [_Group({variant: []}, {})]
            groups += same
        same[0].types[variant].append(entry.row.type)
        same[0].options |= decided.options
        same[0].hashes |= decided.hashes
    return groups


def _merged(groups: Sequence[_Group]) -> list[_Group]:
    merged: list[_Group] = []
    for group in groups:
        other = next((g for g in merged if _one_command(g, group)), None)
        if other is None:
            merged.append(group)
            continue
        other.types |= group.types
        other.options |= group.options
        other.hashes |= group.hashes
    return merged


def _agree(one: Mapping[str, Json], other: Mapping[str, Json]) -> bool:
    return all(one.get(option, value) == value for option, value in other.items())


def _one_command(one: _Group, other: _Group) -> bool:
    """Whether one command makes exactly the files of both."""
    if set(one.types) & set(other.types) or not _agree(one.options, other.options):
        return False
    types = {**one.types, **other.types}
    base = str(one.options.get("--base-type", DEFAULTS["--base-type"])).upper()
    every = {kind for kinds in types.values() for kind in kinds}
    return all(set(kinds) == {t for t in every if _is_made(v, t, base, types)} for v, kinds in types.items())


def _is_made(variant: str, kind: str, base: str, beside: Collection[str]) -> bool:
    """Whether a build makes a type of a variant, when it is asked for both and for other variants beside."""
    known = variants.known(variant)
    return known is None or quants.is_made(kind, known, base, beside)


def _command(model: str, group: _Group, specs: Mapping[str, str]) -> str:
    types = dict.fromkeys(specs[kind] for kinds in group.types.values() for kind in kinds)
    words = ["ggufkit", "build", model, "--types", ",".join(types)]
    words += [] if list(group.types) == ["plain"] else ["--variants", ",".join(group.types)]
    for option, default in DEFAULTS.items():
        value = group.options.get(option, default)
        if value is not None and value != default:
            words += [option] if value is True else _spelt_out(option, value)
    return shlex.join(words)


def _spelt_out(option: str, value: Json) -> list[str]:
    """An option with its value; one that takes several of them once for each."""
    return [
        word for one in (value if isinstance(value, list) else [value]) for word in (option, _shown(option, one))
    ]


def _shown(option: str, value: Json) -> str:
    return f"{100 * value:g}%" if option == "--precision" and isinstance(value, float) else str(value)
