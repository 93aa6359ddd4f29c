"""Refinement with the real toolchain: files that every tool takes, nearer to the original, and never worse."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ggufkit.core import machine
from ggufkit.core.errors import Interrupted, ResourceError
from ggufkit.core.progress import SilentReporter
from ggufkit.llama import argv
from ggufkit.llama.argv import Compute, Excerpt, Quantization
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.refine import engine
from ggufkit.refine.engine import RefineInputs, RefineResult, refine_gguf
from ggufkit.refine.grid import Grid
from ggufkit.refine.options import RefineOptions
from ggufkit.refine.solve import solve
from ggufkit.steps import refine as step
from ggufkit.steps.refine import Refinable, RefiningOptions, Wanted
from ggufkit.steps.session import Session
from ggufkit.texts.calibration import Calibration, Sampling, draw, load_tokenizer, read_texts
from tests import tiny
from tests.integration.test_awq import kld_of, quantized, raw, shorten, to_gguf
from tests.shared import CALIBRATION, LLAMA, WIKI_TEST, needs_shared

OPTIONS = RefineOptions(device="cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second thread, and wait for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Case:
    """A tiny checkpoint, its F16 GGUF and a quantized one, by the real tools."""

    def __init__(self, checkpoint: Path, base: Path, kind: str, session: Session) -> None:
        self.checkpoint, self.base, self.tools = checkpoint, base, session.tools
        self.root = session.workspace.root
        self.quantized = quantized(self.base, kind, session.tools)
        self.out, self.reporter = self.root / "refined.gguf", SilentReporter()
        texts = read_texts(tiny.text_file(self.root / "text.txt"))
        tokenizer = load_tokenizer(checkpoint)
        self.calibration = draw(texts, tokenizer, Sampling(24, length=64, held_out=4), source="text.txt")

    def refine(self, calibration: Calibration | None = None, options: RefineOptions = OPTIONS) -> RefineResult:
        """Refine the quantized file."""
        inputs = RefineInputs(self.quantized, self.base, self.checkpoint, calibration or self.calibration)
        return refine_gguf(inputs, self.out, options, state_dir=self.root / "state", reporter=self.reporter)


def require_same_layout(before: Path, after: Path) -> None:
    """Same tensors, types and sizes; the same metadata but for what tells of the refinement."""
    old, new = read_header(before), read_header(after)
    layouts = [[(t.name, t.type, t.shape, t.n_bytes) for t in header.tensors] for header in (old, new)]
    assert layouts[0] == layouts[1]
    added = {key: value for key, value in new.metadata.items() if key not in old.metadata}
    assert {k: v for k, v in new.metadata.items() if k not in added} == dict(old.metadata)
    assert all(key.startswith("general.refined.") for key in added)
    assert str(added["general.refined.by"]).startswith("ggufkit ")


def data_of(path: Path) -> bytes:
    """A GGUF's tensor data."""
    return path.read_bytes()[read_header(path).data_offset :]


@pytest.mark.parametrize(
    ("kind", "width", "types"),
    [
        ("Q4_K_M", 256, {"Q4_K", "Q6_K"}),
        ("Q2_K", 256, {"Q2_K", "Q3_K"}),
        ("IQ4_NL", 256, {"IQ4_NL"}),
        ("IQ3_S", 256, {"IQ3_S"}),
        ("Q5_K_M", 64, {"Q5_1", "Q8_0"}),
    ],
)
def test_every_tool_takes_a_refined_file(
    kind: str, width: int, types: set[str], checkpoint: Path, base: Path, tmp_path: Path, session: Session
) -> None:
    if width != 256:
        checkpoint = tiny.write_llama(tmp_path / "narrow", width=width, layers=1)
        base = to_gguf(checkpoint, session)
    case = Case(checkpoint, base, kind, session)
    report = case.refine()
    assert report.n_refined >= 5
    assert types <= {o.type for o in report.outcomes if o.kept}
    assert all(o.after < o.before for o in report.outcomes if o.kept)
    require_same_layout(case.quantized, case.out)
    raw(argv.quantize_plan(case.tools, Quantization(case.out, "Q8_0", allow_requantize=True)))
    text = tiny.text_file(tmp_path / "text.txt")
    run = raw(argv.perplexity(case.tools, case.out, Excerpt(text, 64, 4), Compute("cpu", None, 2)))
    assert "Final estimate" in run.text


def test_what_was_not_finished_is_done_and_nothing_twice(
    checkpoint: Path, base: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(checkpoint, base, "Q4_0", session)
    case.refine()
    whole = case.out.read_bytes()
    case.out.unlink()
    solved: list[str] = []
    real = solve

    def dies_late(grid: Grid, target: torch.Tensor, hessian: torch.Tensor, name: str, order: str) -> Grid:
        if name == "blk.1.ffn_gate.weight" and name not in solved:
            solved.append(name)
            raise Interrupted("killed")
        solved.append(name)
        return real(grid, target, hessian, name, order)

    monkeypatch.setattr("ggufkit.refine.matrices.solve", dies_late)
    with pytest.raises(Interrupted):
        case.refine()
    assert not case.out.exists()
    solved[:] = ["blk.1.ffn_gate.weight"]
    case.refine()
    assert solved[1:] == ["blk.1.ffn_gate.weight", "blk.1.ffn_down.weight"]
    assert case.out.read_bytes() == whole


def test_types_that_are_wanted_together_share_the_layers_and_each_is_made_once(
    checkpoint: Path, base: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [Case(checkpoint, base, kind, session) for kind in ("Q4_0", "Q5_0", "Q8_0")]
    options = RefiningOptions(OPTIONS)

    def wanted(case: Case, name: str) -> Wanted:
        files = (read_gguf(case.quantized), read_gguf(base))
        return Wanted(
            Refinable(*files, open_checkpoint(checkpoint, "tiny"), case.calibration), session.workspace.root / name
        )

    alone = wanted(cases[1], "alone.gguf")
    step.refine(alone.file, alone.output, options, session)
    three = [wanted(case, f"{case.quantized.stem}-gptq.gguf") for case in cases]
    step.refine(three[2].file, three[2].output, options, session)
    refined: list[Sequence[Path]] = []
    real = engine.refine_layers_together

    def noted(files: Mapping[Path, RefineInputs], *rest: Any) -> None:
        refined.append([one.quantized for one in files.values()])
        real(files, *rest)

    monkeypatch.setattr(engine, "refine_layers_together", noted)
    first, second, third = (
        step.refine(one.file, one.output, options, session, three[i + 1 :]) for i, one in enumerate(three)
    )
    assert [result.fresh for result in (first, second, third)] == [False, False, True]
    assert refined == [[cases[0].quantized, cases[1].quantized]]
    assert second.path.read_bytes() == alone.output.read_bytes()
    monkeypatch.setattr(machine, "free_disk", lambda _: 0)
    forced = replace(session, force=True)
    step.refine(three[0].file, three[0].output, options, forced, three[1:])
    assert len(refined) == 1
    assert not list(session.workspace.private.glob("refine-*"))


def test_a_full_disk_is_named_and_harms_nothing(checkpoint: Path, base: Path, session: Session) -> None:
    case = Case(checkpoint, base, "Q4_0", session)
    before = case.quantized.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(ResourceError, match=r"cannot be written|could not be written"):
            case.refine()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert case.quantized.read_bytes() == before
    assert not list(case.root.glob("refined.gguf*"))
    case.refine()
    require_same_layout(case.quantized, case.out)


def test_one_sentence_over_and_over_leaves_the_file_as_it_is(
    checkpoint: Path, base: Path, session: Session
) -> None:
    case = Case(checkpoint, base, "Q4_0", session)
    sentence = "The quick brown fox jumps over the lazy dog. "
    repeated = draw([sentence * 600], load_tokenizer(checkpoint), Sampling(24, length=64, held_out=4))
    report = case.refine(repeated)
    assert report.n_refined == 0
    assert "repeats itself" in case.reporter.warnings[0]
    assert data_of(case.out) == data_of(case.quantized)


def test_the_output_matrix_is_refined_if_asked(checkpoint: Path, base: Path, session: Session) -> None:
    case = Case(checkpoint, base, "Q4_0", session)
    report = case.refine(options=replace(OPTIONS, include_output=True))
    output = next(o for o in report.outcomes if o.tensor == "output.weight")
    assert output.kept
    assert output.after < output.before
    assert report.untouched["token_embd.weight"] == "the embedding and the output stay as they are"
    assert "output.weight" not in report.untouched
    require_same_layout(case.quantized, case.out)


def test_an_embedding_that_is_the_output_is_refined_if_asked(session: Session, tmp_path: Path) -> None:
    checkpoint = tiny.tie(tiny.write_llama(tmp_path / "tied", layers=1))
    case = Case(checkpoint, to_gguf(checkpoint, session), "Q4_0", session)
    report = case.refine(options=replace(OPTIONS, include_output=True))
    outcome = next(o for o in report.outcomes if o.tensor == "token_embd.weight")
    assert outcome.kept
    assert outcome.after < outcome.before
    assert not report.untouched
    require_same_layout(case.quantized, case.out)


@needs_shared
def test_a_real_model_loses_less(session: Session) -> None:
    tools, source = session.tools, shorten(LLAMA, session.workspace.root / "short", 3)
    base = to_gguf(source, session)
    before = quantized(base, "Q4_0", tools)
    logits = base.with_suffix(".logits")
    raw(argv.base_logits(tools, base, logits, Excerpt(WIKI_TEST, 512, 3), Compute("cpu", None, 2)))
    after = before.with_name("refined.gguf")
    tokenizer = load_tokenizer(source)
    calibration = draw(read_texts(CALIBRATION), tokenizer, Sampling(6, length=512, held_out=2))
    inputs, state = RefineInputs(before, base, source, calibration), session.workspace.root / "state"
    refine_gguf(inputs, after, OPTIONS, state_dir=state, reporter=SilentReporter())
    old, new = (kld_of(file, logits, tools) for file in (before, after))
    assert new[0] < 0.8 * old[0]
