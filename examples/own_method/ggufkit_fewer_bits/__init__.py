"""A toy method of one's own: what ggufkit's entry points name. What computes is imported when it is used."""

from __future__ import annotations

from dataclasses import dataclass

from ggufkit import Method, Metric, Subject, Variant, Work


@dataclass(frozen=True)
class Bits:
    """How many bits of a weight's mantissa are kept: 7 are those of BF16."""

    bits: int = 6


@dataclass(frozen=True)
class Shrinking:
    """How much smaller norms are: 0 leaves them, 0.1 takes a tenth."""

    strength: float = 0.01


def round_checkpoint(work: Work) -> dict[str, int]:
    """Write the checkpoint with rounded matrices; the result is what the manifest notes."""
    from ggufkit_fewer_bits.rounding import round_matrices

    return {"matrices": round_matrices(work.source, work.output, work.options.bits)}


def smaller_norms(work: Work) -> dict[str, int]:
    """Write the GGUF with smaller norms."""
    from ggufkit_fewer_bits.norms import shrink

    return {"norms": shrink(work.source, work.output, work.options.strength)}


def weight_sqnr(subject: Subject) -> tuple[float, float | None] | None:
    """Signal to noise of all weights, in dB; the base itself has no noise, so nothing is measured of it."""
    from ggufkit_fewer_bits.noise import sqnr

    return None if subject.gguf == subject.base else (sqnr(subject.gguf, subject.base), None)


FEWER_BITS = Variant("fewer_bits", before=Method("fewer_bits", "checkpoint", round_checkpoint, Bits))
SMALLER_NORMS = Variant("smaller_norms", after=Method("smaller_norms", "gguf", smaller_norms, Shrinking))
WEIGHT_SQNR = Metric("weight_sqnr", "dB", "signal to noise of the weights", measure=weight_sqnr)
