"""What only a model tells of the jobs that it takes: known once it is fetched, or from its headers for a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from ggufkit.core import variants
from ggufkit.core.records import Json
from ggufkit.llama import quants
from ggufkit.pipeline import measuring
from ggufkit.pipeline.foreseen import is_measured
from ggufkit.pipeline.job import Job


@dataclass(frozen=True)
class File:
    """A file that is made besides the base.

    Args:
        variant, type: as its name has them.
        scaling: the label of what its checkpoint is scaled for, or changed by; "" where it is as it was.
        weighed: an importance matrix is needed for it.
        after: it is changed after it was quantized.
        plainer: the variant whose file of the same type that starts from, "" where that is no result itself.
    """

    variant: str
    type: str
    scaling: str = ""
    weighed: bool = False
    after: bool = False
    plainer: str = ""


@dataclass(frozen=True)
class Facts:
    """What a cell's graph is planned with.

    Args:
        n_params: elements of all weights.
        together: all files are evaluated by one job, see `pipeline.measuring.is_one_pass`.
    """

    files: tuple[File, ...] = ()
    n_params: int = 0
    together: bool = False

    def to_json(self) -> dict[str, Json]:
        """As an outcome carries them."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Json]) -> Facts:
        """What an outcome carries."""
        values = cast("dict[str, Any]", dict(told))
        return cls(**values | {"files": tuple(File(**file) for file in values["files"])})


def facts_of(job: Job) -> Facts:
    """The facts of a model that is looked up, or of one whose plan is."""
    files = []
    for variant, kind in job.targets:
        scaling = job.scaling_of(variant, kind)
        plainer = variants.unrefined(variant)
        is_shown = variant.after is not None and (plainer, kind) in job.targets
        weighed = variant.imatrix and not quants.is_float(kind.name)
        files.append(
            File(
                variant.name,
                kind.name,
                "" if scaling is None else scaling.label,
                weighed or is_measured(kind),
                variant.after is not None,
                plainer.name if is_shown and not (is_measured(kind) and variant.refined) else "",
            )
        )
    return Facts(tuple(files), job.model.n_params, measuring.is_one_pass(job))
