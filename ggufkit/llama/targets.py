"""Types that llama-quantize does not choose alone: `4.5bpw`, `6GiB`, `like:q4_k_m`, `kld:0.02`, `recipe:FILE`,
`q4_k_m+attn_v=q8_0`. Typed text -> `Target`, with the one label that all writings of the same have.

A label is part of a file's name: of what a recipe's name or a pattern has, only letters, digits and `._-` stay, of a
recipe's `+=`, too; any other run of characters becomes `_`, more than 60 characters are cut, and then eight digits of the
hash of the original follow, so that two never share a name.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from ggufkit.core.errors import InputError, UnknownType, UsageError
from ggufkit.core.paths import user_path
from ggufkit.core.records import QuantType, Target
from ggufkit.core.units import MOST_BYTES, SIZES, parse_size
from ggufkit.llama import patterns, quants

FORMS = "4.5bpw, 6GiB, like:q4_k_m, kld:0.02, recipe:FILE, q4_k_m+attn_v=q8_0"
"""An example of each kind, for messages."""
_MOST_BPW, _MOST_NATS, _MOST_DECIMALS = 32, 100, 6
_LONGEST = 60
_BPW = re.compile(r"([0-9.]+)\s*bpw", re.IGNORECASE)
_WITH_WORD = re.compile(r"(like|kld|recipe)\s*:(.*)", re.IGNORECASE | re.DOTALL)
_UNIT_NEEDED = re.compile(r"[0-9.]+\s*(?:[KMGT]i?B?|B)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_NO_NAME = re.compile(r"[-.0-9]|.*:", re.DOTALL)
_OVERRIDE = re.compile(r"([^=]+)=([A-Za-z0-9_]+)(?:\+|$)")
_UNSAFE, _UNSAFE_IN_PATTERN = re.compile(r"[^A-Za-z0-9._+=-]+"), re.compile(r"[^A-Za-z0-9._-]+")


def is_measured(text: str) -> bool:
    """Whether what is typed has the form of a target whose types are chosen by measurement."""
    said = text.strip()
    word = _WITH_WORD.fullmatch(said)
    return bool(
        _BPW.fullmatch(said) or _UNIT_NEEDED.fullmatch(said) or (word is not None and word[1].lower() != "recipe")
    )


def recipe_file(text: str) -> Path | None:
    """The file that `recipe:FILE` names, None of another type."""
    word = _WITH_WORD.fullmatch(text.strip())
    named = word is not None and word[1].lower() == "recipe" and word[2].strip()
    return user_path(named) if named else None


def resolve(names: Sequence[str], known: Sequence[QuantType]) -> tuple[QuantType, ...]:
    """The types that a user typed, of llama-quantize or targets by their labels: any case, duplicates dropped.

    Args:
        known: the toolchain's types.

    Raises:
        UnknownType: a name that the toolchain does not know, with the nearest that it does.
        UsageError: what has the form of a target, and is none; or two files would have one name.
    """
    found = tuple(dict.fromkeys(_resolve_one(name, known) for name in names))
    by_label: dict[str, QuantType] = {}
    for kind in found:
        if by_label.setdefault(kind.name.casefold(), kind) != kind:
            message = f"The files of two of --types would have one name, {kind.name}."
            raise UsageError(message, hint="Rename one of the recipes, or make them in two commands.")
    return found


def _resolve_one(name: str, known: Sequence[QuantType]) -> QuantType:
    target = parse(name, known)
    if target is None:
        return quants.resolve([name], known)[0]
    like = _preset(name, target.preset, known).description if target.kind == "like" else ""
    return QuantType(target.label, like, target)


def parse(text: str, known: Sequence[QuantType]) -> Target | None:
    """The target that a text means, None where it has the form of none and so should be one of the `known` types.

    Raises:
        UsageError: it has the form of a target, and is none.
    """
    said = text.strip()
    if (bpw := _BPW.fullmatch(said)) is not None:
        return _bits(said, bpw[1])
    if _UNIT_NEEDED.fullmatch(said) is not None:
        return _size(said)
    if (word := _WITH_WORD.fullmatch(said)) is not None:
        return {"like": _like, "kld": _divergence, "recipe": _recipe}[word[1].lower()](
            said, word[2].strip(), known
        )
    if "+" in said or "=" in said:
        return _mixed(said, known)
    if _NO_NAME.match(said) is not None:
        raise _wrong(said, f"Write the name of a type, or what it is for: {FORMS}.")
    return None


def size_target(n_bytes: int) -> Target:
    """The target of a file of at most so many bytes."""
    label = _size_label(n_bytes)
    return Target("size", label, label, number=n_bytes)


def _wrong(text: str, right: str) -> UsageError:
    return UsageError(f"{text!r} is no type.", hint=right)


def _decimal(said: str, number: str, most: float, right: str) -> Decimal:
    if _NUMBER.fullmatch(number) is None:
        raise _wrong(said, right)
    value = Decimal(number)
    if not 0 < value <= most:
        raise _wrong(said, right)
    if -int(value.normalize().as_tuple().exponent) > _MOST_DECIMALS:
        raise _wrong(said, f"At most {_MOST_DECIMALS} decimals are read. {right}")
    return value


def _plain(value: Decimal, decimals: int = 0) -> str:
    """A number without needless zeros, but with so many decimals."""
    digits = max(decimals, -int(value.normalize().as_tuple().exponent))
    return f"{value:.{digits}f}"


def _bits(said: str, number: str) -> Target:
    right = f"Bits per weight are above 0 and at most {_MOST_BPW}, e.g. 4.5bpw."
    value = _decimal(said, number, _MOST_BPW, right)
    return Target("bpw", f"{_plain(value, 2)}bpw", f"{_plain(value)}bpw", number=float(value))


def _size(said: str) -> Target:
    n_bytes = parse_size(said)
    if not n_bytes or n_bytes > MOST_BYTES:
        raise _wrong(said, "Write the size of the file with a unit, e.g. 6GiB or 800MB.")
    return size_target(n_bytes)


def _size_label(n_bytes: int) -> str:
    """The shortest way to write a size, 6GiB, 800MB, 1.5GB; of equally short ones that with the largest unit, and bytes
    only where they are far shorter."""
    shown = [f"{n_bytes}B"]
    for unit, factor in SIZES.items():
        for decimals in range(4):
            number = Decimal(math.ceil(Decimal(n_bytes) / factor * 10**decimals)) / 10**decimals
            if number >= 1 and int(number * factor) == n_bytes:
                shown.append(f"{_plain(number)}{unit}")
    return min(shown, key=lambda label: len(label) + 2 * label[-2].isdigit())


def _preset(said: str, name: str, known: Sequence[QuantType]) -> QuantType:
    try:
        (preset,) = quants.resolve([name], known)
    except UnknownType as error:
        raise _wrong(said, str(error.hint)) from None
    if quants.is_float(preset.name):
        raise _wrong(said, f"{preset.name} rounds no tensor to a smaller type: name a quantized one, e.g. q4_k_m.")
    return preset


def _like(said: str, name: str, known: Sequence[QuantType]) -> Target:
    preset = _preset(said, name, known).name
    return Target("like", f"like-{preset}", f"like:{preset.lower()}", preset=preset)


def _divergence(said: str, number: str, _known: Sequence[QuantType]) -> Target:
    value = _decimal(said, number, _MOST_NATS, "Mean KL divergence is a number of nats above 0, e.g. kld:0.02.")
    return Target("kld", f"kld-{_plain(value)}", f"kld:{_plain(value)}", number=float(value))


def _recipe(said: str, name: str, _known: Sequence[QuantType]) -> Target:
    if not name:
        raise _wrong(said, "Name a recipe, or a GGUF whose types are copied, e.g. recipe:other-Q4_K_M.gguf.")
    file = user_path(name)
    stem = file.name.removesuffix(".yaml").removesuffix(".yml").removesuffix(".recipe").removesuffix(".gguf")
    return Target("recipe", f"recipe-{_safe(stem, _UNSAFE)}", f"recipe:{file.name}", file=file)


def _mixed(said: str, known: Sequence[QuantType]) -> Target:
    name, _, rest = said.partition("+")
    right = "Write a preset and the tensors that differ, e.g. q4_k_m+attn_v=q8_0+ffn_down=q6_k."
    found, end = [], 0
    for match in _OVERRIDE.finditer(rest):
        if match.start() != end:
            raise _wrong(said, right)
        _require_pattern(said, match[1].strip())
        found.append((match[1].strip().lower(), _tensor_type(said, match[2])))
        end = match.end()
    if not found or end != len(rest) or rest.endswith("+") or not all(pattern for pattern, _ in found):
        raise _wrong(said, right)
    preset = _preset(said, name, known).name
    label = "+".join([preset, *(f"{_safe(pattern, _UNSAFE_IN_PATTERN)}={kind}" for pattern, kind in found)])
    spec = "+".join([preset.lower(), *(f"{pattern}={kind.lower()}" for pattern, kind in found)])
    return Target("mixed", _short(label, label), spec, preset=preset, tensor_types=tuple(found))


def _tensor_type(said: str, name: str) -> str:
    try:
        return quants.tensor_type(name)
    except UnknownType as error:
        raise _wrong(said, f"{error.message} {error.hint}") from None


def _require_pattern(said: str, pattern: str) -> None:
    try:
        patterns.require_pattern(pattern, said)
    except InputError as error:
        raise _wrong(said, f"{error.message} {error.hint}") from None


def _safe(text: str, unsafe: re.Pattern[str]) -> str:
    """What may stand in a file's name; see the module's own words."""
    kept = unsafe.sub("_", text).strip("_")
    return _short(kept, text) if kept == text else f"{kept[:_LONGEST]}-{_digits(text)}"


def _short(label: str, original: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[:_LONGEST]}-{_digits(original)}"


def _digits(original: str) -> str:
    return hashlib.sha256(original.encode()).hexdigest()[:8]
