"""A checkpoint whose decoder layers are loaded one at a time into transformers' own modules."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ggufkit.core.errors import CheckpointError, UnsupportedArchitecture
from ggufkit.layers.device import choose_device, return_freed_memory
from ggufkit.layers.experts import split_experts
from ggufkit.layers.linears import Linear, describe
from ggufkit.layers.shards import Shards

_LAYER = "model.layers.{}."
EMBEDDING = "model.embed_tokens.weight"
# Attention scores are capped between the matrix products, which the fused kernel cannot do.
_EAGER = ("gemma2",)


class StreamedModel:
    """A causal language model on disk; weights are read when asked for, in float32.

    Args:
        device: where its layers run; "auto" is the GPU if there is one.
        shards: where its weights are read, if they are not simply those of `path`.

    Raises:
        CheckpointError: no usable config.json or weights, or weights that are quantized already.
        UnsupportedArchitecture: transformers does not know it without code of its own, or it is not laid out
            as `model.layers.N`.
    """

    def __init__(self, path: Path, device: str | torch.device = "auto", shards: Shards | None = None) -> None:
        return_freed_memory()
        self.path = path
        self.device = choose_device(device) if isinstance(device, str) else device
        self.shards = shards or Shards(path)
        self.config = _read_config(path)
        self._model = _skeleton(self.config)
        self.n_layers = len(self._layers)
        self.width = int(self.config.hidden_size)
        self._recorded: dict[int, list[dict[str, Any]]] = {}

    @property
    def model_type(self) -> str:
        """The architecture as config.json calls it: "llama", "qwen2" …"""
        return str(self.config.model_type)

    @property
    def architecture(self) -> str:
        """The class that config.json names first: "LlamaForCausalLM"."""
        return str((self.config.architectures or ["unknown"])[0])

    @property
    def heads(self) -> tuple[int, int]:
        """Query heads and KV heads."""
        query = int(self.config.num_attention_heads)
        return query, int(getattr(self.config, "num_key_value_heads", None) or query)

    @property
    def n_vocab(self) -> int:
        """Rows of the token embedding."""
        return self.shards.info(EMBEDDING).shape[0]

    @property
    def _layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self._model.model.layers
        return layers

    def prefix(self, index: int) -> str:
        """What the names of a layer's tensors start with in the checkpoint."""
        return _LAYER.format(index)

    def require_layout(self) -> None:
        """Raise UnsupportedArchitecture where the checkpoint names a layer's weights otherwise than its module does."""
        for index in {0, self.n_layers - 1}:
            layer = copy.deepcopy(self._layers[index])
            split_experts(layer)
            for name, _ in layer.named_parameters():
                if self.prefix(index) + name not in self.shards:
                    raise _unsupported(f"{self.model_type}, whose checkpoints hold no {name},")

    def load_layer(self, index: int) -> nn.Module:
        """A decoder layer with its weights, on the device, in eval mode and without gradients."""
        layer = copy.deepcopy(self._layers[index])
        split_experts(layer)
        prefix = self.prefix(index)
        weights = {name: self._read(prefix + name, p.shape) for name, p in layer.named_parameters()}
        kept = {name: b for name, b in layer.state_dict().items() if name not in weights}  # routers have such
        weights |= {
            name: self._read(prefix + name, b.shape) for name, b in kept.items() if prefix + name in self.shards
        }
        layer.load_state_dict(weights, strict=False, assign=True)
        return layer.to(self.device).eval().requires_grad_(False)

    def _read(self, name: str, shape: torch.Size) -> torch.Tensor:
        stored = self.shards.info(name).shape
        if stored != tuple(shape):
            message = f"{self.path}: {name} is {stored}, config.json implies {tuple(shape)}."
            raise CheckpointError(message, hint="config.json and the weights are not of one model.")
        return self.shards.read(name, self.device)

    def linears(self, layer: nn.Module, index: int) -> list[Linear]:
        """The linears of a loaded layer that become matrices of the GGUF, in the module's order."""
        modules = [(n, m.in_features) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
        return describe(modules, index, self.model_type, self.heads)

    def embed(self, ids: NDArray[np.int32], table: torch.Tensor | None = None) -> torch.Tensor:
        """Token ids (samples, tokens) -> the first layer's input (samples, tokens, width).

        Args:
            table: of the embedding, (vocabulary, width), where that is not the shards'; gradients flow to it.
        """
        if table is not None:
            return self._embedded(torch.from_numpy(ids.astype(np.int64)), table)
        unique, place = np.unique(ids, return_inverse=True)
        rows = self.shards.rows(EMBEDDING, torch.from_numpy(unique.astype(np.int64))).to(self.device)
        with torch.no_grad():
            return self._embedded(torch.from_numpy(place.reshape(ids.shape)), rows)

    def _embedded(self, places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """What the model's own embedding gives with `rows` for its weight."""
        embedding = copy.deepcopy(self._model.model.embed_tokens)
        embedding.padding_idx = None
        buffers = {name: buffer.to(self.device) for name, buffer in embedding.named_buffers()}
        weights = {**buffers, "weight": rows}
        embedded: torch.Tensor = torch.func.functional_call(embedding, weights, places.to(self.device))
        return embedded

    def forward(self, index: int, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Run a loaded layer: (samples, tokens, width) -> the same shape. Gradients flow if they are enabled."""
        output = layer(hidden.to(self.device), **self.layer_kwargs(index, hidden.shape[1]))
        result: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def layer_kwargs(self, index: int, n_tokens: int) -> dict[str, Any]:
        """What the base model passes to a layer besides hidden states: masks and rotary embeddings of one sample.

        They broadcast over samples.
        """
        if n_tokens not in self._recorded:
            self._recorded[n_tokens] = self._record(n_tokens)
        return self._recorded[n_tokens][index]

    def _record(self, n_tokens: int) -> list[dict[str, Any]]:
        stand_ins = [_StandIn(layer) for layer in self._layers]
        blank = torch.zeros(1, n_tokens, self.width, device=self.device)
        base = self._model.model
        for module in (base.rotary_emb, getattr(base, "rotary_emb_local", None)):
            if module is not None:
                module.to(self.device)
        with self._with_layers(stand_ins), contextlib.suppress(_RecordedAll), torch.no_grad():
            stand_ins[-1].last = True
            base(inputs_embeds=blank, use_cache=False)
        return [stand_in.kwargs for stand_in in stand_ins]

    @contextlib.contextmanager
    def _with_layers(self, layers: list[Any]) -> Iterator[None]:
        own = self._layers
        self._model.model.layers = nn.ModuleList(layers)
        try:
            yield
        finally:
            self._model.model.layers = own

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last layer's output (samples, tokens, width) -> logits (samples, tokens, vocabulary), float32.

        Gradients flow if they are enabled, and `hidden`, the final norm or the output matrix wants them.
        """
        self._load_head()
        hidden = hidden.to(self.device)
        with self._with_layers([_Give(hidden)]):
            result: torch.Tensor = self._model(inputs_embeds=torch.zeros_like(hidden), use_cache=False).logits
        return result

    def normalized(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last layer's output (samples, tokens, width) -> what the output matrix is given, same shape."""
        self._load_head()
        hidden = hidden.to(self.device)
        with self._with_layers([_Give(hidden)]), torch.no_grad():
            base = self._model.model(inputs_embeds=torch.zeros_like(hidden), use_cache=False)
        result: torch.Tensor = base.last_hidden_state
        return result

    def final_norm(self) -> nn.Module:
        """The norm before the output matrix, with its weights."""
        self._load_head()
        norm: nn.Module = self._model.model.norm
        return norm

    def head(self) -> torch.Tensor:
        """The output matrix, (vocabulary, width)."""
        return self.head_parameter().data

    def head_parameter(self) -> nn.Parameter:
        """The output matrix as `logits` uses it."""
        self._load_head()
        weight: nn.Parameter = self._model.lm_head.weight
        return weight

    @functools.cached_property
    def _head_name(self) -> str:
        return "lm_head.weight" if "lm_head.weight" in self.shards else EMBEDDING

    def _load_head(self) -> None:
        """Read the final norm and the output matrix, once."""
        if self._model.lm_head.weight.is_meta:
            norm = self._model.model.norm
            weights = {n: self.shards.read(f"model.norm.{n}") for n, _ in norm.named_parameters()}
            norm.load_state_dict(weights, assign=True)
            self._model.lm_head.weight = nn.Parameter(self.shards.read(self._head_name), requires_grad=False)
            if getattr(self._model.lm_head, "bias", None) is not None:
                self._model.lm_head.bias = nn.Parameter(self.shards.read("lm_head.bias"), requires_grad=False)
            norm.to(self.device)
            self._model.lm_head.to(self.device)

    def release_head(self) -> None:
        """Forget the output matrix; `logits` reads it again."""
        self._model.lm_head.to("meta")


class _RecordedAll(Exception):
    """The last layer has been reached."""


class _StandIn(nn.Module):
    """Takes a layer's place, answers for its attributes, and notes what it is called with."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._inner = [layer]
        self.kwargs: dict[str, Any] = {}
        self.last = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_inner"][0], name)

    def forward(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self.kwargs = kwargs
        if self.last:
            raise _RecordedAll
        return hidden


class _Give(nn.Module):
    """A layer that returns what it was made with."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self._hidden


def _read_config(path: Path) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        hint = "Only architectures that transformers knows by itself are supported."
        raise CheckpointError(f"The config.json of {path} cannot be used: {error}", hint=hint) from error
    if getattr(config, "quantization_config", None) is not None:
        message = f"{path} is quantized already (its config.json has a quantization_config)."
        raise CheckpointError(message, hint="Start from the original checkpoint in F32, F16 or BF16.")
    return config


def _skeleton(config: Any) -> Any:
    """The model with its parameters on the meta device and its buffers (rotary frequencies) real."""
    from transformers import AutoModelForCausalLM

    config.output_router_logits = False  # for a loss in training; single layers have none for it
    attention = "eager" if config.model_type in _EAGER else "sdpa"
    try:
        with _parameters_on_meta():
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
            )
    except ValueError as error:
        raise _unsupported(config.model_type) from error
    if not hasattr(getattr(model, "model", None), "layers"):
        raise _unsupported(config.model_type)
    return model.eval()


def _unsupported(what: str) -> UnsupportedArchitecture:
    message = f"{what} is not a decoder that can be run layer by layer."
    return UnsupportedArchitecture(message, hint="Use --variants plain,imatrix.")


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Let every parameter that a module registers be without storage."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, None if param is None else nn.Parameter(param.to("meta"), requires_grad=False))

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
