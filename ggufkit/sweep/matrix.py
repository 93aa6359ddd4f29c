"""A sweep file's models, profiles, includes and excludes -> cells. Pure but for what installed packages add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from ggufkit.core import variants
from ggufkit.core.errors import GgufkitError, UsageError
from ggufkit.core.marked import nearest
from ggufkit.pipeline import lookup
from ggufkit.request import DEFAULT_TYPES, DEFAULT_VARIANTS, BuildRequest, CalibrationOptions
from ggufkit.sweep.records import Cell
from ggufkit.sweep.spec import Entry, Profile, Selection, Setting, Spec, Word

Pair = tuple[str, str]
"""A variant and a type, as they were asked for."""


def cells(spec: Spec, profiles: Sequence[str] = ()) -> tuple[Cell, ...]:
    """Every build of a sweep, profile by profile in the order of the models.

    What is said of a model counts before what a profile says, and that before what the file says. Excludes are taken off,
    then includes are added. The whole file is checked, whichever profiles are asked for.

    Args:
        profiles: by name; all where none is named.

    Raises:
        UsageError: there is no such profile.
        InputError: a pattern fits nothing, or options of a build contradict each other; the place is named.
    """
    known = {profile.name: profile for profile in spec.profiles}
    for name in profiles:
        if name not in known or not name:
            raise _no_profile(name, [each for each in known if each])
    every = [_Plan(spec, profile, entry) for profile in spec.profiles for entry in _models(spec, profile)]
    _require_used(spec, every)
    found = tuple(cell for plan in every if not profiles or plan.profile.name in profiles for cell in plan.cell())
    if not found:
        raise spec.source.fault(spec.models[0].at, "All is excluded: nothing is left to be made.")
    _require_calibrated(spec, found)
    return found


def _no_profile(name: str, known: Sequence[str]) -> UsageError:
    if not known:
        return UsageError("The sweep file has no profiles.", hint="Leave --profile out.")
    near = nearest(name, known)
    return UsageError(
        f"The sweep file has no profile {name!r}.",
        hint=f"Did you mean {near}?" if near else f"It has {', '.join(known)}.",
    )


def _models(spec: Spec, profile: Profile) -> list[Entry]:
    return [entry for entry in spec.models if _fits(_names(entry), profile.models)]


def _names(entry: Entry) -> tuple[str, ...]:
    """What patterns of models are held against."""
    return entry.name, entry.typed


def _fits(names: Sequence[str], patterns: Sequence[Word]) -> bool:
    """Whether one of the names is meant; case does not matter, and no pattern means all."""
    return not patterns or any(_is_meant(name, pattern) for name in names for pattern in patterns)


def _is_meant(name: str, pattern: Word) -> bool:
    said, meant = name.casefold(), pattern.text.casefold()
    return said == meant or fnmatchcase(said, meant)


@dataclass(frozen=True)
class _Plan:
    """A model under a profile, before it is a cell."""

    spec: Spec
    profile: Profile
    entry: Entry

    @property
    def setting(self) -> Setting:
        """All that is said of it."""
        return self.spec.setting.under(self.profile.setting).under(self.entry.setting)

    @cached_property
    def asked(self) -> tuple[Pair, ...]:
        """What is made before includes and excludes."""
        types, named = self.setting.types, self.setting.variants
        every = [word.text for word in types] if types else DEFAULT_TYPES
        return tuple((v, t) for v in ([w.text for w in named] if named else DEFAULT_VARIANTS) for t in every)

    @property
    def excludes(self) -> list[Selection]:
        """Those that may concern it."""
        return [*self.spec.exclude, *self.profile.exclude]

    @property
    def includes(self) -> list[Selection]:
        """Those of its model."""
        every = (*self.spec.include, *self.profile.include)
        return [one for one in every if _fits(_names(self.entry), one.models)]

    def meets(self, exclude: Selection, pair: Pair) -> bool:
        """Whether a file is left out."""
        of_model = _fits(_names(self.entry), exclude.models)
        return of_model and _fits(pair[:1], exclude.variants) and _fits(pair[1:], exclude.types)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """What is made, each once."""
        kept = [pair for pair in self.asked if not any(self.meets(one, pair) for one in self.excludes)]
        return tuple(dict.fromkeys([*kept, *(pair for one in self.includes for pair in self._included(one))]))

    def _included(self, include: Selection) -> Iterator[Pair]:
        named = [word.text for word in include.variants] or list(dict.fromkeys(v for v, _ in self.asked))
        types = [word.text for word in include.types] or list(dict.fromkeys(t for _, t in self.asked))
        yield from ((v, t) for v in named for t in types)

    def cell(self) -> Iterator[Cell]:
        """The cell; none where all of it is excluded."""
        if not self.pairs:
            return
        types, named = (tuple(dict.fromkeys(pair[i] for pair in self.pairs)) for i in (1, 0))
        only = frozenset(self.pairs) if len(self.pairs) < len(types) * len(named) else None
        yield Cell(self.entry.name, self.profile.name, self._request(types, named), only)

    def _request(self, types: tuple[str, ...], named: tuple[str, ...]) -> BuildRequest:
        """What is asked of `build`; a text to calibrate on is left out where nothing is calibrated."""
        options = {name: given.value for name, given in self.setting.options.items()}
        out = self.spec.out / self.profile.name / self.entry.name
        try:
            request, chosen = BuildRequest(self.entry.model, out, types, named, **options), variants.resolve(named)
            if lookup.unused_option(request, chosen) is not None and "calibration" in options:
                del options["calibration"]
                request = BuildRequest(self.entry.model, out, types, named, **options)
            if (unused := lookup.unused_option(request, chosen)) is not None:
                raise unused
        except GgufkitError as error:
            raise self.spec.source.fault(self.entry.at, error.message, error.hint) from None
        return request


def _require_used(spec: Spec, plans: Sequence[_Plan]) -> None:
    """Raise InputError for patterns that fit nothing: they are misspelt."""
    scopes = [(spec.exclude, spec.include, plans)]
    for profile in spec.profiles:
        of_profile = [plan for plan in plans if plan.profile is profile]
        _require_met(spec, profile.models, [_names(entry) for entry in spec.models], "model of this sweep")
        scopes.append((profile.exclude, profile.include, of_profile))
    for excludes, includes, concerned in scopes:
        names = [_names(plan.entry) for plan in concerned]
        for one in (*excludes, *includes):
            _require_met(spec, one.models, names, "model of this sweep")
        for one in excludes:
            _require_met(spec, one.types, _asked(concerned, 1), "type of this sweep")
            _require_met(spec, one.variants, _asked(concerned, 0), "variant of this sweep")
            if not any(plan.meets(one, pair) for plan in concerned for pair in plan.asked):
                message = "This leaves out nothing: no model of it has such types and variants."
                raise spec.source.fault(one.at, message, "Mend it, or remove it.")


def _require_calibrated(spec: Spec, found: Sequence[Cell]) -> None:
    """Raise InputError where a text to calibrate on is named, and no build uses it."""
    given = spec.setting.options.get("calibration")
    if given is None or any(cell.request.calibration.text != CalibrationOptions.text for cell in found):
        return
    if given.value not in (CalibrationOptions.text, (CalibrationOptions.text,)):
        hint = "Ask for variants such as imatrix, or leave it out."
        raise spec.source.fault(given.at, "No build of this sweep uses a text to calibrate on.", hint)


def _asked(plans: Sequence[_Plan], part: int) -> list[tuple[str]]:
    return list(dict.fromkeys((pair[part],) for plan in plans for pair in plan.asked))


def _require_met(spec: Spec, patterns: Sequence[Word], names: Sequence[Sequence[str]], what: str) -> None:
    for pattern in patterns:
        if any(_is_meant(name, pattern) for each in names for name in each):
            continue
        known = list(dict.fromkeys(name for each in names for name in each))
        near = nearest(pattern.text, known)
        hint = f"Did you mean {near}?" if near else f"There is {', '.join(known[:8])}{' …' if known[8:] else '.'}"
        raise spec.source.fault(pattern.at, f"{pattern.text!r} fits no {what}.", hint)
