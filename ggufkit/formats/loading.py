"""A checkpoint -> a model of transformers that computes in float32, whatever its weights are held in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from ggufkit.core.errors import CheckpointError
from ggufkit.layers.torch_threads import torch
from ggufkit.models.checkpoint import read_config
from ggufkit.models.files import weight_files
from ggufkit.models.quantized import packed
from ggufkit.models.quantized.packed import PARTS, Packing

_BYTES = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True)
class Loaded:
    """A model, its parameters, and the bytes of its weights, None where they are those of its files."""

    model: Any
    n_params: int
    n_bytes: int | None = None


def load(checkpoint: Path, kind: str, made_of: str | None, device: torch.device) -> Loaded:
    """A checkpoint as it is evaluated. Code of a checkpoint is never run.

    Args:
        kind: its format, a name of `known.FORMATS`.
        made_of: the format of its weights, where it is to be made of them.

    Raises:
        CheckpointError: transformers cannot load it, or finds weights missing.
    """
    _quiet()
    if made_of is not None:
        model = _from_files(checkpoint, device, quantization_config=_bitsandbytes(kind))
        return Loaded(model, *_sizes(model, _BYTES[made_of]))
    model = _unpacked(checkpoint, kind, device) if kind in ("awq", "gptq") else _from_files(checkpoint, device)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # bitsandbytes' 4 bits: what the checkpoint names is for speed
            module.compute_dtype = torch.float32
            module.support_avx512bf16_for_cpu = False  # a kernel that computes in BF16
    with torch.inference_mode():  # at the first one compressed-tensors unpacks its weights
        model(torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
    return Loaded(model, _sizes(model, 0)[0])


def _bitsandbytes(kind: str) -> Any:
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def _from_files(checkpoint: Path, device: torch.device, **how: Any) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, local_files_only=True,
        use_safetensors=True, output_loading_info=True, device_map={"": str(device)}, **how,
    )  # fmt: skip
    return _checked(checkpoint, model, info)


def _unpacked(checkpoint: Path, kind: str, device: torch.device) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)
    weights = _weights(checkpoint, _packing(config.quantization_config, kind))
    del config.quantization_config
    with torch.device("meta"):
        model_class = type(AutoModelForCausalLM.from_config(config))
    model, info = model_class.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, attn_implementation="eager",
        output_loading_info=True, device_map={"": str(device)},
    )  # fmt: skip
    return _checked(checkpoint, model, info)


def _packing(how: Any, kind: str) -> Packing:
    return Packing.of(how if isinstance(how, dict) else how.to_dict(), kind)


def _weights(checkpoint: Path, how: Packing) -> dict[str, Tensor]:
    """All tensors of a checkpoint, packed matrices among them as one weight each."""
    weights: dict[str, Tensor] = {}
    with ExitStack() as files:
        readers = dict[str, Callable[[], Tensor]]()
        for file in weight_files(checkpoint)[0]:
            opened = files.enter_context(safe_open(file, "pt"))
            readers |= {name: _reader(opened, name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        matrices = {name.removesuffix(".qweight") for name in readers if name.endswith(".qweight")}
        for matrix in sorted(matrices):
            names = {part: f"{matrix}.{part}" for part in PARTS if f"{matrix}.{part}" in readers}
            try:
                weights[f"{matrix}.weight"] = packed.weight({p: readers.pop(n)() for p, n in names.items()}, how)
            except CheckpointError as error:
                message = f"{matrix} of {checkpoint} is not packed as {how.method.upper()} is: {error.message}."
                raise CheckpointError(message, hint="Download the checkpoint again.") from None
        weights |= {name: read() for name, read in readers.items()}
    return weights


def _reader(opened: Any, name: str) -> Callable[[], Tensor]:
    return lambda: opened.get_tensor(name)


def _checked(checkpoint: Path, model: Any, info: Any) -> Any:
    named = str((read_config(checkpoint).get("architectures") or ["?"])[0])
    if type(model).__name__ != named:
        message = f"transformers has {type(model).__name__} for the text of {checkpoint}, not {named}."
        raise CheckpointError(message, hint="Measure a GGUF of it.")
    if lost := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        message = f"{checkpoint} lacks {len(lost)} weights that its model needs, {lost[0]} first."
        raise CheckpointError(message, hint="Download the checkpoint again.")
    return model.eval()


def _sizes(model: nn.Module, width: int) -> tuple[int, int]:
    """The number of parameters, and bytes: of quantized matrices as they are, of others with so many each."""
    n_params = n_bytes = 0
    quantized = dict(_quantized(model))
    for module_name, name, parameter in _parameters(model):
        if name == "weight" and module_name in quantized:
            n_elements, held = quantized[module_name]
            n_params, n_bytes = n_params + n_elements, n_bytes + held
        else:
            n_params, n_bytes = n_params + parameter.numel(), n_bytes + width * parameter.numel()
    return n_params, n_bytes


def _parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Each parameter once, with its module's name and its own."""
    for full_name, parameter in model.named_parameters():
        module, _, name = full_name.rpartition(".")
        if name.startswith(("weight_", "input_", "output_")):
            continue  # scales and zero points of compressed-tensors
        yield module, name, parameter


def _quantized(model: nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    """Elements and bytes of each matrix that bitsandbytes made."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        scales = getattr(weight, "SCB", None)
        if state is not None and weight is not None:
            parts = [weight.data, *(value for value in state.as_dict(packed=True).values())]
            yield name, (int(torch.Size(state.shape).numel()), sum(t.numel() * t.element_size() for t in parts))
        elif scales is not None and weight is not None:
            yield name, (weight.numel(), weight.numel() + scales.numel() * scales.element_size())


def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
