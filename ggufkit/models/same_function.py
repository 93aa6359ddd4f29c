"""Does a converted GGUF compute what its checkpoint computes? Logits against logits. Pure functions of arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ggufkit.llama.logits_file import CLIP, SavedLogits
from ggufkit.models.quantized.method import find

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Rounding of 16 bit activations costs some 5e-4 of the logits, of F32 some 3e-5; llama.cpp's table of GELU, in F16, up to
# 2e-3. A rope setting that is not heeded costs 5e-3 and more.
_LIMIT, _LIMIT_GELU = 1e-3, 3e-3
_LIMIT_BLOCKS = 1e-2
"""Of blocks that are carried over: llama.cpp rounds their inputs to 8 bits. A tiny gpt-oss is 3e-3 off."""
_MOST_TYPICAL = 0.9
_GROWS = 0.3
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
_ROPE = ("rope_scaling", "rope_parameters")


@dataclass(frozen=True)
class Difference:
    """How far logits are from the reference's.

    Args:
        relative: root mean square of the difference over that of the reference, each with its mean taken off, at the
            position that nine of ten do not exceed: a router that a rounding tips spoils single ones.
        scale: the factor that makes the logits most like the reference's.
        relative_scaled: what remains of the difference when they are multiplied by it.
    """

    relative: float
    scale: float
    relative_scaled: float


def compare(reference: NDArray[np.float32], saved: SavedLogits) -> Difference:
    """Compare logits of the same tokens.

    Args:
        reference: (positions, vocabulary) raw logits; rows of the vocabulary that the GGUF lacks are left out.
    """
    import numpy as np

    wanted = _centred(log_probs(reference[:, : saved.log_probs.shape[1]].astype(np.float64)))
    got = _centred(saved.log_probs.astype(np.float64))
    size = np.maximum((wanted**2).sum(axis=1), np.finfo(np.float64).tiny)
    scale = float((got * wanted).sum() / max(float((got**2).sum()), float(np.finfo(np.float64).tiny)))
    relative, scaled = (np.sqrt(((factor * got - wanted) ** 2).sum(axis=1) / size) for factor in (1.0, scale))
    typical = [float(np.quantile(values, _MOST_TYPICAL)) for values in (relative, scaled)]
    return Difference(typical[0], scale, typical[1])


def divergence(reference: NDArray[np.float32], saved: NDArray[Any]) -> float:
    """Mean KL divergence from a reference, over the positions, in nats.

    Args:
        reference: (positions, vocabulary) raw logits.
        saved: as many log probabilities, as `log_probs` gives them.
    """
    import numpy as np

    wanted = log_probs(reference[:, : saved.shape[1]].astype(np.float64))
    return float((np.exp(wanted) * (wanted - saved)).sum(axis=1).mean())


def limit(config: Mapping[str, Any]) -> float:
    """The relative difference up to which rounding explains it."""
    how = find(config)
    if how is not None and how.is_carried:
        return _LIMIT_BLOCKS
    gelu = any("gelu" in str(_of_text(config).get(name)) for name in _ACTIVATIONS)
    return _LIMIT_GELU if gelu else _LIMIT


def _of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that is about the text model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def _without_eps(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if "rms_norm_eps" in (text := _of_text(config)):
        none = {"rms_norm_eps": 0.0}
        without = {**config, "text_config": {**text, **none}} if text is not config else {**config, **none}
        yield f"It does not heed rms_norm_eps of {text['rms_norm_eps']} (norms).", without


def suspects(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that llama.cpp may not heed: what it would do instead, in words, and the configuration that says so."""
    changed: dict[str, Any] = json.loads(json.dumps(config))
    for key in _ROPE:
        rope = changed.get(key)
        if not isinstance(rope, dict):
            continue
        kind = rope.get("rope_type", rope.get("type"))
        if rope.pop("attention_factor", None) is not None:
            yield f"It does not heed attention_factor in {key} (rope).", changed
        theta = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
        if kind not in (None, "default"):
            yield f"It does not heed {key} (rope) of type {kind}.", {
                **config, key: {"rope_type": "default", **theta} if theta else None
            }  # fmt: skip
    yield from _without_eps(config)
    if config.get("sliding_window"):
        without = {k: v for k, v in config.items() if k not in ("layer_types", "sliding_window_pattern")}
        yield (
            "It does not heed sliding_window (attention).",
            {**without, "sliding_window": None, "use_sliding_window": False},
        )
    for name in (n for n in _ACTIVATIONS if config.get(n)):
        for instead in ("silu", "gelu_pytorch_tanh"):
            if instead != config[name]:
                yield (
                    f"It computes {instead} where {name} is {config[name]} (activation).",
                    {**config, name: instead},
                )


def likely_cause(found: Difference, at_start: float | None) -> str:
    """A guess in words.

    Args:
        at_start: the difference at the first tokens, if that is known.
    """
    if found.relative_scaled < _GROWS * found.relative:
        return f"The logits are {1 / found.scale:.3g} times as large: a scale of the head is the likely cause."
    if at_start is not None and at_start < _GROWS * found.relative:
        return "They differ more the more tokens there are: rope or the attention window is the likely cause."
    return (
        "They differ from the first tokens on: a norm, the activation, the head or a tensor is the likely cause."
    )


def log_probs(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log probabilities as llama-perplexity saves them: clipped below the largest of each position."""
    import numpy as np

    top = logits.max(axis=1, keepdims=True)
    shifted = logits - top
    clipped: NDArray[np.float64] = np.maximum(shifted, -CLIP)
    clipped -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return clipped


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = values - values.mean(axis=1, keepdims=True)
    return centred
