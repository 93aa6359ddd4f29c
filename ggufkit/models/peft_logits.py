"""What a model computes under peft, with an adapter and without: logits in float32, in a process of its own.

Run as a module: `python -m ggufkit.models.peft_logits BASE ADAPTER TOKENS.json OUTPUT.npy`. Code of a checkpoint is
never run.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from ggufkit.models.peft_merge import model_class, reason


def evaluate(base: Path, adapter: Path, tokens: Path, output: Path) -> None:
    """Write logits of the second half of the tokens but the last: (2, positions, vocabulary), with the adapter first."""
    import numpy as np
    import torch
    from peft import PeftModel

    model = model_class(base).from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, local_files_only=True,
        use_safetensors=True,
    )  # fmt: skip
    adapted = PeftModel.from_pretrained(model, adapter, torch_device="cpu").float().eval()
    ids = torch.tensor([json.loads(tokens.read_text(encoding="utf-8"))])

    def logits() -> Any:
        with torch.inference_mode():
            return adapted(ids, use_cache=False).logits[0, ids.shape[1] // 2 : -1].float().numpy()

    both = [logits()]
    with adapted.disable_adapter():
        both.append(logits())
    np.save(output, np.stack(both))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        evaluate(*map(Path, sys.argv[1:5]))
    except Exception as error:
        sys.exit(reason(error))
