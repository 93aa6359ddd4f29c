"""TABLE of variants: what is done to a model besides choosing a type. Those of installed packages stand in it, too."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from ggufkit.core import plugins
from ggufkit.core.errors import GgufkitError, UsageError
from ggufkit.core.methods import AWQ, GPTQ, Method

GROUP = "ggufkit.variants"
"""The entry points by which a package adds its own."""
_NAME = re.compile(r"[a-z0-9_]+(\+[a-z0-9_]+)*")


@dataclass(frozen=True)
class Variant:
    """One variant.

    Args:
        name: as the user types it and as the `variant` column holds it: words of letters, digits and "_", with "+".
        before: what changes the checkpoint before it is converted.
        imatrix: an importance matrix weighs the rounding.
        after: what changes the quantized file afterwards.
    """

    name: str
    before: Method | None = None
    imatrix: bool = False
    after: Method | None = None

    @property
    def methods(self) -> tuple[Method, ...]:
        """What is done, in its order."""
        return tuple(method for method in (self.before, self.after) if method is not None)

    @property
    def has_float_types(self) -> bool:
        """Whether float types of it differ from those of another variant."""
        return not self.imatrix and self.after is None

    @property
    def awq(self) -> bool:
        """Whether AWQ scales are folded in."""
        return self.before == AWQ

    @property
    def refined(self) -> bool:
        """Whether GPTQ improves the rounding."""
        return self.after == GPTQ

    @property
    def calibrated(self) -> bool:
        """Whether one of its methods needs calibration text."""
        return any(method.calibrated for method in self.methods)

    @property
    def needs_checkpoint(self) -> bool:
        """Whether a GGUF alone is not enough to make it."""
        return self.before is not None or self.refined

    @property
    def only_weighs(self) -> bool:
        """Whether an importance matrix is all that sets it apart from plain."""
        return self.imatrix and not self.methods


@dataclass(frozen=True)
class Scaling:
    """What a checkpoint is changed by, AWQ or a package's method, and what for.

    Args:
        importance: it will be quantized with an importance matrix.
        type: the one type that it will be quantized to, None for several, or for any.
        method: the name of the method.
    """

    importance: bool = False
    type: str | None = None
    method: str = AWQ.name

    @property
    def label(self) -> str:
        """As manifests hold it: "awq", "awq+imatrix", "awq-Q4_0"."""
        return self.method + ("+imatrix" if self.importance else "") + (f"-{self.type}" if self.type else "")

    @classmethod
    def from_label(cls, label: str) -> Scaling:
        """The scaling that a manifest's label names."""
        what, _, kind = label.partition("-")
        method, plus, _ = what.partition("+")
        return cls(bool(plus), kind or None, method)

    @property
    def file_name(self) -> str:
        """What the scaled checkpoint's directory is called, and what stands in the name of its base."""
        return self.label.replace("+", "-")


VARIANTS = (
    Variant("plain"),
    Variant("awq", before=AWQ),
    Variant("imatrix", imatrix=True),
    Variant("awq+imatrix", before=AWQ, imatrix=True),
    Variant("gptq", imatrix=True, after=GPTQ),
    Variant("awq+gptq", before=AWQ, imatrix=True, after=GPTQ),
)
"""ggufkit's own."""

BY_NAME = {variant.name: variant for variant in VARIANTS}

AWQ_ENGINES = ("native", "autoawq")
AWQ_OBJECTIVES = ("ggml", "autoawq")
AWQ_DTYPES = ("source", "float32")


def names() -> tuple[str, ...]:
    """All variants by name: ggufkit's own in the order of the table, then those of installed packages. None is loaded."""
    return tuple(dict.fromkeys([*BY_NAME, *sorted(found.name for found in plugins.found(GROUP))]))


def resolve(wanted: tuple[str, ...]) -> tuple[Variant, ...]:
    """The variants of a list of names, in the order of the table.

    Raises:
        UsageError: a name that is not in the table.
        InputError: one that is in it twice, or the package that adds it is broken.
    """
    asked = {name.strip().lower().replace("imatrix+awq", "awq+imatrix") for name in wanted}
    table = names()
    if unknown := sorted(asked - set(table)):
        raise UsageError(f"There is no variant {unknown[0]!r}.", hint=f"Choose from {', '.join(table)}.")
    return tuple(find(name) for name in table if name in asked)


def find(name: str) -> Variant:
    """The variant of a name of the table; a package's is loaded now. Raises InputError as `resolve`."""
    plugins.require_unique(GROUP, name, BY_NAME)
    return BY_NAME[name] if name in BY_NAME else _of_package(name)


def known(name: str) -> Variant | None:
    """The variant of a name that a manifest has; None where its package is not there, or is broken."""
    try:
        return find(name)
    except GgufkitError:
        return None


@cache
def _of_package(name: str) -> Variant:
    plugin = plugins.find(GROUP, name)
    loaded = plugin.load(Variant)
    if loaded.name != name or not _NAME.fullmatch(name):
        raise plugin.broken(
            f"it is called {loaded.name!r} there; names are words of a-z, 0-9 and _, with + between"
        )
    own = [method for method in loaded.methods if method not in (AWQ, GPTQ)]
    if not own:
        raise plugin.broken("it has no method of its own")
    for method in own:
        if not re.fullmatch(r"[a-z0-9_]+", method.name) or method.name in (
            AWQ.name,
            GPTQ.name,
            "plain",
            "imatrix",
        ):
            raise plugin.broken(f"its method is called {method.name!r}")
        if method.run is None or method.of != ("checkpoint" if method == loaded.before else "gguf"):
            raise plugin.broken(f"its method {method.name!r} has no function, or stands in the wrong place")
    signed = {m: replace(m, package=plugin.package, version=plugin.version) for m in own}
    return replace(
        loaded,
        before=signed.get(loaded.before, loaded.before) if loaded.before else None,
        after=signed.get(loaded.after, loaded.after) if loaded.after else None,
    )


def infix(name: str) -> str:
    """What stands before the type in names of files: "" for plain, else the variant's name, also an unknown one's."""
    return "" if name in ("", "plain") else f"{name.replace('+', '-')}-"


def file_name(model: str, variant: Variant, type_name: str) -> str:
    """The name of a result: `<model>-<variant>-<TYPE>.gguf`."""
    return f"{model}-{infix(variant.name)}{type_name}.gguf"


def scaled_base_name(model: str, directory: str, type_name: str) -> str:
    """The name of the base of a scaled checkpoint: `<model>-<its directory>-<TYPE>.gguf`."""
    return f"{model}-{directory}-{type_name}.gguf"


def unrefined(variant: Variant) -> Variant:
    """What a variant is before its file is changed; one that nobody can ask for is called by what is done before."""
    plainer = replace(variant, after=None)
    same = [v for v in VARIANTS if replace(v, name=variant.name) == plainer]
    return (
        same[0] if same else replace(plainer, name=Scaling(variant.imatrix, None, plainer.methods[0].name).label)
    )
