"""Is all of a checkpoint in the GGUF that was converted from it?"""

from __future__ import annotations

from collections.abc import Sequence

from ggufkit.core.errors import CheckpointError
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint
from ggufkit.llama import mtp
from ggufkit.llama.gguf import GgufHeader
from ggufkit.models import mtp as stored_mtp
from ggufkit.models import rope
from ggufkit.models.checkpoint import read_config, stored_tensors


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


def require_mtp(checkpoint: Checkpoint, made: GgufHeader, wanted: bool | None) -> None:
    """Whether a GGUF has layers that predict further tokens is as somebody wished; None where nobody did.

    Raises:
        CheckpointError: it is not.
    """
    if wanted is None or bool(mtp.layers(made)) == wanted:
        return
    if not wanted:
        message = f"llama.cpp's converter cannot leave the MTP layers of {checkpoint.path} out."
        raise CheckpointError(message, hint="Leave --no-mtp out: who does not draft with them does not load them.")
    if _stores_mtp(checkpoint):
        message = f"llama.cpp's converter leaves the MTP layers of {checkpoint.path} out."
        raise CheckpointError(message, hint="Leave --mtp out. A newer llama.cpp may: set GGUFKIT_LLAMA_CPP.")
    message = f"{checkpoint.path} has no MTP layers."
    hint = "Leave --mtp out. If the model was published with some, transformers saved it without: take that checkpoint."
    raise CheckpointError(message, hint=hint)


def tell_of_mtp(checkpoint: Checkpoint, made: GgufHeader, reporter: Reporter, *, wanted: bool) -> None:
    """Say where layers that predict further tokens are not in a GGUF although there is talk of them."""
    if mtp.layers(made) or not wanted:
        return
    if _stores_mtp(checkpoint):
        reporter.warn(
            f"llama.cpp's converter leaves the MTP layers of {checkpoint.name} out: it knows none of its kind."
        )
    elif stored_mtp.are_announced(read_config(checkpoint.path)):
        reporter.warn(
            f"{checkpoint.name} has no MTP layers, though its config.json tells of them: it is converted without."
        )


def _stores_mtp(checkpoint: Checkpoint) -> bool:
    names = (tensor.name for tensor in stored_tensors(checkpoint.path))
    return stored_mtp.are_stored(names, read_config(checkpoint.path))
