"""What installed packages add, by entry points. Nothing is loaded before it is asked for, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from ggufkit.core.errors import GgufkitError, InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """An entry point, and the package that has it."""

    entry: EntryPoint
    package: str
    version: str

    @property
    def name(self) -> str:
        """What it adds is called."""
        return self.entry.name

    def load(self, kind: type[T]) -> T:
        """Import what it adds.

        Raises:
            InputError: that fails, whatever the reason, or it is something else.
        """
        try:
            loaded = self.entry.load()
        except (Exception, SystemExit) as error:
            if isinstance(error, GgufkitError):
                raise
            said = " ".join(str(error).split())
            raise self.broken(f"{type(error).__name__}: {said}" if said else type(error).__name__) from error
        if not isinstance(loaded, kind):
            raise self.broken(f"{self.entry.value} is no {kind.__name__}")
        return loaded

    def broken(self, why: str) -> InputError:
        """The one message of a package that does not keep to what is agreed."""
        message = f"{self.name} of the package {self.package} {self.version} cannot be used: {why}."
        return InputError(
            message, hint=f"Update the package, or remove it: python -m pip uninstall {self.package}"
        )


@cache
def found(group: str) -> tuple[Plugin, ...]:
    """What installed packages add to a group, without loading it."""
    return tuple(
        Plugin(entry, entry.dist.name if entry.dist else "?", entry.dist.version if entry.dist else "")
        for entry in entry_points(group=group)
    )


def find(group: str, name: str) -> Plugin:
    """What is called so. Raises InputError where nothing is."""
    for plugin in found(group):
        if plugin.name == name:
            return plugin
    raise InputError(f"No installed package adds {name!r}.", hint="Install the package that does.")


def require_unique(group: str, name: str, own: Collection[str]) -> None:
    """Refuse a name that says two things.

    Args:
        own: names that are ggufkit's.

    Raises:
        InputError: a package takes one of these, or two packages the same.
    """
    adding = [plugin for plugin in found(group) if plugin.name == name]
    if adding and name in own:
        raise adding[0].broken(f"{name!r} is ggufkit's own name")
    if len(packages := {plugin.package for plugin in adding}) > 1:
        raise adding[0].broken(f"{' and '.join(sorted(packages))} both add it")
