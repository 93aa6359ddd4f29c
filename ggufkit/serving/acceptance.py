"""How much of what is drafted a served model accepts, and what that is worth: questions asked with and without a draft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.core.progress import Reporter
from ggufkit.serving.asking import QUESTIONS, Asked, Outcome, short, text_of

_TOKENS = 128
"""Of an answer: enough that its beginning does not decide."""
_TIE = 0.05
"""Nats between two tokens that are one as likely as the other: what is verified several at once is summed in another order
on some GPUs."""
WITHOUT, WITH = "without draft", "with draft"
Span = tuple[int, int]


@dataclass(frozen=True)
class Answers:
    """What was answered at temperature 0, and how fast, as llama-server counts it.

    Args:
        seconds: of generating `n_tokens`, without reading the questions.
        drafted, accepted: tokens that were guessed, and those of them that the model would have said itself.
        ties: of each answer, where the tokens begin and end beside which another one was as likely.
    """

    texts: tuple[str, ...]
    n_tokens: int
    seconds: float
    drafted: int = 0
    accepted: int = 0
    ties: tuple[tuple[Span, ...], ...] = ()

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens generated in a second; None where none were."""
        return self.n_tokens / self.seconds if self.n_tokens and self.seconds > 0 else None


def answers(asked: Asked, *, ties: bool = False) -> Answers:
    """Ask some questions.

    Args:
        ties: look for tokens that could as well have been others, which takes a little time.
    """
    how: dict[str, Any] = {"logprobs": True, "top_logprobs": 2} if ties else {}
    replies = [asked.answer(question, max_tokens=_TOKENS, **how) for question in QUESTIONS]
    timings = [_timings(reply) for reply in replies]
    total = {
        key: sum(one.get(key, 0) for one in timings)
        for key in ("predicted_n", "predicted_ms", "draft_n", "draft_n_accepted")
    }
    return Answers(
        tuple(text_of(reply.choices[0].message) for reply in replies),
        int(total["predicted_n"]), total["predicted_ms"] / 1000, int(total["draft_n"]), int(total["draft_n_accepted"]),
        tuple(_ties(reply) for reply in replies) if ties else (),
    )  # fmt: skip


def _timings(reply: Any) -> Mapping[str, float]:
    """llama-server's own figures beside an answer."""
    found = (reply.model_extra or {}).get("timings")
    return found if isinstance(found, dict) else {}


def _ties(reply: Any) -> tuple[Span, ...]:
    """Where an answer could go on otherwise."""
    at, found = 0, list[Span]()
    for token in reply.choices[0].logprobs.content if reply.choices[0].logprobs else ():
        first, *others = token.top_logprobs or [token]
        if others and first.logprob - others[0].logprob < _TIE:
            found.append((at, at + len(token.token)))
        at += len(token.token)
    return tuple(found)


def outcomes(alone: Answers, alike: Answers, drafted: Answers) -> list[Outcome]:
    """What a draft is worth: a row without it, a row with it. The answers must be the same.

    Args:
        alone: without the draft, as the model is served then.
        alike: without the draft, computed as with it.
    """
    what = f"{len(alone.texts)} answers of {alone.n_tokens} tokens"
    return [Outcome(WITHOUT, True, what, alone.tokens_per_s), _with(alone, alike, drafted)]


def are_same(one: Answers, other: Answers) -> bool:
    """Whether the same was answered."""
    return one.texts == other.texts


def _with(alone: Answers, alike: Answers, drafted: Answers) -> Outcome:
    figures = (drafted.tokens_per_s, None, drafted.drafted, drafted.accepted)
    if not drafted.drafted:
        return Outcome(WITH, False, "nothing is drafted", *figures)
    parted = [_parted(one, other) for one, other in zip(alike.texts, drafted.texts, strict=True)]
    wrong = [(i, at) for i, at in enumerate(parted) if at is not None and not _is_tie(at, alike.ties[i])]
    if wrong:
        i, at = wrong[0]
        said = (
            f"another answer to {QUESTIONS[i]!r}: {short(drafted.texts[i][at:])}, not {short(alike.texts[i][at:])}"
        )
        return Outcome(WITH, False, said, *figures)
    n_ties = sum(at is not None for at in parted)
    same = "the same answers" + (f", but for ties in {n_ties}" if n_ties else "")
    return Outcome(WITH, True, f"{same}; {_worth(alone, drafted)}", *figures)


def _parted(one: str, other: str) -> int | None:
    """The first character in which two answers differ; None if they do not."""
    if one == other:
        return None
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _is_tie(at: int, ties: Sequence[Span]) -> bool:
    """Whether answers part at a token that could as well have been another, whose first letters may be the same."""
    return any(start <= at <= end for start, end in ties)


def _worth(alone: Answers, drafted: Answers) -> str:
    rate = drafted.accepted / drafted.drafted
    accepted = f"{drafted.accepted:,} of {drafted.drafted:,} drafted tokens accepted ({rate:.1%})"
    if not alone.tokens_per_s or not drafted.tokens_per_s:
        return accepted
    factor = drafted.tokens_per_s / alone.tokens_per_s
    return f"{accepted}, {factor:.2f} times as fast" + (": slower" if factor < 1 else "")


def warn(found: Answers, alone: Answers, name: str, reporter: Reporter) -> None:
    """Say where a draft is of no use."""
    if found.drafted and not found.accepted:
        reporter.warn(
            f"Of {found.drafted:,} tokens that {name} guessed, none was accepted: it only costs time. Is it of this model?"
        )
    elif found.tokens_per_s and alone.tokens_per_s and found.tokens_per_s < alone.tokens_per_s:
        reporter.warn(f"With {name} this machine generates more slowly than without.")
