"""Every architecture of the AWQ table can be refined too: fused matrices, experts, biases, odd norms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray

from ggufkit.core.progress import SilentReporter
from ggufkit.layers import StreamedModel, to_file_rows
from ggufkit.refine.engine import RefineInputs, RefineResult, refine_gguf
from ggufkit.refine.options import RefineOptions
from ggufkit.texts.calibration import Calibration
from tests.unit.test_awq_fold import CONFIGS, random_model
from tests.unit.test_refine_engine import tokens

Matrix = NDArray[np.float32]


def matrices_of(checkpoint: Path) -> dict[str, Matrix]:
    """All matrices as a GGUF has them, experts stacked."""
    model = StreamedModel(checkpoint, "cpu")
    found: dict[str, list[Matrix]] = {
        "token_embd.weight": [model.shards.read("model.embed_tokens.weight").numpy()]
    }
    for index in range(model.n_layers):
        layer = model.load_layer(index)
        for linear in model.linears(layer, index):
            weight: Any = layer.get_submodule(linear.module).weight
            found.setdefault(linear.tensor, []).append(to_file_rows(weight, linear.row_heads).numpy())
    return {name: parts[0] if len(parts) == 1 else np.stack(parts) for name, parts in found.items()}


def write_gguf(matrices: dict[str, Matrix], layers: int, path: Path, kind: str) -> Path:
    """The matrices in a type, those that it cannot hold in F16."""
    writer, type_ = GGUFWriter(path, "llama"), GGMLQuantizationType[kind]
    writer.add_block_count(layers)
    for name, values in matrices.items():
        if kind != "F16" and values.shape[-1] % 32 == 0:
            writer.add_tensor(name, quantize(values, type_), raw_dtype=type_)
        else:
            writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refine(config: Path, root: Path, samples: int) -> tuple[dict[str, Matrix], RefineResult]:
    """Refine a random model of an architecture; its matrices, and what became of them."""
    random_model(config, root / "model")
    matrices = matrices_of(root / "model")
    n_layers = StreamedModel(root / "model", "cpu").n_layers
    calibration = Calibration(tokens(samples, 96, 24), tokens(8, 96, 24, seed=1), "text.txt", "x", 42)
    quantized = write_gguf(matrices, n_layers, root / "q.gguf", "Q4_0")
    base = write_gguf(matrices, n_layers, root / "b.gguf", "F16")
    report = refine_gguf(
        RefineInputs(quantized, base, root / "model", calibration),
        root / "out.gguf",
        RefineOptions(device="cpu"),
        state_dir=root / "state",
        reporter=SilentReporter(),
    )
    return matrices, report


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.stem)
def test_every_matrix_is_tried_and_most_are_better(config: Path, tmp_path: Path, private_cache: Path) -> None:
    matrices, report = refine(config, tmp_path, 40)
    possible = {n for n, m in matrices.items() if m.shape[-1] % 32 == 0 and n != "token_embd.weight"}
    assert {o.tensor for o in report.outcomes} == possible
    better = [o for o in report.outcomes if o.kept]
    assert len(better) > 0.8 * len(report.outcomes)
    assert all(o.after < o.before for o in better)


def test_experts_that_few_tokens_reach_are_named(tmp_path: Path, private_cache: Path) -> None:
    config = next(c for c in CONFIGS if c.stem == "qwen3moe")
    _, report = refine(config, tmp_path, 4)
    experts = {o.expert: o.reason for o in report.outcomes if o.tensor == "blk.0.ffn_up_exps.weight"}
    assert set(experts) == set(range(len(experts)))
    poor = {number: reason for number, reason in experts.items() if "calibration tokens reached it" in reason}
    assert poor
    named = report.untouched["blk.0.ffn_up_exps.weight"]
    assert all(f"expert {number}: only " in named for number in poor)
