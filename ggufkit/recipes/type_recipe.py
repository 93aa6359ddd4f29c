"""A recipe: which type each tensor of a GGUF gets, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core.part_names import whole_of


@dataclass(frozen=True)
class Choice:
    """The type of one tensor.

    Args:
        tensor: its name in the GGUF.
        type: a tensor type in capitals: "Q4_K", "IQ4_XS", "F16".
        n_bytes: its size in that type.
        loss: what that type is expected to add to the file's mean KL divergence, in nats; None where it is unknown.
        why: in a few words.
    """

    tensor: str
    type: str
    n_bytes: int = 0
    loss: float | None = None
    why: str = ""


@dataclass(frozen=True)
class TypeRecipe:
    """A type for each tensor that llama-quantize may quantize.

    Args:
        choices: in the order of the file's tensors.
        file_type: the type of llama-quantize that is given along, and stands in the file: "Q4_K_M".
        target: what was asked for: "like:q4_k_m", "4.5bpw", "recipe:other.gguf"; empty for one written by hand.
        size_bytes: of the whole file, None where it is unknown.
        expected_kld: mean KL divergence from the base on the calibration text, in nats; None where it is unknown.
        measured_on: what the losses were measured on: names and SHA-256 by role ("base", "imatrix", "calibration").
        remarks: what a reader should know, a sentence each.
    """

    choices: tuple[Choice, ...]
    file_type: str = ""
    target: str = ""
    size_bytes: int | None = None
    expected_kld: float | None = None
    measured_on: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def types(self) -> Mapping[str, str]:
        """The type of each tensor, by the tensor's name."""
        return {choice.tensor: choice.type for choice in self.choices}


def recipe_path(gguf: Path) -> Path:
    """Where the recipe of a file's types lies: beside it, by the whole file's name."""
    return gguf.with_name(f"{whole_of(gguf).name}.recipe.yaml")
