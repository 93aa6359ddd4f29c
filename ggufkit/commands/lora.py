"""What `lora` does: an adapter of peft's -> a GGUF adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggufkit.commands.places import beside_model, checkpoint_of
from ggufkit.core import extras
from ggufkit.core.progress import Reporter
from ggufkit.request import RunOptions, Source
from ggufkit.steps import lora as step
from ggufkit.steps.lora import LoraNotes, LoraOptions
from ggufkit.steps.step import Result


@dataclass(frozen=True)
class Wanted:
    """What is converted: an adapter's directory, the model that it changes, and where to; by default beside it."""

    adapter: Path
    base: str
    out: Path | None = None


def lora(wanted: Wanted, options: LoraOptions, run: RunOptions, reporter: Reporter) -> Result:
    """An adapter -> a GGUF adapter. Raises GgufkitError."""
    extras.require("convert")
    checkpoint = checkpoint_of(
        wanted.base, Source(), reporter, "Give with --base the checkpoint, not a GGUF of it."
    )
    where = wanted.out or beside_model(str(wanted.adapter))
    session = run.session(where, reporter)
    output = where / f"{checkpoint.name}-{wanted.adapter.resolve().name}-lora-{options.out_type.upper()}.gguf"
    with session.workspace.locked():
        return step.convert_lora(checkpoint, wanted.adapter, output, options, session)


def summary(made: Result) -> str:
    """What is known of a converted adapter, in a line."""
    notes = LoraNotes.from_manifest(made.manifest)
    ranks = ", ".join(map(str, notes.ranks))
    said = f"{notes.n_matrices} matrices, rank {ranks}"
    if notes.kld is None:
        return f"{said}; not compared with peft"
    difference, effect = (100 * (share or 0) for share in (notes.logit_difference, notes.logit_effect))
    return (
        f"{said}; logits {difference:.2g} % off peft's, of which it changes {effect:.2g} %; "
        f"KL divergence from the merged model {max(notes.kld, 0):.2g} nats, of the base alone {notes.kld_base:.2g}"
    )
