"""The weights of a base with an adapter merged by peft; a process of its own, because the whole model is loaded.

Run as a module it merges: `python -m ggufkit.models.peft_merge BASE ADAPTER TARGET`. What cannot be merged ends it
with one line on stderr.

The merged checkpoint computes what the adapted model computes. Two things that peft's own merge does not see to are
seen to here: an embedding that is tied to the head is untied first, where the adapter changes only one of the two,
and each matrix is merged in float32 and rounded once to the base's dtype.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.models.checkpoint import read_config, stored_tensors

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ADAPTER = ".default"
_BEFORE = ".original_module."
_WHOLE = ("weight", "base_layer.weight", "token_adapter.base_layer.weight")
"""What an embedding or a head is called where an adapter carries all its rows."""
_SAME = 1e-6
"""Two copies of a matrix that differ by less than this, as a fraction of the largest weight, differ by rounding."""
_NOT_WEIGHTS = {
    "alora_invocation_tokens": "changes the weights for a part of the text only",
    "layer_replication": "makes another model, with more layers",
}
"""Settings of an adapter whose result is no set of weights for this base."""
_MISMATCH = re.compile(r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?checkpoint.*?Size\(\[(.*?)\]\)")


class Refused(Exception):
    """Why an adapter cannot be merged into this base, in one sentence without its full stop."""


@dataclasses.dataclass(frozen=True)
class Merged:
    """What merging made.

    Attributes:
        weights: by the names of the checkpoint.
        head: name of an output matrix that the checkpoint does not have, because it uses the embedding there.
        vocabulary: rows of the embedding, None where they are the base's.
        absent: weights that the model has and neither the checkpoint nor the adapter holds.
    """

    weights: Mapping[str, Tensor]
    head: str | None
    vocabulary: int | None
    absent: frozenset[str]


def merge(base: Path, adapter: Path, target: Path) -> None:
    """Write the base's shards again with the merged weights, and its config where the adapter changes that.

    Raises:
        Refused: the adapter cannot be merged into this base, or changes nothing.
    """
    merged = _merged(base, adapter)
    stored = {tensor.name: tensor.file.relative_to(base) for tensor in stored_tensors(base)}
    _require_known(merged, stored)
    if not _write_shards(base, stored, merged, target) and merged.head is None:
        raise Refused("the adapter changes no weight of this model")
    _write_config(base, target, merged)


def _merged(base: Path, adapter: Path) -> Merged:
    from peft import PeftModel
    from transformers.core_model_loading import revert_weight_conversion

    _require_mergeable(adapter)
    model, told = model_class(base).from_pretrained(base, dtype=load_dtype(base), output_loading_info=True)
    carried = _shapes(adapter)
    resized = _resize(model, carried)
    adapted = PeftModel.from_pretrained(model, adapter, torch_device="cpu")
    _require_all_used(adapted, adapter, carried)
    tied = _untie(adapted)
    _merge_in_float32(adapted)
    whole = adapted.merge_and_unload(safe_merge=True)
    head = _head_of_its_own(whole, tied=tied)
    weights = revert_weight_conversion(whole, whole.state_dict())
    return Merged(weights, head, resized, frozenset(told["missing_keys"]))


def _require_mergeable(adapter: Path) -> None:
    """Refuse a method whose result is no set of weights, and a setting that this peft does not know."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTuner

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    method = str(config.get("peft_type"))
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(method)
    if method not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise Refused(f"this peft knows no method {method}")
    if tuner is None or not issubclass(tuner, BaseTuner):
        raise Refused(f"{method} changes how the model runs, not its weights: there is nothing to merge")
    for setting, why in _NOT_WEIGHTS.items():
        if config.get(setting):
            raise Refused(f"{setting} {why}")
    known = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[method])}
    unknown = sorted(name for name, value in config.items() if value and name not in known)
    if unknown:
        raise Refused(f"this peft does not know its setting {unknown[0]}; a newer one may")


def model_class(base: Path) -> Any:
    """The class that the checkpoint names; the adapter's names are those of its modules."""
    import transformers

    named = (read_config(base).get("architectures") or [""])[0]
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def load_dtype(base: Path) -> str:
    """The dtype of all weights of a checkpoint, float32 where there are several: none is rounded on its way."""
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    found = {tensor.dtype for tensor in stored_tensors(base)} & set(names)
    return names[found.pop()] if len(found) == 1 else "float32"


def _shapes(adapter: Path) -> dict[str, list[int]]:
    """What an adapter carries, by the names of the model's modules."""
    from safetensors import safe_open

    with safe_open(adapter / WEIGHTS, "pt") as file:
        names = file.keys()
        return {name.removeprefix(_PREFIX): file.get_slice(name).get_shape() for name in names}


def _resize(model: PreTrainedModel, carried: Mapping[str, list[int]]) -> int | None:
    """Give embedding and head the rows that the adapter was trained with; return their number if it is another.

    Raises:
        Refused: there are rows that neither the base nor the adapter holds.
    """
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    modules = [name for name, module in model.named_modules() if id(module) in ends]
    rows = {name: found for name in modules if (found := _rows(name, carried)) is not None}
    before, wanted = model.get_input_embeddings().weight.shape[0], max(rows.values(), default=None)
    if wanted is None or wanted == before:
        return None
    whole = {name for name in modules if any(f"{name}.{end}" in carried for end in _WHOLE)}
    tied = len({id(model.get_submodule(name).weight) for name in modules}) == 1
    lacking = sorted(set(modules) - whole) if not (tied and whole) else []
    if wanted > before and lacking:
        raise Refused(
            f"it was trained with {wanted} tokens, and the {wanted - before} new rows of {lacking[0]} lack"
        )
    model.resize_token_embeddings(wanted, mean_resizing=False)
    return wanted


def _rows(module: str, carried: Mapping[str, list[int]]) -> int | None:
    """For how many tokens the adapter carries something for an embedding or a head."""
    dimensions = dict.fromkeys((*_WHOLE, "lora_B.weight"), 0) | {"lora_embedding_A": 1}
    found = (carried[name][d] for end, d in dimensions.items() if (name := f"{module}.{end}") in carried)
    return next(found, None)


def _require_all_used(adapted: PeftModel, adapter: Path, carried: Mapping[str, list[int]]) -> None:
    """Refuse where a weight of the adapter has no place in the model, or a place has no weight."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    weights = load_peft_weights(str(adapter), device="cpu")
    unused = set_peft_model_state_dict(adapted, weights).unexpected_keys
    used = [weight for name, weight in weights.items() if name not in unused]
    for name in unused:
        # With another vocabulary peft saves embedding and head as they are in training: some weights twice, and what
        # was there before it.
        if _BEFORE not in name and not any(_equal(weights[name], weight) for weight in used):
            raise Refused(f"it holds {_plain(name)}, for which this model has no place")
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    lacking = sorted({name.removeprefix(_PREFIX) for name in wanted} - set(carried))
    if lacking:
        raise Refused(f"{WEIGHTS} lacks {lacking[0]}")


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(_ADAPTER, "")


def _untie(adapted: PeftModel) -> bool:
    """Give the head weights of its own, and tell whether it used the embedding's until now.

    What is merged into one of the two would be in both.
    """
    from torch import nn

    model = adapted.get_base_model()
    embedding, head = _inner(model.get_input_embeddings()), _inner(model.get_output_embeddings())
    if head is None or head.weight is not embedding.weight:
        return False
    head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
    return True


def _inner(module: nn.Module | None) -> Any:
    """The layer inside the wrappers that peft puts around it."""
    for wrapper in ("original_module", "base_layer"):
        module = getattr(module, wrapper, module)
    return module


def _merge_in_float32(adapted: PeftModel) -> None:
    """Merge each layer in float32 and round it once to its dtype; peft would round the change and the sum."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer) and not module.merged:
            layer = module.get_base_layer()
            dtypes = {name: weight.dtype for name, weight in layer.named_parameters()}
            module.float()
            module.merge(safe_merge=True)
            for name, weight in layer.named_parameters():
                weight.data = weight.data.to(dtypes.get(name, weight.dtype))


def _head_of_its_own(whole: PreTrainedModel, *, tied: bool) -> str | None:
    """Name of the head's weight, where the base's head was its embedding and the merged model's is not.

    Where both were changed alike they are made one again.
    """
    embedding, head = whole.get_input_embeddings(), whole.get_output_embeddings()
    if not tied or head is None:
        return None
    if _alike(embedding.weight.data, head.weight.data):
        head.weight = embedding.weight
        return None
    return next(f"{name}.weight" for name, module in whole.named_modules() if module is head)


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one.float() - other.float()).abs().max() <= _SAME * one.float().abs().max())


def _require_known(merged: Merged, stored: Mapping[str, Path]) -> None:
    """transformers may hold weights under other names than the checkpoint: those would be lost in silence."""
    places = {weight.data_ptr() for name, weight in merged.weights.items() if name in stored}
    for name, weight in merged.weights.items():
        known = name in stored or name in merged.absent or name == merged.head or weight.data_ptr() in places
        if not known:
            raise Refused(f"the merged model has {name}, which the checkpoint does not hold under this name")


def _write_shards(base: Path, stored: Mapping[str, Path], merged: Merged, target: Path) -> int:
    """Write every shard with its merged weights; return how many weights changed. A new head joins the last shard."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    changed, shards = 0, sorted(set(stored.values()))
    for shard in shards:
        weights: dict[str, Tensor] = {}
        with safe_open(base / shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                before = file.get_tensor(name)
                weights[name] = _apart(merged.weights.get(name, before).to(before.dtype))
                changed += not _equal(before, weights[name])
        if merged.head is not None and shard == shards[-1]:
            weights[merged.head] = merged.weights[merged.head]
        (target / shard).parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, target / shard, {"format": "pt"})
    if merged.head is not None:
        _extend_index(base, shards[-1], merged, target)
    return changed


def _apart(weight: Tensor) -> Tensor:
    """A tensor in memory of its own, as safetensors wants it: experts are parts of one."""
    return (
        weight.contiguous() if weight.untyped_storage().nbytes() == weight.nbytes else weight.clone().contiguous()
    )


def _equal(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and bool((before == after).all())


def _extend_index(base: Path, shard: Path, merged: Merged, target: Path) -> None:
    source = base / "model.safetensors.index.json"
    if source.is_file() and merged.head is not None:
        index, weight = json.loads(source.read_text(encoding="utf-8")), merged.weights[merged.head]
        index["weight_map"][merged.head] = shard.as_posix()
        if "total_size" in index.get("metadata", {}):
            index["metadata"]["total_size"] += weight.numel() * weight.element_size()
        (target / source.name).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_config(base: Path, target: Path, merged: Merged) -> None:
    """The base's config with another vocabulary, and with a head of its own, where that is so."""
    news: dict[str, object] = {}
    if merged.vocabulary is not None:
        news["vocab_size"] = merged.vocabulary
    if merged.head is not None:
        news["tie_word_embeddings"] = False
    if news:
        config = read_config(base)
        inner = config.get("text_config")
        if isinstance(inner, dict):
            inner |= news
            news = {name: value for name, value in news.items() if name in config or name == "tie_word_embeddings"}
        (target / "config.json").write_text(json.dumps(config | news, indent=2), encoding="utf-8")


def reason(error: Exception) -> str:
    """What peft or transformers says, in one line; where shapes differ, which."""
    if isinstance(error, KeyError):
        return f"{WEIGHTS} lacks {error.args[0]}"
    found = _MISMATCH.search(str(error).replace("\n", " "))
    if found is not None:
        name, ours, theirs = _plain(found[1]), found[2].replace(", ", " x "), found[3].replace(", ", " x ")
        return f"{name} is {ours} in the adapter and {theirs} for this model"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        merge(*(Path(argument) for argument in sys.argv[1:4]))
    except Exception as error:
        traceback.print_exc()
        sys.exit(reason(error))
