"""The refined model, whole, and the original whose answers it should give: what tuning and distillation work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from numpy.typing import NDArray
from torch import nn

from ggufkit.layers import HiddenStates, StreamedModel, from_file_rows, to_file_rows
from ggufkit.llama.gguf import EMBEDDING
from ggufkit.refine.tensors import Pair, QuantizedRows

Vectors = Mapping[str, NDArray[np.float32]]

LOGITS_AT_ONCE = 1 << 25
"""Logits that are held at a time, or of one sample if that has more."""
_HELD_OUT_EVERY = 12
# The base's value of a vector minus the checkpoint's is 0, or 1 where a norm multiplies by 1 + w.
_SHIFTS, _SAME = (0.0, 1.0), 1e-2


@dataclass(frozen=True)
class Place:
    """Where a matrix of the file is in the running model; `weight` is (out, in) in the checkpoint's order."""

    tensor: str
    expert: int | None
    row_heads: int | None
    weight: nn.Parameter

    def set(self, weights: torch.Tensor) -> None:
        """Go on with these, (columns, rows) as the file has them."""
        self.weight.data.copy_(from_file_rows(weights.T, self.row_heads))

    def take_gradient(self) -> torch.Tensor:
        """The gradient, (columns, rows) as the file has them; zero where none has come. It is forgotten here."""
        gradient, self.weight.grad = self.weight.grad, None
        if gradient is None:  # no token was sent to this expert
            return torch.zeros_like(self.weight.T)
        return to_file_rows(gradient, self.row_heads).T.contiguous()


class Student:
    """The refined model, whole, with the vectors and matrices that may change."""

    def __init__(self, model: StreamedModel, pair: Pair) -> None:
        self.pair = pair
        self.model = StreamedModel(model.path, model.device, QuantizedRows(model.path, pair))
        self._places: list[Place] = []
        self.layers = [self._layer(index) for index in range(model.n_layers)]
        self.vectors = self._tunable()
        self._starts = {name: vector.detach().clone() for name, vector in self.vectors.items()}
        self._table: nn.Parameter | None = None

    def _layer(self, index: int) -> nn.Module:
        layer = self.model.load_layer(index)
        for linear in self.model.linears(layer, index):
            if linear.tensor in self.pair.quantized.by_name:
                stored = self.pair.stored(linear.tensor, linear.expert)
                weight: nn.Parameter = layer.get_submodule(linear.module).weight  # type: ignore[assignment]
                place = Place(linear.tensor, linear.expert, linear.row_heads, weight)
                place.set(stored.T)
                self._places.append(place)
        return layer

    def trained(self) -> list[Place]:
        """All matrices in blocks with super-scales, embedding and output among them; from now on gradients flow to them."""
        head = self.model.head_parameter()
        places = [*self._places, Place(self.pair.output, None, None, head)]
        if self._has_scales(EMBEDDING):
            tied = self.pair.output == EMBEDDING
            self._table = head if tied else nn.Parameter(self.pair.stored(EMBEDDING).to(self.model.device))
            places += [] if tied else [Place(EMBEDDING, None, None, self._table)]
        found = [place for place in places if self._has_scales(place.tensor)]
        for place in found:
            place.weight.requires_grad_()
        return found

    def _has_scales(self, tensor: str) -> bool:
        codec = self.pair.codec(tensor)
        return codec is not None and codec.d is not None

    def _tunable(self) -> dict[str, nn.Parameter]:
        """The F32 vectors of the file that the checkpoint holds in the same order, by their GGUF names."""
        header = self.pair.base
        arch = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}[header.architecture]
        names = get_tensor_name_map(arch, self.model.n_layers)
        found: dict[str, nn.Parameter] = {}
        for path, parameter in self._parameters():
            name = names.get_name(path, try_suffixes=(".weight", ".bias"))
            if parameter.dim() == 1 and name is not None and self._is_same(name, parameter):
                parameter.requires_grad_()
                found[name] = parameter
        return found

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        named = [(f"model.norm.{name}", p) for name, p in self.model.final_norm().named_parameters()]
        for index, layer in enumerate(self.layers):
            named += [(self.model.prefix(index) + name, p) for name, p in layer.named_parameters()]
        return named

    def _is_same(self, name: str, parameter: nn.Parameter) -> bool:
        tensor = self.pair.quantized.by_name.get(name)
        if tensor is None or tensor.type != "F32" or tensor.shape != tuple(parameter.shape):
            return False
        off = self.pair.vector(name) - parameter.detach().cpu()
        return any(bool(torch.allclose(off, torch.full_like(off, s), atol=_SAME * (1 + s))) for s in _SHIFTS)

    def logits(self, ids: NDArray[np.int32]) -> torch.Tensor:
        """(samples, tokens) -> (samples, tokens, vocabulary)."""
        hidden = self.model.embed(ids, self._table)
        for index, layer in enumerate(self.layers):
            hidden = self.model.forward(index, layer, hidden)
        return self.model.logits(hidden)

    def snapshot(self) -> Vectors:
        """The file's vectors with the changes made so far."""
        return {
            name: (self.pair.vector(name) + (vector.detach() - self._starts[name]).cpu()).numpy()
            for name, vector in self.vectors.items()
        }


class Original:
    """The original's answers, and how far a student's are from them.

    Args:
        samples: token ids, those to be held out after the first `n_samples`; of these each twelfth is held out as well.
        hidden: the original's states after the last layer, for all samples.
    """

    def __init__(
        self, model: StreamedModel, samples: NDArray[np.int32], n_samples: int, hidden: HiddenStates
    ) -> None:
        self.model, self.samples, self._hidden = model, samples, hidden
        every = range(len(samples))
        self.held_out = [i for i in every if i >= n_samples or i % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1]
        self.given = sorted(set(every) - set(self.held_out))

    def judge(self, student: Student, chosen: list[int]) -> torch.Tensor:
        """Mean KL divergence of each of some samples, nats a token."""
        with torch.no_grad():
            return torch.cat([self.divergence(student, part) for part in self.parts(chosen)]).double().cpu()

    def parts(self, chosen: list[int]) -> Iterator[list[int]]:
        """As many samples as are run at once."""
        step = max(1, LOGITS_AT_ONCE // (self.model.n_vocab * self.samples.shape[1]))
        return (chosen[start : start + step] for start in range(0, len(chosen), step))

    def divergence(self, student: Student, chosen: list[int], *, coarse: bool = False) -> torch.Tensor:
        """Mean KL divergence of each of some samples that are run at once, nats a token; gradients flow.

        Args:
            coarse: multiply in bfloat16.
        """
        with torch.no_grad():
            hidden = torch.cat([self._hidden.read(i, i + 1) for i in chosen])
            wanted = self.model.logits(hidden).log_softmax(-1)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=coarse):
            answers = student.logits(self.samples[chosen])
        answers = answers.float().log_softmax(-1)
        each = nn.functional.kl_div(answers, wanted, reduction="none", log_target=True)
        return each.sum(-1).mean(-1)


def batches(given: list[int], size: int, count: int) -> Iterator[list[int]]:
    """`count` batches, in an order of their own for each pass over the samples."""
    rng, queue = np.random.default_rng(0), list[int]()
    for _ in range(count):
        while len(queue) < size:
            queue += [given[i] for i in rng.permutation(len(given))]
        yield queue[:size]
        del queue[:size]
