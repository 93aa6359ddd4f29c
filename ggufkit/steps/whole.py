"""Is all of a checkpoint in the GGUF that was converted from it?"""

from __future__ import annotations

from collections.abc import Sequence

from ggufkit.core.errors import CheckpointError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint
from ggufkit.llama.gguf import GgufHeader
from ggufkit.models import rope
from ggufkit.models.checkpoint import read_config


def refuse_losses(
    checkpoint: Checkpoint, made: GgufHeader, said: Sequence[str], reporter: Reporter, *, accepted: bool
) -> None:
    """Raise CheckpointError for what a GGUF lacks of its checkpoint, unless that is accepted.

    What matters in long texts only is a warning.

    Args:
        said: what the converter said that it leaves out.
    """
    config = read_config(checkpoint.path)
    for setting in rope.unheeded_in_long_texts(config, made):
        reporter.warn(f"llama.cpp does not heed {setting}: there it computes something else than the checkpoint.")
    lost = [*said, *rope.unheeded(config, made)]
    if not lost:
        return
    message = f"The conversion of {checkpoint.path} loses {'; '.join(lost)}."
    if accepted:
        reporter.warn(message)
        return
    hint = "Accept it with --allow-losses."
    if any("no rows" in words for words in lost):
        hint = (
            "Tokens were added and the embedding was not resized: call resize_token_embeddings and save the model again, "
            "or take the base model's tokenizer. " + hint
        )
    raise CheckpointError(message, hint=hint)


def require_layers(checkpoint: Checkpoint, made: GgufHeader) -> None:
    """The converter takes what there is. Only where layers differ from each other may one be without tensors.

    Raises:
        CheckpointError: a layer that the configuration has is not there.
    """
    if isinstance(made.metadata.get(f"{made.architecture}.attention.head_count"), list):
        return
    there = {tensor.name.split(".")[1] for tensor in made.tensors if tensor.name.startswith("blk.")}
    missing = [i for i in range(made.hparam("block_count")) if str(i) not in there]
    if missing:
        shown = ", ".join(map(str, missing[:4])) + (" …" if len(missing) > 4 else "")
        message = f"{checkpoint.path} has no weights for layers that its config.json has: {shown}."
        raise CheckpointError(
            message, hint="A shard is missing, or config.json is another model's: download it again."
        )
