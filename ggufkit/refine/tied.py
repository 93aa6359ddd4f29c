"""An embedding that is the output matrix, too: how much its rows matter beside what it gives as that."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ggufkit.layers import EMBEDDING, StreamedModel

_SAMPLES = 4


def weight_of_rows(original: StreamedModel, quantized: StreamedModel, samples: NDArray[np.int32]) -> float:
    """λ of the loss e H eᵀ + λ e eᵀ of a row's error e, with the second moments H of what the output matrix is given.

    Both terms are measured on a few samples: the KL divergence that the errors cause where the model reads its tokens,
    and where it writes its answer, each by the squared errors that it comes with.

    Args:
        quantized: the same model, with the embedding and the output matrix of the quantized file alone.
        samples: token ids (samples, tokens).

    Returns:
        0 if the quantized matrix makes no difference at one of the places.
    """
    few = samples[:_SAMPLES]
    clean, read = original.embed(few), quantized.embed(few)
    ids = torch.from_numpy(few.reshape(-1).astype(np.int64))
    errors = (quantized.shards.rows(EMBEDDING, ids) - original.shards.rows(EMBEDDING, ids)).to(original.device)
    for index in range(original.n_layers):
        layer = original.load_layer(index)
        with torch.no_grad():
            clean, read = (original.forward(index, layer, hidden) for hidden in (clean, read))
    of_reading, of_writing = _divergences(original, quantized, clean, read)
    inputs = original.normalized(clean).flatten(0, 1)
    read_error = float(errors.square().sum())
    written_error = float((errors @ inputs.T).square().sum()) / len(inputs)
    if not (of_writing > 0 and read_error > 0):
        return 0.0
    return max(of_reading, 0.0) / read_error * written_error / of_writing


def _divergences(
    original: StreamedModel, quantized: StreamedModel, clean: torch.Tensor, read: torch.Tensor
) -> tuple[float, float]:
    """Summed KL divergences from the original's answers: of states `read` from quantized rows, of a quantized output."""
    of_reading = of_writing = 0.0
    for index in range(len(clean)):
        own, other = clean[index : index + 1], read[index : index + 1]
        wanted = original.logits(own).log_softmax(-1)
        of_reading += _divergence(wanted, original.logits(other))
        of_writing += _divergence(wanted, quantized.logits(own))
    quantized.release_head()
    return of_reading, of_writing


def _divergence(wanted: torch.Tensor, logits: torch.Tensor) -> float:
    return float(torch.nn.functional.kl_div(logits.log_softmax(-1), wanted, reduction="sum", log_target=True))
