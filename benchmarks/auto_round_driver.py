"""Runs auto-round in its own environment, and leaves one GGUF in a directory.

    python auto_round_driver.py MODEL TOKENS DEVICE OUT TYPE ITERATIONS

TOKENS is a .npy file of (n, length) token ids: it calibrates on the very tokens that ggufkit does. No iterations mean its
rounding by search alone; with some it tunes with its extended algorithm, the best that it has for GGUF.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# Read as libraries are loaded. Threads that spin while they wait take hours beside other work; nothing may be fetched.
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
from auto_round import AutoRound

_BATCH = 8  # samples, its own default


def main() -> None:
    """Quantize."""
    model, tokens, device, out, kind, count = sys.argv[1:]
    ids = torch.from_numpy(np.load(tokens)).long()
    n_samples, length = ids.shape
    scheme, iterations = f"gguf:{kind.lower()}", int(count)
    tuned: dict[str, Any] = {"enable_alg_ext": True} if iterations else {}
    rounding = AutoRound(
        model, format=scheme, dataset=list(torch.split(ids, _BATCH)), nsamples=n_samples, seqlen=length,
        batch_size=_BATCH, iters=iterations, device_map=_place(device), **tuned,
    )  # fmt: skip
    rounding.quantize_and_save(out, format=scheme)


def _place(device: str) -> str | int:
    on_gpu = torch.cuda.is_available() if device == "auto" else device == "cuda"
    return 0 if on_gpu else "cpu"


if __name__ == "__main__":
    main()
