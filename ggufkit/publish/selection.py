"""Which files of a directory somebody wants to have uploaded: glob patterns, in any case as types are typed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ggufkit.core.errors import UsageError


@dataclass(frozen=True)
class Selection:
    """Patterns of names.

    Args:
        include: of GGUF files, with which goes what belongs to them; none for all.
        exclude: of files of any kind; what belongs to an excluded GGUF is left out with it.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes_model(self, names: Iterable[str]) -> bool:
        """Whether a GGUF goes up that has these names: its own, and those of its parts."""
        known = list(names)
        return (not self.include or _fits(known, self.include)) and not _fits(known, self.exclude)

    def takes(self, name: str) -> bool:
        """Whether another file goes up."""
        return not _fits([name], self.exclude)

    def require_used(self, names: Iterable[str], left_out: Iterable[str] = ()) -> None:
        """Refuse a pattern that none of these names fits.

        Args:
            left_out: files that are not sent anyway, and may be excluded.

        Raises:
            UsageError: a typing error, which would have sent, or kept back, what it was not meant to.
        """
        known = sorted(names)
        also = {*known, *left_out}
        for option, patterns, fitting in (("--include", self.include, known), ("--exclude", self.exclude, also)):
            for pattern in patterns:
                if not _fits(fitting, (pattern,)):
                    raise UsageError(f"{option} {pattern!r} fits no file.", hint=f"There are {', '.join(known)}.")


def _fits(names: Iterable[str], patterns: Iterable[str]) -> bool:
    wanted = [pattern.lower() for pattern in patterns]
    return any(fnmatchcase(name.lower(), pattern) for name in names for pattern in wanted)
