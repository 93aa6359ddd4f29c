"""A checkpoint evaluated on the tokens of saved base logits, in a process of its own: its memory is given back.

`python -m ggufkit.formats.evaluator JOB.json`. It tells how far it is as llama-perplexity does.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ggufkit.core.errors import CheckpointError, GgufkitError
from ggufkit.core.imports import uncollected
from ggufkit.core.jsonfile import read_json
from ggufkit.formats.job import Evaluated, Job, told
from ggufkit.formats.tokens import Tokens, joined, write_tokens
from ggufkit.llama.logits_file import LogitsStream, open_logits

_BLOCK = 1 << 23
"""Predictions that are compared at once."""


def evaluate(job: Job) -> Evaluated:
    """Evaluate, and write the tokens' figures. Raises GgufkitError."""
    with uncollected():
        import torch

        from ggufkit.formats.loading import load
        from ggufkit.layers.device import choose_device
    torch.set_num_threads(job.threads)
    device = choose_device(job.device)
    loaded = load(Path(job.checkpoint), job.kind, job.made_of, device)
    with open_logits(Path(job.logits)) as base, torch.inference_mode():
        run = _Run(loaded.model, base, job.beginning)
        parts = list(run.chunks())
    tokens = joined(parts)
    write_tokens(Path(job.output), tokens)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Evaluated(base.n_ctx, len(parts), run.forward_s, loaded.n_params, loaded.n_bytes, name)


class _Run:
    """One pass over all chunks; a chunk's predictions are in memory at a time."""

    def __init__(self, model: Any, base: LogitsStream, beginning: int | None) -> None:
        self._model, self._base, self._beginning = model, base, beginning
        self._slices = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.forward_s = 0.0

    def chunks(self) -> Iterator[Tokens]:
        """The figures of each chunk."""
        base, total = self._base, 0.0
        print(f"calculating perplexity over {len(base.tokens)} chunks", flush=True)
        most_rows = max(1, _BLOCK // base.n_vocab)
        for number, (tokens, saved) in enumerate(zip(base.tokens, base.chunks(most_rows), strict=True), 1):
            found = self._chunk(tokens, saved)
            total += float(found.nll.mean())
            print(f"[{number}]{math.exp(min(total / number, 700.0)):.4f},", flush=True)
            yield found

    def _chunk(self, tokens: np.ndarray, saved: Iterator[Any]) -> Tokens:
        import torch

        from ggufkit.formats.scoring import compare

        logits, done, parts = self._logits(tokens), 0, []
        following = torch.from_numpy(tokens[self._base.first + 1 :].astype(np.int64)).to(logits.device)
        for rows in saved:
            here = slice(done, done + len(rows.codes))
            parts.append(compare(logits[here], rows, following[here]))
            done = here.stop
        return joined(parts)

    def _logits(self, tokens: np.ndarray) -> Any:
        """Of the positions that are scored, (n_rows, n_vocab) in float32."""
        import torch

        ids = torch.from_numpy(tokens.astype(np.int64))[None].to(self._model.device)
        if self._beginning is not None:
            ids[0, 0] = self._beginning
        started, n_kept = time.monotonic(), self._base.n_ctx - self._base.first
        keep = {"logits_to_keep": n_kept} if self._slices else {}
        logits = self._model(ids, use_cache=False, **keep).logits[0, -n_kept:-1].float()
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        self.forward_s += time.monotonic() - started
        if logits.shape[1] != self._base.n_vocab:
            message = f"The checkpoint has {logits.shape[1]} tokens, its base {self._base.n_vocab}."
            raise CheckpointError(message, hint="Give with --base a GGUF that was converted from the same model.")
        return logits


def main(argv: list[str]) -> int:
    """Do the job of a JSON file; 3 for what is refused, with the reason beside the output."""
    job = read_json(Path(argv[0]), Job)
    try:
        ended = evaluate(job)
    except GgufkitError as error:
        ended = Evaluated(refused=(error.message, error.hint or ""))
    except (ValueError, KeyError, OSError, ImportError, RuntimeError, AttributeError, TypeError) as error:
        first_line = (str(error).strip().splitlines() or ["no reason given"])[0]
        message = f"transformers cannot evaluate {job.checkpoint}: {type(error).__name__}: {first_line[:300]}"
        ended = Evaluated(refused=(message, "See the log for where it happened."))
        traceback.print_exc()
    told(Path(job.output)).write_text(json.dumps(asdict(ended)), encoding="utf-8")
    return 0 if ended.refused is None else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
