"""TABLE of variants: what is done to a model besides choosing a type."""

from __future__ import annotations

from dataclasses import dataclass

from ggufkit.core.errors import UsageError


@dataclass(frozen=True)
class Variant:
    """One variant.

    Args:
        name: as the user types it and as the `variant` column holds it.
        awq: AWQ scales are folded into the checkpoint before it is converted.
        imatrix: an importance matrix weighs the rounding.
        refined: the rounding is improved by GPTQ afterwards.
    """

    name: str
    awq: bool = False
    imatrix: bool = False
    refined: bool = False

    @property
    def has_float_types(self) -> bool:
        """Whether float types of it differ from those of another variant."""
        return not (self.imatrix or self.refined)

    @property
    def only_weighs(self) -> bool:
        """Whether an importance matrix is all that sets it apart from plain."""
        return self.imatrix and not (self.awq or self.refined)


@dataclass(frozen=True)
class Scaling:
    """What a checkpoint is scaled by AWQ for.

    Args:
        importance: it will be quantized with an importance matrix.
        type: the one type that it will be quantized to, None for several, or for any.
    """

    importance: bool = False
    type: str | None = None

    @property
    def label(self) -> str:
        """As manifests hold it: "awq", "awq+imatrix", "awq-Q4_0"."""
        return ("awq+imatrix" if self.importance else "awq") + (f"-{self.type}" if self.type else "")

    @classmethod
    def from_label(cls, label: str) -> Scaling:
        """The scaling that a manifest's label names."""
        what, _, kind = label.partition("-")
        return cls("+" in what, kind or None)

    @property
    def file_name(self) -> str:
        """What the scaled checkpoint's directory is called, and what stands in the name of its base."""
        return self.label.replace("+", "-")


VARIANTS = (
    Variant("plain"),
    Variant("awq", awq=True),
    Variant("imatrix", imatrix=True),
    Variant("awq+imatrix", awq=True, imatrix=True),
    Variant("gptq", imatrix=True, refined=True),
    Variant("awq+gptq", awq=True, imatrix=True, refined=True),
)

BY_NAME = {variant.name: variant for variant in VARIANTS}

AWQ_ENGINES = ("native", "autoawq")
AWQ_OBJECTIVES = ("ggml", "autoawq")
AWQ_DTYPES = ("source", "float32")


def resolve(names: tuple[str, ...]) -> tuple[Variant, ...]:
    """The variants of a list of names, in the order of the table.

    Raises:
        UsageError: a name that is not in the table.
    """
    wanted = {name.strip().lower().replace("imatrix+awq", "awq+imatrix") for name in names}
    unknown = sorted(wanted - set(BY_NAME))
    if unknown:
        raise UsageError(f"There is no variant {unknown[0]!r}.", hint=f"Choose from {', '.join(BY_NAME)}.")
    return tuple(v for v in VARIANTS if v.name in wanted)


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
    """What a refined variant is refined from."""
    return next(v for v in VARIANTS if (v.awq, v.imatrix, v.refined) == (variant.awq, variant.imatrix, False))
