"""Runs AutoAWQ in its own environment: `python autoawq_driver.py JOB.json`. Imports nothing of ggufkit.

JOB.json: {"model", "tokens" (.npy, samples x tokens), "out", "group_size", "batch"}. Writes the scaled weights
in float32 to `out`/weights and the scales, by module, to `out`/scales.safetensors; tells its progress as JSON lines.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file


def shim_imports() -> None:
    """Stand in for what AutoAWQ imports but does not need here, or what newer libraries have renamed."""
    from transformers import activations

    if importlib.util.find_spec("datasets") is None:
        stub = types.ModuleType("datasets")
        stub.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
        stub.load_dataset = None  # type: ignore[attr-defined]
        sys.modules["datasets"] = stub
    if not hasattr(activations, "PytorchGELUTanh"):
        activations.PytorchGELUTanh = activations.GELUTanh


@contextlib.contextmanager
def catcher_answers_for_its_layer() -> Iterator[None]:
    """AutoAWQ's stand-in for the first layer lacks attributes that newer models read of their layers."""
    plain = torch.nn.Module.__getattr__

    def look_up(module: torch.nn.Module, name: str) -> Any:
        try:
            return plain(module, name)
        except AttributeError:
            if type(module).__name__ != "Catcher" or name == "module":
                raise
            return getattr(module.module, name)

    torch.nn.Module.__getattr__ = look_up  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.__getattr__ = plain  # type: ignore[method-assign]


def make_quantizer(scales: dict[str, torch.Tensor]) -> type:
    """AutoAWQ's quantizer with its faults corrected; it notes the scales that it finds."""
    from awq.quantize.quantizer import AwqQuantizer

    class Quantizer(AwqQuantizer):  # type: ignore[misc]
        _layer = -1

        def init_quant(self, *args: Any, **kwargs: Any) -> Any:
            with catcher_answers_for_its_layer():
                return super().init_quant(*args, **kwargs)

        def _get_input_feat(self, *args: Any) -> Any:
            self._layer += 1
            print(json.dumps({"layer": self._layer, "of": len(self.modules)}), flush=True)
            return super()._get_input_feat(*args)

        def _compute_best_scale(self, x: Any, w: Any, x_mean: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
            # The backup that it restores the weights from is made with .cpu(): on a CPU that is no copy,
            # and every candidate would work on what the one before has left.
            state_dict = module.state_dict
            module.state_dict = lambda: {n: t.clone() for n, t in state_dict().items()}
            try:
                return super()._compute_best_scale(x, w, x_mean, module, *args, **kwargs)
            finally:
                del module.state_dict

        def _search_best_scale(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._search_best_scale(*args, **kwargs)
            scales[f"model.layers.{self._layer}.{found[0]}"] = found[2].float().contiguous()
            return found

    return Quantizer


def run(job: dict[str, Any]) -> None:
    """Scale one model and save it."""
    shim_imports()
    from awq import AutoAWQForCausalLM
    from huggingface_hub import save_torch_state_dict

    tokens = np.load(job["tokens"])
    model = AutoAWQForCausalLM.from_pretrained(
        job["model"], torch_dtype=torch.float32, trust_remote_code=False, safetensors=True, device_map="cpu"
    )
    scales: dict[str, torch.Tensor] = {}
    model.quantize(
        quant_config={"zero_point": True, "q_group_size": job["group_size"], "w_bit": 4, "version": "GEMM"},
        calib_data=tokens.tolist(),
        export_compatible=True,
        apply_clip=False,
        n_parallel_calib_samples=job["batch"],
        max_calib_samples=len(tokens),
        max_calib_seq_len=tokens.shape[1],
        quantizer_cls=make_quantizer(scales),
    )
    out = Path(job["out"])
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    tied = getattr(model.model, "_tied_weights_keys", None) if model.model.config.tie_word_embeddings else None
    save_torch_state_dict(model.model.state_dict(), weights, shared_tensors_to_discard=list(tied or []))
    save_file(scales, out / "scales.safetensors")


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
