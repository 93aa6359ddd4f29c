"""What a model predicts, compared with what its base predicts at the same positions. Source: see `statistics`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ggufkit.formats.tokens import Tokens
from ggufkit.llama.logits_file import CLIP, SavedRows


def compare(logits: Tensor, base: SavedRows, following: Tensor) -> Tokens:
    """One row for each position.

    Args:
        logits: (n_rows, n_vocab) float32.
        base: the base's predictions at the same positions.
        following: (n_rows,) ids of the tokens that come next.
    """
    device, row = logits.device, torch.arange(len(logits), device=logits.device)
    codes, scale, least = (torch.from_numpy(np.asarray(part)).to(device) for part in _parts(base))
    log_p, log_base = torch.log_softmax(logits.double(), -1), codes * scale + least
    nll, nll_base = -log_p[row, following], -log_base[row, following].double()
    counted = torch.where(log_base > -CLIP, log_base.double().exp() * (log_base - log_p), 0.0)
    same_top = logits.argmax(-1) == codes.argmax(-1)
    kld = counted.sum(-1)
    return Tokens(nll.cpu().numpy(), nll_base.cpu().numpy(), kld.cpu().numpy(), same_top.cpu().numpy())


def _parts(base: SavedRows) -> tuple[np.ndarray, ...]:
    return base.codes, base.scale, base.least
