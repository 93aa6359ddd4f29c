"""Types that llama-quantize does not choose alone: `4.5bpw`, `6GiB`, `like:q4_k_m`, `kld:0.02`, `recipe:FILE`,
`q4_k_m+attn_v=q8_0`. Typed text -> `Target`, with the one label that all writings of the same have.

A label is part of a file's name: of what a recipe's name or a pattern has, only letters, digits and `._-` stay; any
other run of characters becomes `_`, more than 60 characters are cut, and then eight digits of the hash of the original
follow, so that two never share a name.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Mapping
from decimal import Decimal

from ggufkit.core.errors import UsageError
from ggufkit.core.paths import user_path
from ggufkit.core.records import Target
from ggufkit.core.units import MOST_BYTES, SIZES, parse_size

FLOAT_TYPES = ("F32", "F16", "BF16")
"""Conversions rather than quantizations: an importance matrix changes nothing in them."""

TENSOR_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4",
    "NVFP4", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "TQ2_0", "TQ1_0", "IQ1_M", "IQ1_S", "Q1_0",
)  # fmt: skip
"""Types that a tensor of a file can have; the names of ggml, which are not those of llama-quantize's files."""
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
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def parse(text: str, presets: Mapping[str, str]) -> Target | None:
    """The target that a text means, None where it has the form of none and so should be one of `presets`.

    Args:
        text: as it is typed, any case.
        presets: what each name of llama-quantize's types stands for: itself, or of an alias another.

    Raises:
        UsageError: it has the form of a target, and is none.
    """
    said = text.strip()
    if (bpw := _BPW.fullmatch(said)) is not None:
        return _bits(said, bpw[1])
    if _UNIT_NEEDED.fullmatch(said) is not None:
        return _size(said)
    if (word := _WITH_WORD.fullmatch(said)) is not None:
        what = word[2].strip()
        return {"like": _like, "kld": _divergence, "recipe": _recipe}[word[1].lower()](said, what, presets)
    if "+" in said or "=" in said:
        return _mixed(said, presets)
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
    if not 0 < value <= most or -int(value.normalize().as_tuple().exponent) > _MOST_DECIMALS:
        raise _wrong(said, right)
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
    """The shortest way to write a size: 6GiB, 800MB, 1.5GB; of equally short ones that with the largest unit."""
    shown = []
    for unit, factor in SIZES.items():
        for decimals in range(4):
            number = Decimal(math.ceil(Decimal(n_bytes) / factor * 10**decimals)) / 10**decimals
            if number >= 1 and int(number * factor) == n_bytes:
                shown.append(f"{_plain(number)}{unit}")
    return min(shown, key=len)


def _preset(said: str, name: str, presets: Mapping[str, str]) -> str:
    wanted = name.strip().upper().replace("-", "_")
    if presets.get(wanted) in FLOAT_TYPES:
        raise _wrong(said, f"{wanted} rounds no tensor to a smaller type: name a quantized type, e.g. q4_k_m.")
    if wanted in presets:
        return presets[wanted]
    near = difflib.get_close_matches(wanted, presets, n=3, cutoff=0.5)
    raise _wrong(said, f"Did you mean {', '.join(near)}?" if near else f"Known presets: {', '.join(presets)}.")


def _like(said: str, name: str, presets: Mapping[str, str]) -> Target:
    preset = _preset(said, name, presets)
    return Target("like", f"like-{preset}", f"like:{preset.lower()}", preset=preset)


def _divergence(said: str, number: str, _presets: Mapping[str, str]) -> Target:
    value = _decimal(said, number, _MOST_NATS, "Mean KL divergence is a number of nats above 0, e.g. kld:0.02.")
    return Target("kld", f"kld-{_plain(value)}", f"kld:{_plain(value)}", number=float(value))


def _recipe(said: str, name: str, _presets: Mapping[str, str]) -> Target:
    if not name:
        raise _wrong(said, "Name a recipe, or a GGUF whose types are copied, e.g. recipe:other-Q4_K_M.gguf.")
    file = user_path(name)
    stem = file.name.removesuffix(".yaml").removesuffix(".yml").removesuffix(".recipe").removesuffix(".gguf")
    return Target("recipe", f"recipe-{_safe(stem)}", f"recipe:{file.name}", file=file)


def _mixed(said: str, presets: Mapping[str, str]) -> Target:
    name, _, rest = said.partition("+")
    right = "Write a preset and the tensors that differ, e.g. q4_k_m+attn_v=q8_0+ffn_down=q6_k."
    found, end = [], 0
    for match in _OVERRIDE.finditer(rest):
        if match.start() != end:
            raise _wrong(said, right)
        found.append((match[1].strip().lower(), _tensor_type(said, match[2])))
        end = match.end()
    if not found or end != len(rest) or rest.endswith("+") or not all(pattern for pattern, _ in found):
        raise _wrong(said, right)
    for pattern, _ in found:
        _require_pattern(said, pattern)
    preset = _preset(said, name, presets)
    label = "+".join([preset, *(f"{_safe(pattern)}={kind}" for pattern, kind in found)])
    spec = "+".join([preset.lower(), *(f"{pattern}={kind.lower()}" for pattern, kind in found)])
    return Target("mixed", _short(label, label), spec, preset=preset, tensor_types=tuple(found))


def _tensor_type(said: str, name: str) -> str:
    wanted = name.upper()
    if wanted not in TENSOR_TYPES:
        near = difflib.get_close_matches(wanted, TENSOR_TYPES, n=3, cutoff=0.5) or TENSOR_TYPES
        raise _wrong(said, f"No tensor has the type {name}; one of a tensor is {', '.join(near)}.")
    return wanted


def _require_pattern(said: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise _wrong(said, f"{pattern!r} is no regular expression: {error}.") from None


def _safe(text: str) -> str:
    """What may stand in a file's name; see the module's own words."""
    kept = _UNSAFE.sub("_", text).strip("_")
    return _short(kept, text) if kept == text else f"{kept[:_LONGEST]}-{_digits(text)}"


def _short(label: str, original: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[:_LONGEST]}-{_digits(original)}"


def _digits(original: str) -> str:
    return hashlib.sha256(original.encode()).hexdigest()[:8]
