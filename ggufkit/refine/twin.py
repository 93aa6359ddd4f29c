"""Hidden states twice, of the original and of the refined model, and the order in which they are gone through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ggufkit.layers import HiddenStates
from ggufkit.layers.moments import batch_size


@dataclass(frozen=True)
class Span:
    """Samples `start` to `stop`, which are run at once; `held_out` if nothing is learnt from them."""

    start: int
    stop: int
    held_out: bool


@dataclass(frozen=True)
class TwinHidden:
    """Hidden states of all samples at one place of both models.

    Args:
        refined: None if refinement is to take no notice of itself: then the original's stand for both.
        n_samples: how many samples are learnt from; those after them are held out.
    """

    original: HiddenStates
    refined: HiddenStates | None
    n_samples: int

    def spans(self) -> Iterator[Span]:
        """All samples, some at a time: none of a span is held out, or all are."""
        step, end = batch_size(self.original), len(self.original)
        for first, last, held_out in ((0, self.n_samples, False), (self.n_samples, end, True)):
            for start in range(first, last, step):
                yield Span(start, min(start + step, last), held_out)

    @property
    def both(self) -> list[HiddenStates]:
        """Of both models, where they differ."""
        return [self.original] if self.refined is None else [self.original, self.refined]

    def save(self, *, original: bool) -> None:
        """Have all samples in their files, where they stay for a later run; the original's only if asked."""
        for states in self.both if original else self.both[1:]:
            states.save()

    def forget(self) -> None:
        """Give back memory that they take."""
        for states in self.both:
            states.forget()

    def remove(self) -> None:
        """Delete the files."""
        for states in self.both:
            states.remove()
