"""All files that decide a step's result reach its tool through the one door: `core.inputs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufkit.core import process
from ggufkit.core.errors import InputError
from ggufkit.core.inputs import Input
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import GgufFile, QuantType, Toolchain
from ggufkit.core.variants import Scaling
from ggufkit.measure import bench, chat, divergence, perplexity
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.models import lora, pickles
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.models.sources import open_gguf
from ggufkit.steps import awq, imatrix, quantize, refine
from ggufkit.steps.awq import ScalingOptions, Wanted
from ggufkit.steps.imatrix import ImatrixOptions
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.refine import Refinable, RefiningOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Recipe, Workspace
from ggufkit.texts.calibration import Calibration
from ggufkit.texts.corpus import Corpus, open_text
from tests import tiny
from tests.unit.test_gguf import write

CALIBRATION = Calibration(np.zeros((1, 2), np.int32), np.zeros((1, 2), np.int32), "text.txt", "", 0)


class _Asked(Exception):
    """A step has asked for its result."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Input]:
    """What a step says that it reads; nothing runs."""
    found: list[Input] = []

    def ensure(_session: Session, recipe: Recipe, *_args: object, **_how: object) -> None:
        found.extend(recipe.reads)
        raise _Asked

    monkeypatch.setattr(Session, "ensure", ensure)
    return found


@pytest.fixture
def session(tmp_path: Path, private_cache: Path) -> Session:
    return Session(Toolchain(tmp_path, "built", "commit1", "cpu", "1"), Workspace(tmp_path / "out"), threads=2)


@pytest.fixture
def files(tmp_path: Path, private_cache: Path) -> list[GgufFile]:
    return [open_gguf(write(tmp_path / name)) for name in ("base.gguf", "q.gguf")]


@pytest.fixture
def text(tmp_path: Path, private_cache: Path) -> Corpus:
    return open_text(tiny.text_file(tmp_path / "text.txt"))


def test_each_step_names_what_it_reads(
    files: list[GgufFile], text: Corpus, session: Session, read: list[Input], tmp_path: Path
) -> None:
    base, quantized = files
    matrix, checkpoint = tmp_path / "m.dat", open_checkpoint(tiny.write_llama(tmp_path / "model", width=64))
    matrix.write_bytes(b"matrix")
    kind, out = QuantType("Q8_0", ""), session.workspace.root / "made.gguf"
    evaluation = Evaluation(text, EvalOptions(), session)
    refinable = Refinable(quantized, base, checkpoint, CALIBRATION)
    steps: list[tuple[Callable[[], object], Sequence[Path]]] = [
        (lambda: quantize.quantize(base, out, kind, QuantizeOptions(), session), [base.path]),
        (lambda: quantize.quantize(base, out, kind, QuantizeOptions(matrix), session), [base.path, matrix]),
        (lambda: imatrix.make_imatrix(base, text, out, ImatrixOptions(), session), [base.path, text.path]),
        (lambda: perplexity.measure(base, evaluation), [base.path, text.path]),
        (lambda: bench.bench(base, BenchOptions(), session), [base.path]),
        (lambda: chat.speak(base, session), [base.path]),
        (
            lambda: refine.refine(refinable, out, RefiningOptions(), session),
            [quantized.path, base.path, checkpoint.path],
        ),
    ]
    session.workspace.private.mkdir(parents=True)
    for step, paths in steps:
        read.clear()
        with pytest.raises(_Asked):
            step()
        assert [one.path for one in read] == paths
        assert all(one.has_its_content() for one in read)
    compared = divergence.recipe(quantized, base, evaluation).reads
    assert [one.path for one in compared] == [quantized.path, base.path, text.path]


def edit(path: Path) -> None:
    config = path / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-05"))


def test_a_checkpoint_that_changes_while_it_is_scaled(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(tiny.write_llama(tmp_path / "model", width=64))
    wanted = [Wanted(Scaling(), tmp_path / "model-awq", ({},))]
    monkeypatch.setattr(awq, "_scale", lambda *_: edit(checkpoint.path))
    with pytest.raises(InputError, match="model changed while it was read"):
        awq.scale(checkpoint, wanted, CALIBRATION, ScalingOptions(), session)
    assert not (tmp_path / "model-awq").exists()


def changing(path: Path) -> Callable[..., ToolOutput]:
    """A tool that ends well, while somebody edits a checkpoint."""

    def run(argv: Sequence[Any], **_how: Any) -> ToolOutput:
        edit(path)
        return ToolOutput(tuple(map(str, argv)), 0, "", "", 0.1)

    return run


def test_pickled_weights_that_change_while_they_are_read(
    private_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.write_llama(tmp_path / "model", width=64)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    monkeypatch.setattr(process, "run", changing(model))
    with pytest.raises(InputError, match="model changed while it was read"):
        pickles.as_safetensors(model, SilentReporter())
    assert not [d for d in (private_cache / "unpickled").iterdir() if not d.name.endswith(".partial")]


def test_a_base_that_changes_while_an_adapter_is_merged(
    private_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapter = tiny.write_llama(tmp_path / "model", width=64), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "adapter_model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    monkeypatch.setattr("ggufkit.core.extras.require", lambda *_: None)
    monkeypatch.setattr(process, "run", changing(model))
    with pytest.raises(InputError, match="model changed while it was read"):
        lora.merge(open_checkpoint(model), adapter, SilentReporter())
    assert not [d for d in (private_cache / "merged").iterdir() if not d.name.endswith(".partial")]
