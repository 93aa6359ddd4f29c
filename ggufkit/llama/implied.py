"""What config.json implies, compared with the tensors that a checkpoint has: names and shapes, and no weight is read.

transformers itself builds the model without storage and is given tensors without content, so its own rules of renaming,
fusing and tying decide what fits. This costs a tenth of a second where it is loaded anyway: in the converter's process.
Code of a checkpoint is never run.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError
from ggufkit.core.imports import uncollected

Shape = tuple[int, ...]

# What the converter leaves out of a text model: heads for training, pooling, other modalities, further predictors.
_NOT_CONVERTED = re.compile(
    r"(^|\.)(pooler|cls|classifier|score|qa_outputs|v_head|mtp|nextn\w*|\w*(vision|visual|audio|image|projector|speech)\w*)\."
)
_FUSED = re.compile(r"\.experts\.\D")
_ASYNC_OFF = "HF_DEACTIVATE_ASYNC_LOAD"
_CONVERSION = "automatic conversion of the weights"
_OTHER_MODEL = "A shard is missing, or config.json is another model's: download it again."
_NOT_RESIZED = (
    "Tokenizer, config.json and embedding must agree: after adding tokens call "
    "model.resize_token_embeddings(len(tokenizer)) and save all of it."
)
_NO_HEAD = (
    'If the output matrix is the embedding, say so in config.json ("tie_word_embeddings": true); else it was lost when '
    "the checkpoint was saved."
)
_NOT_USED = "transformers would ignore it, llama.cpp would not: let config.json tell of it (attention_bias …), or remove it."


@dataclass(frozen=True)
class Misfit:
    """A tensor that is not as the model has it: its shape in the checkpoint and in the model, None where it is not."""

    name: str
    stored: Shape | None
    implied: Shape | None


def require_implied(checkpoint: Path, stored: Mapping[str, Sequence[int]]) -> None:
    """Compare what a checkpoint holds with the model that its config.json describes.

    What transformers does not know without code of the checkpoint, or reads through a quantization, is not compared.

    Args:
        stored: the shapes of all its tensors, by name.

    Raises:
        CheckpointError: a tensor is missing, of another size, or of no use to the model; it is named.
    """
    try:
        found = misfits(checkpoint, {name: tuple(shape) for name, shape in stored.items()})
    except Exception as error:  # a failure of transformers is no finding
        print(f"Not compared with config.json: {type(error).__name__}: {error}", flush=True)
        return
    if found:
        raise _refusal(checkpoint, found)


def misfits(checkpoint: Path, stored: Mapping[str, Shape]) -> list[Misfit]:
    """What does not fit, in the order of names. Raises whatever transformers raises if it cannot build the model."""
    from transformers import AutoConfig

    with _quiet():
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
        with uncollected():
            model_class = _model_class(config)
        if model_class is None or getattr(config, "quantization_config", None) is not None:
            return []
        found = _load(model_class, config, stored)
    return sorted(found, key=lambda misfit: misfit.name)


def _model_class(config: Any) -> Any:
    """transformers' own class of the first architecture; None if it has none for such a config."""
    import transformers

    name = str((getattr(config, "architectures", None) or [""])[0])
    known = getattr(transformers, name, None) if name.isidentifier() else None
    wanted = getattr(known, "config_class", None)
    return known if isinstance(wanted, type) and isinstance(config, wanted) else None


def _load(model_class: Any, config: Any, stored: Mapping[str, Shape]) -> list[Misfit]:
    import torch

    empty = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in stored.items()}
    with torch.device("meta"):  # buffers too, which are computed from the configuration
        try:
            model, info = model_class.from_pretrained(
                None, config=config, state_dict=empty, device_map="meta", dtype=torch.float16,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
        except RuntimeError as error:
            if _CONVERSION not in str(error):
                raise
            return _unlike(_saved(model_class(config)), stored)
    lacking = [Misfit(name, None, None) for name in info["missing_keys"]]
    if 2 * len(lacking) > len(model.state_dict()):
        return []  # the checkpoint names its tensors otherwise than transformers does, but perhaps as llama.cpp does
    resized = [_resized(key, model, stored) for key in info["mismatched_keys"]]
    wrong = [misfit for misfit in (*lacking, *resized) if not _NOT_CONVERTED.search(misfit.name)]
    if wrong:
        return _as_stored(wrong, model, stored)
    return [Misfit(name, stored.get(name), None) for name in _ignored(model, info["unexpected_keys"])]


def _resized(key: Any, model: Any, stored: Mapping[str, Shape]) -> Misfit:
    """transformers 5 tells both shapes beside the name, 4 tells the name."""
    if isinstance(key, str):
        return Misfit(key, stored.get(key, ()), tuple(model.state_dict()[key].shape))
    name, there, wanted = key
    return Misfit(name, tuple(there), tuple(wanted))


def _as_stored(wrong: list[Misfit], model: Any, stored: Mapping[str, Shape]) -> list[Misfit]:
    """The same under the names that the checkpoint's tensors have; experts, say, are one tensor in the model."""
    if not any(_FUSED.search(misfit.name) for misfit in wrong):
        return wrong
    unlike = [misfit for misfit in _unlike(_saved(model), stored) if ".experts." in misfit.name]
    return [misfit for misfit in wrong if not _FUSED.search(misfit.name)] + (unlike or wrong)


def _saved(model: Any) -> dict[str, Shape]:
    """The tensors as transformers would save them."""
    from transformers.core_model_loading import revert_weight_conversion

    tied = getattr(model, "all_tied_weights_keys", None) or {}
    saved = revert_weight_conversion(model, model.state_dict())
    return {name: tuple(tensor.shape) for name, tensor in saved.items() if name not in tied}


def _unlike(wanted: Mapping[str, Shape], stored: Mapping[str, Shape]) -> list[Misfit]:
    return [Misfit(n, stored.get(n), shape) for n, shape in wanted.items() if stored.get(n) != shape]


def _ignored(model: Any, unexpected: Iterator[str]) -> list[str]:
    """Tensors for which the model has the very module, but no use: biases, mostly."""
    owners = {name for name, module in model.named_modules() if getattr(module, "weight", None) is not None}
    return [
        name for name in unexpected if name.rpartition(".")[0] in owners and name.endswith((".bias", ".weight"))
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What transformers warns of here is said by the errors of this module."""
    from transformers.utils import logging

    before, asynchronous = logging.get_verbosity(), os.environ.get(_ASYNC_OFF)
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    os.environ[_ASYNC_OFF] = "1"  # the converter's process will be forked: no threads before that
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
        if asynchronous is None:
            del os.environ[_ASYNC_OFF]


def _refusal(checkpoint: Path, found: Sequence[Misfit]) -> CheckpointError:
    first = next((misfit for misfit in found if misfit.stored is not None), found[0])
    more = f" In all {len(found)} tensors do not fit." if len(found) > 1 else ""
    if first.stored is None:
        message = f"{checkpoint} has no {first.name}, which its config.json implies.{more}"
        return CheckpointError(message, hint=_NO_HEAD if first.name == "lm_head.weight" else _OTHER_MODEL)
    if first.implied is None:
        message = f"{checkpoint} has {first.name}, which is no part of the model in its config.json.{more}"
        return CheckpointError(message, hint=_NOT_USED)
    sizes = f"{_size(first.stored)} where its config.json implies {_size(first.implied)}"
    rows = first.stored[1:] == first.implied[1:] and re.search(r"emb|lm_head|wte", first.name)
    message = f"{first.name} of {checkpoint} is {sizes}.{more}"
    return CheckpointError(message, hint=_NOT_RESIZED if rows else _OTHER_MODEL)


def _size(shape: Shape) -> str:
    return " × ".join(map(str, shape)) or "one number"
