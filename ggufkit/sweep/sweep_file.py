"""A sweep file, read and checked: every fault is one message with the line and the column where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ggufkit import request, spellings
from ggufkit.core import values
from ggufkit.core.errors import GgufkitError, InputError
from ggufkit.core.marked import Marked, read_marked
from ggufkit.core.paths import user_path
from ggufkit.core.records import QuantType
from ggufkit.sweep import beside
from ggufkit.sweep.clusters import SYSTEMS
from ggufkit.sweep.places import CSV, HTML
from ggufkit.sweep.spec import Cluster, Entry, Given, Profile, Queue, Selection, Setting, Spec, Word

_LISTED = {"calibration": "calibration", "corpora": "corpus", "tasks": "tasks"}
"""Options that stand beside `options`, and what `build` calls them."""
_SETTING = ("types", "variants", *_LISTED, "options")
_SELECTION = ("models", "types", "variants")
_TOP = ("out", "models", *_SETTING, "exclude", "include", "profiles", "cluster")
_ENTRY = ("model", "name", "revision", "hub", *_SETTING)
_PROFILE = ("models", *_SETTING, "exclude", "include")
_OPTIONS = tuple(name for name in spellings.OPTIONS if name not in (*_LISTED.values(), "force", "explain"))
_EXAMPLES = {
    "models": "[qwen2.5-0.5b, ./my-model]", "types": "[q4_k_m, q8_0]", "variants": "[plain, imatrix]",
    "calibration": "[text.txt]", "corpora": "[wikitext2]", "tasks": "[arc]",
}  # fmt: skip
_UNDER_OPTIONS = {name: f"It stands under `options`: options: {{{name}: …}}." for name in _OPTIONS}
_NOT_OPTIONS = {
    **{name: f"`{name}` stands beside `options`, not in it." for name in (*_SETTING, "out")},
    "corpus": "`corpora` stands beside `options`, and is a list.",
    "force": "Give --force to `ggufkit sweep`.",
    "explain": "`ggufkit build --explain` says it of one model.",
    "from": "It is called `hub` here.",
    **{f"no_{name}": f"Write {name}: false." for name in _OPTIONS if spellings.KINDS[name] == values.SWITCH},
    **{old: f"It is called `{new}`." for old, new in request.RENAMED.items()},
}
_HINT = "A sweep file has at least `models`, a list: models: [qwen2.5-0.5b, ./my-model]"
_QUEUE: Mapping[str, values.Kind] = {
    "partition": values.TEXT, "account": values.TEXT, "time": values.TEXT, "gpus": values.Whole(0, 1024),
    "cores": values.Whole(1, 4096), "memory": values.SIZE, "jobs": values.Whole(1, 100_000), "extra": values.TEXTS,
    "prologue": values.TEXTS, "interface": values.TEXT, "scratch": values.TEXT,
}  # fmt: skip


def read(file: Path, known: Sequence[QuantType] | None = None) -> Spec:
    """Read and check a sweep file; paths in it are relative to it.

    Args:
        known: the types of the toolchain, against which those of the file are checked; None where there is none yet.

    Raises:
        InputError: it cannot be read, or something in it is wrong; the line and the column are named.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file} is not there.", hint="Give a sweep file; the guide has an example.") from None
    except IsADirectoryError:
        raise InputError(f"{file} is a directory.", hint="Give the sweep file in it.") from None
    return _Reader(file, known).spec(read_marked(data, str(file), hint=_HINT))


@dataclass(frozen=True)
class _Reader:
    file: Path
    known: Sequence[QuantType] | None

    @property
    def _home(self) -> Path:
        return self.file.absolute().parent

    def spec(self, root: Marked) -> Spec:
        """The whole file."""
        told = root.mapping("A sweep file", _TOP, {**_UNDER_OPTIONS, "corpus": "It is called `corpora`, a list."})
        if "models" not in told:
            raise root.fault("There are no models.", _HINT)
        return Spec(
            self.file,
            root.source,
            self._home / (user_path(_text(told["out"], "out")) if "out" in told else self.file.stem),
            self._models(told["models"]),
            self._setting(told),
            self._profiles(told["profiles"]) if "profiles" in told else (Profile(),),
            self._selections(told, "exclude"),
            self._selections(told, "include"),
            _cluster(told["cluster"]) if "cluster" in told else Cluster(),
        )

    def _models(self, node: Marked) -> tuple[Entry, ...]:
        if node.kind != "list":
            raise node.wrong("models", f"a list, {_EXAMPLES['models']}")
        if not node.items:
            raise node.fault("The list of models is empty.", _HINT)
        found: dict[str, Entry] = {}
        for one in map(self._entry, node.items):
            first = found.setdefault(one.name.casefold(), one)
            if first is not one:
                message = f"Two models are called {one.name!r}; the other one is in line {first.at.line}."
                raise node.source.fault(one.at, message, "Give one another name: {model: …, name: …}.")
        return tuple(found.values())

    def _entry(self, node: Marked) -> Entry:
        told = (
            {"model": node} if node.kind in ("text", "number") else node.mapping("A model", _ENTRY, _UNDER_OPTIONS)
        )
        if "model" not in told:
            raise node.fault("This entry has no `model`.", "Write {model: qwen2.5-0.5b, types: [q2_k]}.")
        setting, said = self._setting(told), _text(told["model"], "model")
        hub = setting.options.get("hub", Given("auto", node.at)).value
        revision = _text(told["revision"], "revision") if "revision" in told else None
        model, name = beside.model(told["model"], revision, str(hub), self._home)
        named = told.get("name", told["model"])
        name = _name(named, _text(told["name"], "name") if "name" in told else name)
        return Entry(name, model, said, named.at, setting)

    def _profiles(self, node: Marked) -> tuple[Profile, ...]:
        if node.kind != "mapping" or not node.pairs:
            raise node.wrong("profiles", "a mapping of names, {quick: {options: {chunks: 20}}, full: {}}")
        found: dict[str, Profile] = {}
        for key, value in node.pairs:
            if found.setdefault(key.text.casefold(), profile := self._profile(key, value)) is not profile:
                raise key.fault(f"The profile {key.text!r} is here a second time.", "Give it another name.")
        return tuple(found.values())

    def _profile(self, key: Marked, node: Marked) -> Profile:
        told = {} if node.kind == "nothing" else node.mapping("A profile", _PROFILE, _UNDER_OPTIONS)
        return Profile(
            _name(key, key.text),
            self._setting(told),
            self._patterns(told, "models"),
            self._selections(told, "exclude"),
            self._selections(told, "include"),
        )

    def _setting(self, told: dict[str, Marked]) -> Setting:
        options: dict[str, Given] = {}
        if "options" in told:
            given = told["options"].mapping("options", _OPTIONS, _NOT_OPTIONS)
            options = {name: beside.option(name, value, self._home) for name, value in given.items()}
        if "hub" in told:
            options["hub"] = beside.option("hub", told["hub"], self._home)
        for key, name in _LISTED.items():
            if key in told:
                beside.words(told[key], key, _EXAMPLES[key])
                options[name] = beside.option(name, told[key], self._home)
        return Setting(self._types(told), self._variants(told), options)

    def _types(self, told: dict[str, Marked]) -> tuple[Word, ...] | None:
        if "types" not in told:
            return None
        given = beside.split(told["types"], "types", _EXAMPLES["types"])
        fault = told["types"].source.fault
        return tuple(beside.type_(word, partial(fault, word.at), self._home, self.known) for word in given)

    def _variants(self, told: dict[str, Marked]) -> tuple[Word, ...] | None:
        if "variants" not in told:
            return None
        given = beside.split(told["variants"], "variants", _EXAMPLES["variants"])
        fault = told["variants"].source.fault
        return tuple(beside.variant(word, partial(fault, word.at)) for word in given)

    def _selections(self, told: dict[str, Marked], name: str) -> tuple[Selection, ...]:
        if name not in told:
            return ()
        node = told[name]
        if node.kind != "list" or not node.items:
            raise node.wrong(name, 'a list of mappings, [{models: "qwen*", types: [q2_k]}]')
        return tuple(self._selection(item, name) for item in node.items)

    def _selection(self, node: Marked, name: str) -> Selection:
        told = node.mapping(f"What is under `{name}`", _SELECTION)
        if not told or (name == "include" and told.keys() <= {"models"}):
            what = "types or variants" if name == "include" else "models, types or variants"
            raise node.fault(f"This names no {what}.", 'Write {models: "qwen*", types: [q2_k]}.')
        models = self._patterns(told, "models")
        if name == "exclude":
            return Selection(node.at, models, self._patterns(told, "types"), self._patterns(told, "variants"))
        return Selection(node.at, models, self._types(told) or (), self._variants(told) or ())

    def _patterns(self, told: dict[str, Marked], name: str) -> tuple[Word, ...]:
        return tuple(beside.split(told[name], name, _EXAMPLES[name])) if name in told else ()


def _text(node: Marked, name: str) -> str:
    if node.kind in ("list", "mapping", "nothing") or not node.text.strip():
        raise node.wrong(name, "a text")
    if "\0" in node.text:
        raise node.fault(f"{name} holds a zero character, as no path or name does.")
    return node.text.strip()


def _name(node: Marked, name: str) -> str:
    """A name that a directory may have."""
    if beside.NAME.fullmatch(name) is None or name.lower() in (CSV, HTML):
        hint = (
            "Give a name of letters, digits and . _ + -, the first a letter or a digit; a model has it as `name`."
        )
        raise node.fault(f"No directory is called {name!r} here.", hint)
    return name


def _cluster(node: Marked) -> Cluster:
    told = node.mapping("cluster", ("workers", *SYSTEMS))
    workers = told.pop("workers", None)
    n_workers = None if workers is None else _value(workers, "workers", values.Whole(1, 100_000))
    return Cluster(n_workers, {system: _queue(system, value) for system, value in told.items()})


def _queue(system: str, node: Marked) -> Queue:
    told = (
        {}
        if node.kind == "nothing"
        else node.mapping(system, tuple(_QUEUE), {"queue": "It is called `partition`."})
    )
    given = {name: _value(value, name, _QUEUE[name]) for name, value in told.items()}
    if "memory" in given:
        given["memory_bytes"] = given.pop("memory")
    return Queue(**given)


def _value(node: Marked, name: str, kind: values.Kind) -> Any:
    if isinstance(kind, values.Texts):
        is_none = node.kind == "list" and not node.items
        return () if is_none else tuple(one.text for one in beside.words(node, name, "[TEXT, TEXT]"))
    try:
        return values.read(name, kind, _text(node, name))
    except GgufkitError as error:
        raise node.fault(error.message, error.hint) from None
