"""Types of single tensors, as a recipe or a user chooses them: what llama-quantize is told, and what cannot be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod

from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import QuantType, Tensor
from ggufkit.llama import mtp, patterns, quants
from ggufkit.llama.argv import Overrides, Quantization
from ggufkit.llama.gguf import GgufHeader, carried_tensors, ggml_type_by_name
from ggufkit.llama.logs import QuantizePlan, TensorPlan
from ggufkit.recipes.type_recipe import TypeRecipe

_OUTPUT, _EMBEDDINGS = "output.weight", ("token_embd.weight", "per_layer_token_embd.weight")
_NO_FALLBACK = "no tensor type fallback is defined"
_LAYER = re.compile(r"blk\.(\d+)\.")
_ANOTHER = "It was made for another model: make one for this model with `ggufkit recipe`."


def told(overrides: Overrides, recipe: TypeRecipe | None) -> Overrides:
    """The overrides that say the same as both; a user's own patterns come first."""
    if recipe is None:
        return overrides
    return replace(overrides, tensor_types=(*overrides.tensor_types, *patterns.exactly(recipe.types)))


def keeping_carried(overrides: Overrides, base: GgufHeader) -> Overrides:
    """Blocks that the base has from its checkpoint stay as they are, where nobody asks for another type."""
    kept = {tensor.name: tensor.type for tensor in carried_tensors(base)}
    return (
        replace(overrides, tensor_types=(*overrides.tensor_types, *patterns.exactly(kept))) if kept else overrides
    )


def refuse_floats_of_carried(base: GgufHeader, kind: str) -> None:
    """Refuse a type of floats for a file with blocks from its checkpoint, which llama-quantize would refuse, too.

    Raises:
        UsageError: it is that.
    """
    if quants.is_float(kind) and (carried := carried_tensors(base)):
        message = f"{base.path.name} has blocks of {carried[0].type} from its checkpoint: {kind} would make floats of them."
        hint = "Give --allow-requantize if that is wanted. To have the rest in another type of floats, convert to that."
        raise UsageError(message, hint=hint)


def with_mtp(overrides: Overrides, base: GgufHeader, kind: str) -> Overrides:
    """Layers that predict further tokens have a type of their own, where nobody asks for another one.

    Args:
        kind: the type of the whole file.
    """
    own = mtp.types(base, kind, overrides.prune_layers)
    return (
        overrides
        if overrides.pure or not own
        else replace(overrides, tensor_types=(*overrides.tensor_types, *own))
    )


def file_type(recipe: TypeRecipe, base: GgufHeader, known: Sequence[QuantType]) -> QuantType:
    """The type of llama-quantize that is given along with a recipe: its own, else the one that most of its bytes are in.

    Raises:
        InputError: the recipe quantizes nothing, or its type is unknown or a float type.
    """
    if recipe.file_type:
        (kind,) = quants.resolve([recipe.file_type], known)
        if quants.is_float(kind.name):
            message = f"The recipe is for a file of type {kind.name}, in which llama-quantize quantizes nothing."
            raise InputError(message, hint="Give it the type of llama-quantize that is nearest to its size.")
        return kind
    n_bytes: Counter[str] = Counter()
    for name, kind_of in recipe.types.items():
        if (tensor := base.by_name.get(name)) is not None:
            n_bytes[kind_of] += _n_bytes(tensor, kind_of)
    found = quants.file_type(n_bytes, known)
    if found is None:
        message = "The recipe has no type for any tensor that llama-quantize has a type of files for."
        raise InputError(message, hint="Give at least one tensor a quantized type.")
    return next(kind for kind in known if kind.name == found)


def _n_bytes(tensor: Tensor, kind: str) -> int:
    block, block_bytes = ggml_type_by_name(kind)
    return tensor.n_elements // block * block_bytes


def require_possible(base: GgufHeader, kind: str, overrides: Overrides, recipe: TypeRecipe | None) -> None:
    """Refuse what llama-quantize would crash of, ignore or change without a word, as far as the base tells.

    Args:
        kind: the type of the whole file.

    Raises:
        UsageError: two wishes contradict each other.
        InputError: a wish does not fit the base.
    """
    if recipe is not None:
        if replace(overrides, kv=(), prune_layers=()) != Overrides():
            raise UsageError(
                "A recipe says which type each tensor has already.", hint="Change the recipe instead."
            )
        for name, wanted in recipe.types.items():
            _require_shape(base.by_name.get(name), wanted, "The recipe")
    if overrides.leave_output and overrides.output is not None:
        raise UsageError("--leave-output-tensor and --output-tensor-type exclude each other.", hint="Choose one.")
    if overrides.tensor_types and quants.is_float(kind):
        message = f"llama-quantize does not heed --tensor-type in a file of type {kind}."
        raise InputError(message, hint="Choose a quantized type, and give tensors a float type where you want it.")
    for pattern, wanted in overrides.tensor_types:
        patterns.require_pattern(pattern, "--tensor-type")
        quants.tensor_type(wanted)
    for pair in overrides.kv:
        require_pair(pair)
    _require_ends(base, overrides)
    _require_layers(base, overrides.prune_layers)


def _require_shape(tensor: Tensor | None, kind: str, who: str) -> None:
    """By another type that the shape allows, llama-quantize would replace it, or end in a crash."""
    if tensor is None:
        return  # of a pruned file, the plan tells
    block, _ = ggml_type_by_name(quants.tensor_type(kind))
    columns = tensor.shape[0] if tensor.shape else 1
    if columns % block:
        message = f"{who} makes {tensor.name} {kind}, whose blocks are {block} wide: it has {columns:,} columns."
        raise InputError(
            message, hint="Choose a type with blocks of 32, such as Q8_0, Q5_1, Q5_0, Q4_0 or IQ4_NL."
        )


def require_fallbacks(output: ToolOutput, wanted: Quantization) -> None:
    """Raise InputError where llama-quantize ended for want of a type: for a few it has none that rows fit better."""
    if output.returncode != 0 and _NO_FALLBACK in output.text:
        message = f"{wanted.base.name} has tensors whose rows no block of {wanted.type_name} divides."
        hint = "Choose another type: llama-quantize has none to take the place of this one."
        raise InputError(message, hint=hint, log=output.log)


def require_pair(pair: str) -> None:
    """Raise InputError where llama-quantize refuses a pair of metadata, or would write another value."""
    key, _, rest = pair.partition("=")
    kind, colon, value = rest.partition(":")
    forms = {
        "int": r"\d{1,10}",
        "float": r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?",
        "bool": "true|false",
        "str": r"[\s\S]{0,127}",
    }
    fits = colon and kind in forms and re.fullmatch(forms[kind], value, re.IGNORECASE if kind == "float" else 0)
    too_large = kind == "int" and fits and int(value) >= 1 << 32
    if not fits or too_large or not 0 < len(key.encode()) < 128 or (kind == "str" and len(value.encode()) > 127):
        message = f"--override-kv {pair} is nothing that llama-quantize writes as it stands."
        hint = "Write KEY=int:N (32 bits without a sign), KEY=float:X, KEY=bool:true or KEY=str:TEXT (127 bytes)."
        raise InputError(message, hint=hint)


def _require_ends(base: GgufHeader, overrides: Overrides) -> None:
    if overrides.leave_output and _OUTPUT not in base.by_name:
        message = f"{base.path} has no {_OUTPUT}: the token embedding is its output as well."
        raise InputError(message, hint="Use --token-embedding-type.")
    if overrides.output is not None:
        _require_shape(base.by_name.get(_OUTPUT), overrides.output, "--output-tensor-type")
    if overrides.token_embedding is not None:
        for name in _EMBEDDINGS:
            _require_shape(base.by_name.get(name), overrides.token_embedding, "--token-embedding-type")


def _require_layers(base: GgufHeader, layers: Sequence[int]) -> None:
    if not layers:
        return
    there = {int(found[1]) for t in base.tensors if (found := _LAYER.match(t.name))}
    if absent := sorted(set(layers) - there):
        message = f"--prune-layers {absent[0]}: {base.path} has no such layer."
        raise InputError(message, hint=f"Its layers are 0 to {max(there, default=0)}.")
    if there <= set(layers):
        raise InputError("--prune-layers leaves no layer.", hint="Name fewer layers.")
    lists = {
        k: v for k, v in base.metadata.items() if k.startswith(f"{base.architecture}.") and isinstance(v, list)
    }
    if long := [key for key, values in lists.items() if len(values) == len(there)]:
        message = f"--prune-layers would leave {long[0]} as it is, a value for each layer: llama.cpp could not load that."
        raise InputError(message, hint="Prune the checkpoint instead, and convert it again.")


def n_pruned(base: GgufHeader, overrides: Overrides) -> int:
    """How many tensors of the base are left out."""
    layers = set(overrides.prune_layers)
    return sum((found := _LAYER.match(t.name)) is not None and int(found[1]) in layers for t in base.tensors)


def bpw(plan: QuantizePlan) -> float:
    """Bits per weight of the tensors of a plan: the tool counts the weights that it leaves out as well."""
    n_weights = sum(prod(t.shape) for t in plan.tensors)
    blocks = [(prod(t.shape), *ggml_type_by_name(t.after)) for t in plan.tensors]
    return 8 * sum(n // block * n_bytes for n, block, n_bytes in blocks) / n_weights if n_weights else 0.0


def require_heeded(
    plan: QuantizePlan, overrides: Overrides, recipe: TypeRecipe | None, else_typed: Collection[str] = ()
) -> None:
    """With llama-quantize's own plan there: each pattern is found in some name, and each type is the recipe's.

    Args:
        else_typed: tensors whose type is known without the recipe.

    Raises:
        InputError: so it is not.
    """
    for pattern, kind in overrides.tensor_types:
        if not any(patterns.is_found(pattern, tensor.name) for tensor in plan.tensors):
            message = f"--tensor-type {pattern}={kind} matches no tensor."
            kinds = dict.fromkeys(_LAYER.sub("", t.name).removesuffix(".weight") for t in plan.tensors)
            raise InputError(message, hint=f"Parts of the names of its tensors: {', '.join(kinds)}.")
    if recipe is not None:
        _require_recipe(plan, recipe, {*recipe.types, *else_typed})


def _require_recipe(plan: QuantizePlan, recipe: TypeRecipe, typed: Collection[str]) -> None:
    planned = {tensor.name: tensor for tensor in plan.tensors}
    left = [t.name for t in plan.tensors if t.after != t.before and t.name not in typed]
    if left and not recipe.file_type:
        message = f"The recipe has no type for {left[0]}, and names no type of the file whose mix the rest gets."
        raise InputError(
            message, hint="Give it a file_type, e.g. Q4_K_M. A list of patterns: use --tensor-type-file."
        )
    if absent := [name for name in recipe.types if name not in planned]:
        raise InputError(f"The recipe names {absent[0]}, which the model lacks.", hint=_ANOTHER)
    for name, kind in recipe.types.items():
        if planned[name].after != kind and not _is_left(planned[name], kind):
            message = f"The recipe makes {name} {kind}, llama-quantize {planned[name].after}."
            raise InputError(message, hint="It never quantizes some tensors: leave this one out of the recipe.")


def _is_left(tensor: TensorPlan, kind: str) -> bool:
    """Whether llama-quantize leaves a tensor in a float type, where another one was wanted: as it always does."""
    return tensor.before == tensor.after and quants.is_float(tensor.after) and quants.is_float(kind)


def left_as_they_are(plan: QuantizePlan, recipe: TypeRecipe) -> list[str]:
    """Tensors that the recipe has in another float type than llama-quantize leaves them in."""
    wanted = recipe.types
    return [
        t.name
        for t in plan.tensors
        if t.name in wanted and wanted[t.name] != t.after and _is_left(t, wanted[t.name])
    ]
