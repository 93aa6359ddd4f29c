"""What every function of the API does: read its options, show its progress, keep its warnings."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ggufkit import request, spellings
from ggufkit.core.progress import Listener, Reporter, SilentReporter
from ggufkit.request import RunOptions

G = TypeVar("G")


class Options:
    """The options of one call, each read once; None is as good as none.

    Args:
        function: the name of the function, for messages.
        known: the names that it knows: the keys of a TypedDict.

    Raises:
        TypeError: a name that is no option.
    """

    def __init__(self, function: str, known: type, given: Mapping[str, Any]) -> None:
        names = known.__annotations__
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                did_you = f" Did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{function}() has no option {name!r}.{did_you}")
        self.given = {name: value for name, value in given.items() if value is not None}

    def group(self, kind: type[G], **more: Any) -> G:
        """A group of options from those of the call that belong to it; `more` are called otherwise in the call.

        Raises:
            UsageError: a value is none of its option's.
        """
        names = {name for name, (group, _) in request.OPTIONS.items() if request.GROUPS[group] is kind}
        names |= {field for field in kind.__dataclass_fields__ if field in spellings.KINDS}  # type: ignore[attr-defined]
        return request.group_of(kind, {name: v for name, v in self.given.items() if name in names} | more)

    @property
    def run(self) -> RunOptions:
        """How the tools run."""
        return self.group(RunOptions)

    def read(self, name: str, default: Any = None) -> Any:
        """One option that belongs to no group. Raises UsageError."""
        return spellings.read(name, self.given[name], default) if name in self.given else default


@contextmanager
def listening(reporter: Reporter | None, quiet: bool) -> Iterator[Listener]:
    """Show what happens where somebody looks, in a terminal or a notebook, and keep what is warned of.

    Args:
        reporter: who is told instead.
        quiet: show nothing.
    """
    if reporter is not None or quiet:
        yield Listener(reporter or SilentReporter())
        return
    from ggufkit.cli import terminal

    if not terminal.is_watched(terminal.console()):
        yield Listener(SilentReporter())
        return
    with terminal.reporting() as shown:
        yield Listener(shown)
