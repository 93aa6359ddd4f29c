"""The copy of llama-perplexity that writes what each token gave: the same figures, and those of its own tokens."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggufkit.core import failures, process
from ggufkit.core.hashing import sha256_file
from ggufkit.core.records import GgufFile, Toolchain
from ggufkit.llama import argv, scoring_tool
from ggufkit.llama.argv import Quantization
from ggufkit.llama.gguf import read_gguf
from ggufkit.measure import divergence, paired, token_scores
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits.strategy import Transport
from ggufkit.measure.measurements import load
from ggufkit.measure.paired import Scores
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts import corpus
from tests import tiny
from tests.listening import Listener

CHUNKS = 24


@pytest.fixture(scope="module")
def files(tools: Toolchain, converted: Path, tmp_path_factory: pytest.TempPathFactory) -> list[GgufFile]:
    root, found = tmp_path_factory.mktemp("files"), [read_gguf(converted, sha256_file(converted))]
    for kind in ("Q4_0", "Q4_1"):
        path = root / f"tiny-{kind}.gguf"
        failures.require_success(
            process.run(argv.quantize(tools, Quantization(converted, kind), path, 2)), "quantizing"
        )
        found.append(read_gguf(path, sha256_file(path)))
    return found


def measured(tools: Toolchain, files: list[GgufFile], root: Path, strategy: str) -> tuple[list[Scores], Listener]:
    """What was kept of each file but the base; it must have the means that were measured."""
    listener = Listener()
    session = Session(tools, Workspace(root), threads=2, reporter=listener)
    root.mkdir(exist_ok=True)
    text = corpus.open_text(tiny.text_file(root / "text.txt"))
    with session.workspace.locked():
        evaluation = Evaluation(text, EvalOptions(64, CHUNKS), session)
        _, *done = divergence.measure_all(files[0], files[1:], evaluation, Transport(1 << 30, strategy))
        assert len(list(session.workspace.measurements.glob("*.scores*"))) == len(done)
    found = [token_scores.of_measurements(load(one.path), token_scores.path_of(one.path)) for one in done]
    raw = [token_scores.load(token_scores.path_of(one.path), load(one.path)[0].file_sha256) for one in done]
    assert None not in found
    assert all(one.manifest.argv[0][0].endswith(scoring_tool.NAME) for one in done)
    return [one for one in raw if one is not None], listener


@pytest.mark.parametrize("strategy", ["file", "fan-out"])
def test_each_tokens_loss_is_kept_however_logits_travel(
    tools: Toolchain, files: list[GgufFile], tmp_path: Path, strategy: str
) -> None:
    kept, listener = measured(tools, files, tmp_path, strategy)
    assert not [said for said in listener.said if "is not kept" in said]
    assert [one.digit for one in kept] == [0.0, 0.0]
    assert all(one.kld.shape == (CHUNKS, 31) for one in kept)
    difference = paired.kld_difference(*kept)
    assert difference is not None
    assert difference.is_paired
    assert difference.value == pytest.approx(float(kept[0].kld.mean() - kept[1].kld.mean()))


def test_without_the_source_chunks_are_kept(tools: Toolchain, files: list[GgufFile], tmp_path: Path) -> None:
    exact, _ = measured(tools, files, tmp_path / "with", "file")
    bare = tmp_path / "bare"
    shutil.copytree(tools.dir, bare, symlinks=True)
    kept, listener = measured(replace(tools, dir=bare, source=None), files, tmp_path / "without", "file")
    assert [said for said in listener.said if "is not kept" in said and "source" in said]
    assert all(one.kld.shape == (CHUNKS, 1) and one.digit for one in kept)
    np.testing.assert_allclose(kept[0].kld[:, 0], exact[0].kld.mean(axis=1), atol=CHUNKS * 1e-5)


def test_headers_of_another_commit_are_not_compiled_against(tools: Toolchain) -> None:
    listener = Listener()
    assert scoring_tool.find(replace(tools, commit="0" * 40), listener) is None
    assert "source" in listener.said[0]


def test_another_llama_perplexity_is_left_as_it_is(
    tools: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tools.source is not None
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    other, listener = tmp_path / "source", Listener()
    code = other / "tools" / "perplexity" / "perplexity.cpp"
    code.parent.mkdir(parents=True)
    code.write_text("int main() {}\n")
    (other / ".ggufkit-commit").write_text(tools.commit)
    for _ in range(2):
        assert scoring_tool.find(replace(tools, source=other), listener) is None
    assert len(set(listener.said)) == 1
    assert "is not the llama-perplexity that is known" in listener.said[0]


def test_what_cannot_be_compiled_is_not_tried_again(
    tools: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scoring_tool, "_with_scores", lambda _: "no program\n")
    listener = Listener()
    assert scoring_tool.find(tools, listener) is None
    assert "could not be compiled" in listener.said[0]
    monkeypatch.setattr(scoring_tool, "_code", None)
    assert scoring_tool.find(tools, listener) is None
    assert listener.said[1] == listener.said[0]
    assert "Remove " in listener.said[0]
