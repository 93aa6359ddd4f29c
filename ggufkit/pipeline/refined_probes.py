"""For files that will be refined: what is measured are coarse tensors as a refinement leaves them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.records import Checkpoint, GgufFile, QuantType
from ggufkit.llama.gguf import GgufHeader, read_gguf, read_header
from ggufkit.recipes.groups import layer_of
from ggufkit.recipes.sensitivity import Types
from ggufkit.recipes.type_recipe import Choice, TypeRecipe
from ggufkit.refine.options import RefineOptions
from ggufkit.steps import quantize, refine
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.refine import Refinable, RefiningOptions
from ggufkit.steps.session import Session
from ggufkit.texts.calibration import Calibration


@dataclass(frozen=True)
class Refining:
    """What a refinement works with, besides the file.

    Args:
        checkpoint: what the base was converted from.
        calibration: the tokens that it is refined for.
        include_output: whether the output matrix is refined, too.
    """

    checkpoint: Checkpoint
    calibration: Calibration
    include_output: bool = False

    def changes(self, name: str, output: str) -> bool:
        """Whether a tensor is refined: the layers' matrices are, and the output's if that is asked for.

        Args:
            output: the output matrix's name.
        """
        return layer_of(name) is not None or (self.include_output and name == output)


def refined_file(
    base: GgufFile, types: Types, imatrix: Path | None, refining: Refining, directory: Path, session: Session
) -> GgufHeader:
    """A file of some types, each of its matrices refined for what the original model gives it; made once.

    In a probe all the rest is the original's, so nothing is made up for that another matrix has lost.

    Args:
        types: of all tensors whose type may change.
        directory: where the file is kept.

    Raises:
        GgufkitError: as quantizing and refining raise them.
    """
    spelt = json.dumps([sorted(types.items()), refining.include_output])
    label = f"coarse-{hashlib.sha256(spelt.encode()).hexdigest()[:12]}"
    directory.mkdir(parents=True, exist_ok=True)
    how = QuantizeOptions(
        imatrix, recipe=TypeRecipe(tuple(Choice(*one) for one in types.items()), ""), name=refining.checkpoint.name
    )
    rounded = quantize.quantize(base, directory / f"{label}.gguf", QuantType(label, ""), how, session)
    files = Refinable(read_gguf(rounded.path, rounded.sha256), base, refining.checkpoint, refining.calibration)
    options = RefineOptions(sequential=False, include_output=refining.include_output)
    done = refine.refine(files, directory / f"{label}-refined.gguf", RefiningOptions(options, type=label), session)
    return read_header(done.path)
