"""`ggufkit compare BASE GGUF…`: files of one model, whoever made them, measured against one base in one directory."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit import report
from ggufkit.commands import measure
from ggufkit.commands.measure import Measured
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.part_names import part_name, stem_of, whole_of
from ggufkit.core.paths import user_path
from ggufkit.core.progress import OneOfMany, Reporter
from ggufkit.llama import evaluates, kinship, part_set, quants
from ggufkit.llama.gguf import GgufHeader, as_one, dominant_type, named_type, read_header
from ggufkit.models import published, sources
from ggufkit.models.published import Published
from ggufkit.report import results
from ggufkit.report.rivals import Rivals, side_by_side
from ggufkit.request import EvaluationOptions, RunOptions
from ggufkit.steps import guest
from ggufkit.steps.guest import Guest, GuestNotes
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.session import Session

_TYPE = re.compile(r".*?[-._]((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP\d\w*|F16|BF16|F32))", re.IGNORECASE)
_CACHED = re.compile(r"models--(.+?)--.+")
_ANOTHER = "Leave it out, or give it a base of its own model."
_WHAT = "Give result directories; or a base and GGUF files, each a path or " + published.FORM + "."


@dataclass(frozen=True)
class Compared:
    """What came of it.

    Args:
        measured: all that was measured now or before.
        out: where it lies.
        made: how many steps had to be done; 0 where all was there already.
    """

    rivals: Rivals
    measured: Measured
    out: Path
    made: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, the base first, as they are in `out`."""
        return tuple(self.out / rival.row.file for rival in self.rivals.all)


@dataclass(frozen=True)
class _Named:
    """A file as it was given, and its headers: of its parts in order."""

    given: Published
    headers: Sequence[GgufHeader]

    @property
    def whole(self) -> GgufHeader:
        return as_one(self.headers)

    @property
    def stem(self) -> str:
        """Its name, without what says that it is a part."""
        return stem_of(self.given.path)


def are_files(given: Sequence[str]) -> bool:
    """Whether GGUFs are to be compared, not result directories.

    Raises:
        UsageError: there are both, or no file beside the base, or one of them does not exist.
    """
    missing = [word for word in given if not published.is_at_hub(word) and not user_path(word).exists()]
    if missing:
        raise UsageError(f"{missing[0]!r} does not exist.", hint=_WHAT)
    directories = [word for word in given if not published.is_at_hub(word) and user_path(word).is_dir()]
    if directories and len(directories) < len(given):
        message = (
            f"{directories[0]} is a directory, and not all of the others are: they cannot be compared with files."
        )
        raise UsageError(message, hint=f"{_WHAT} A directory's files can be named one by one.")
    if not directories and len(given) == 1:
        raise UsageError(f"There is nothing to compare {given[0]} with.", hint=_WHAT)
    return not directories


def compare(
    given: Sequence[str], evaluation: EvaluationOptions, out: Path | None, run: RunOptions, reporter: Reporter
) -> Compared:
    """Measure files against a base, which comes first. Raises GgufkitError.

    What is not of the base's model is refused before it is downloaded, and before anything is measured.
    """
    named = _headers([published.read(word) for word in given], reporter)
    _tell(named, reporter)
    root = out or Path(f"{_model(named[0])}-compared")
    report.require_writable(root)
    session = run.session(root, reporter)
    with session.workspace.locked():
        taken = [_take(file, root, session) for file in _guests(named, root)]
    names = [name for name, _ in taken]
    base, *others = (root / name for name in names)
    done = measure.perplexity(measure.Evaluated(tuple(others), base, out=root), evaluation, run, reporter)
    rows = results.collect(root, reporter)
    if not report.is_current(rows, root):
        report.write(rows, root)
    made = sum(not fresh for _, fresh in taken) + sum(not one.fresh for one in done.results)
    return Compared(side_by_side(rows, root, names), done, root, made)


def _headers(given: Sequence[Published], reporter: Reporter) -> list[_Named]:
    """All files, the base first. What is here is looked at before anything is fetched, and of that the headers first."""
    twice = next((one for one in given if given.count(one) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice.source} is given twice.", hint="Name each file once.")
    opened = {one: _open(one, reporter) for one in given if not one.repo}
    base = opened.get(given[0]) or _open(given[0], reporter)
    _require_kin(base, opened.values())
    with tempfile.TemporaryDirectory() as directory:
        rest = [one for one in given[1:] if one.repo]
        peeked = [_Named(one, found) for one in rest if (found := _peek(one, Path(directory), reporter))]
        _require_kin(base, peeked)
    opened = {given[0]: base} | {one: opened.get(one) or _open(one, reporter) for one in given[1:]}
    _require_kin(base, opened.values())
    return list(opened.values())


def _peek(one: Published, room: Path, reporter: Reporter) -> list[GgufHeader]:
    return published.peek(one, Path(tempfile.mkdtemp(dir=room)), reporter)


def _open(one: Published, reporter: Reporter) -> _Named:
    header = read_header(published.fetch(one, reporter))
    part_set.require_recorded(header.files)
    return _Named(one, header.parts or (header,))


def _require_kin(base: _Named, files: Iterable[_Named]) -> None:
    """Raise InputError where files do not hold the base's model, with the reason of each."""
    own = base.whole
    found = {file.given.source: kinship.strangeness(file.whole, own) for file in files}
    strangers = [f"{name}: {'; '.join(reasons)}." for name, reasons in found.items() if reasons]
    if len(strangers) == 1:
        raise InputError(f"Not of the model of {base.given.source}: {strangers[0]}", hint=_ANOTHER)
    if strangers:
        message = f"{len(strangers)} of these files are not of the model of {base.given.source}:"
        raise InputError(message, details=strangers, hint=_ANOTHER)


def _tell(named: Sequence[_Named], reporter: Reporter) -> None:
    """What to know before the figures are read."""
    base, n_tokens = named[0].whole, _n_tokens(named)
    kind = dominant_type(base)
    if not quants.is_float(kind):
        reporter.warn(f"{named[0].given.source} holds {kind} itself: what it lost before is in no figure.")
    for one in named:
        name, pre = one.given.source, one.whole.metadata.get(evaluates.PRE)
        if len(kinship.vocabulary(one.whole)) > n_tokens:
            reporter.warn(OneOfMany("Tokens that others lack, padding, are left out of a copy of {}.", name))
        if pre != base.metadata.get(evaluates.PRE):
            said = "{} splits text otherwise than the base; measured is how it goes on with the base's tokens."
            reporter.warn(OneOfMany(said, name))


def _n_tokens(named: Sequence[_Named]) -> int:
    """How many tokens all have."""
    return min(len(kinship.vocabulary(one.whole)) for one in named)


def _guests(named: Sequence[_Named], root: Path) -> list[tuple[Guest, str]]:
    """Each file, and what it is called in the output directory: as it is, unless another is called so."""
    model, n_tokens = _model(named[0]), _n_tokens(named)
    found: list[tuple[Guest, str]] = []
    for one in named:
        notes = _notes(one, model, [guest.notes for guest, _ in found])
        cut = n_tokens if len(kinship.vocabulary(one.whole)) > n_tokens else None
        file = Guest(one.headers, notes, cut)
        taken = [name for _, name in found]
        names = (name for name in _names(one, notes) if name not in taken and _is_free(root / name, file))
        found.append((file, next(names)))
    return found


def _names(one: _Named, notes: GuestNotes) -> Iterator[str]:
    stem = one.stem if one.given.path.suffix.lower() == ".gguf" else f"{notes.name}-{_in_name(notes.type)}"
    yield f"{stem}.gguf"
    if notes.variant != stem:
        yield f"{_in_name(notes.variant)}-{stem}.gguf"
    yield from (f"{stem}-{number}.gguf" for number in itertools.count(2))


def _in_name(said: str) -> str:
    """What somebody else's manifest says, as a part of a file's name: no path."""
    return re.sub(r"[^\w.+-]+", "-", said).strip(".-")


def _is_free(place: Path, file: Guest) -> bool:
    """Whether a file may have a place: there is nothing, or itself; other files of that name stay as they are."""
    made = read_manifest(place)
    if _is_at(place, file):
        return file.is_as_it_is
    return made is None or (made.step == guest.STEP and GuestNotes.from_manifest(made).source == file.notes.source)


def _is_at(place: Path, file: Guest) -> bool:
    """Whether that place is where a file itself lies, no link to it."""
    return place.exists() and not place.is_symlink() and place.samefile(file.headers[0].path)


def _notes(one: _Named, model: str, others: Sequence[GuestNotes]) -> GuestNotes:
    """What tables call a file: publisher and type; its name, where another is called so."""
    path = one.headers[0].path
    made = read_manifest(path)
    own = GgufNotes() if made is None else GgufNotes.from_manifest(made)
    kind, owner = own.type or _type(one), one.given.owner
    variant = own.variant or owner or ("plain" if not others else _publisher(path))
    called = [variant, *([] if owner else [one.stem]), *(f"{variant} {n}" for n in range(2, len(others) + 3))]
    taken = [other.variant for other in others if other.type == kind]
    source = one.given.source if owner else str(path.absolute())
    return GuestNotes(model, next(name for name in called if name not in taken), kind, source)


def _type(one: _Named) -> str:
    """As its name has it: llama.cpp knows no Q4_K_L and no UD-Q4_K_XL; else as the file says."""
    match = _TYPE.fullmatch(one.stem)
    named = match[1].upper() if match is not None else named_type(one.headers[0])
    return named if named not in (None, "GUESSED") else dominant_type(one.whole)


def _publisher(file: Path) -> str:
    """Whose a file on this disk may be: by the hub's cache that it lies in, or its directory's name."""
    cached = next((match[1] for part in file.absolute().parts if (match := _CACHED.fullmatch(part))), None)
    return cached or file.absolute().parent.name or "local"


def _model(base: _Named) -> str:
    """The name of the model."""
    part = part_name(base.given.path)
    return sources.name_of(base.headers[0].path if part is None else whole_of(base.given.path))


def _take(file: tuple[Guest, str], root: Path, session: Session) -> tuple[str, bool]:
    """Have a file in the output directory. Returns its name there, and whether it was there already."""
    one, name = file
    if not _is_at(root / name, one):
        return name, guest.take(one, root / name, session).fresh
    if read_manifest(root / name) is None:
        hint = "Choose another --out: the directory of the results has links to the files, with what is known of them."
        raise InputError(f"{root / name} lies where the results would go.", hint=hint)
    return name, True
