"""Losses on several texts: the worst beside the mean, and files that are good on one text and bad on another."""

from __future__ import annotations

import math
import random

import pytest

from ggufkit.report.unevenness import UNEVEN, FileLosses, TextLoss, uneven

TEXTS = ("wikitext2", "chinese", "code", "chat")
USUAL = (0.1, 0.3, 0.06, 0.08)
"""What plain Q4_K_M loses on each text: Chinese costs three times what English does."""


def losses(name: str, *values: float, error: float = 0.02, plain: bool = False) -> FileLosses:
    found = (TextLoss(text, value, error * value) for text, value in zip(TEXTS, values, strict=False))
    return FileLosses(name, tuple(found), plain)


def plain(name: str = "plain", level: float = 1.0) -> FileLosses:
    return losses(name, *(level * value for value in USUAL), plain=True)


def test_the_worst_stands_beside_the_mean() -> None:
    found = plain()
    assert (found.worst.text, found.worst.value) == ("chinese", 0.3)
    assert found.mean == pytest.approx(0.135)


def test_what_loses_less_everywhere_is_even() -> None:
    assert uneven([plain(), losses("imatrix", 0.06, 0.2, 0.045, 0.05)]) == ()


def test_a_spoiled_text_is_told() -> None:
    """A matrix from Chinese alone: better there than plain, and worse at code."""
    (found,) = uneven([plain(), plain("other type", 8), losses("imatrix", 0.11, 0.15, 0.12, 0.09)])
    assert (found.file, found.good, found.bad) == ("imatrix", "chinese", "code")
    assert found.times == pytest.approx((0.12 / 0.06) / (0.15 / 0.3))
    assert "good on chinese and bad on code" in found.sentence
    assert "4.0 times" in found.sentence
    assert "held against the plain files" in found.sentence


def test_a_plain_file_is_the_measure_not_the_suspect() -> None:
    """What is uncommonly good on one text does not make a plain file bad there."""
    found = uneven([plain(), losses("imatrix", 0.1, 0.1, 0.06, 0.08)])
    assert [one.file for one in found] == ["imatrix"]


def test_without_plain_files_two_others_are_the_measure() -> None:
    spoiled, one, other = (
        losses("a", 0.1, 0.9, 0.06, 0.08),
        losses("b", *USUAL),
        losses("c", 0.01, 0.03, 0.006, 0.008),
    )
    assert [found.file for found in uneven([spoiled, one, other])] == ["a"]
    assert uneven([spoiled, one]) == ()
    assert uneven([spoiled]) == ()


def test_the_threshold_is_a_factor() -> None:
    for times, told in ((UNEVEN * 0.97, False), (UNEVEN * 1.03, True)):
        values = [*USUAL[:2], USUAL[2] * times, USUAL[3]]
        assert bool(uneven([plain(), losses("x", *values, error=0.005)])) is told


def test_chance_is_not_told() -> None:
    """Twice as much, known to 40 %: nothing is known."""
    values = [0.1, 0.3, 0.12, 0.08]
    assert uneven([plain(), losses("x", *values, error=0.02)])
    assert uneven([plain(), losses("x", *values, error=0.4)]) == ()


def test_noise_alone_is_told_of_seldom() -> None:
    """Files of one profile, their losses known to 12 %: of 400 files at most one in fifty is told of."""
    draw, told = random.Random(3), 0
    for _ in range(400):
        rows = [[value * math.exp(draw.gauss(0, 0.12)) for value in USUAL] for _ in range(3)]
        told += len(
            uneven(
                [losses("x", *rows[0], error=0.12), *(losses("p", *r, error=0.12, plain=True) for r in rows[1:])]
            )
        )
    assert told <= 8


def test_only_files_of_the_same_texts_are_compared() -> None:
    assert uneven([plain(), losses("x", 0.1, 0.9)]) == ()
    assert uneven([plain(), losses("base", 0.0, 0.3, 0.06, 0.08)]) == ()
    assert uneven([losses("p", 0.1, plain=True), losses("x", 0.1)]) == ()
