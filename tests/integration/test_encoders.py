"""Encoders: converted, quantized and reported without perplexity; their embeddings are compared instead."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ggufkit import load_results
from ggufkit.core.errors import GgufError
from ggufkit.core.manifest import read_manifest
from ggufkit.llama.gguf import read_header
from ggufkit.report import card, results
from ggufkit.steps import load_check
from ggufkit.steps.session import Session
from tests import tiny
from tests.integration.run_cli import fails, ggufkit


@pytest.mark.usefixtures("tools")
def test_a_bert_with_a_wordpiece_of_its_own(tmp_path: Path, session: Session) -> None:
    """All of a build, what an encoder cannot do said before anything runs, and what it computes looked at."""
    model, text = tiny.write_bert(tmp_path / "tiny-bert"), tiny.text_file(tmp_path / "text.txt")
    out = tmp_path / "out"
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "Who jumps?", "choices": ["the fox", "the dog"], "answerKey": "A"}\n')
    wanted = ("build", model, "--types", "q8_0,q4_0", "--out", out, "--corpus", text, "--bench-reps", 1, "--smoke",
              "--tasks", asked)  # fmt: skip
    first = ggufkit(*wanted)
    assert first.code == 0, first.err
    assert "No Modelfiles: an encoder does not chat." in first.err
    assert "No file speaks" in first.err
    assert "No file is asked questions" in first.err
    made = read_manifest(out / "tiny-bert-F16.gguf")
    assert made is not None
    assert made.notes["token_mismatches"] is not None
    rows = load_results(out).set_index("type")
    cosine, least = rows["cosine_mean"], rows["cosine_min"]
    assert 1 > cosine["Q8_0"] > cosine["Q4_0"] > 0.8
    assert cosine["Q8_0"] - 0.01 < least["Q8_0"] <= cosine["Q8_0"]
    assert rows["cosine_mean"].isna()["F16"]
    assert rows["pp_tps"].notna().all()
    unmeasured = ["ppl", "ppl_base", "kld_mean", "same_top_p", "tg_tps", "eval_tps"]
    assert rows[unmeasured].isna().all(axis=None)
    report = (out / "report.md").read_text()
    assert " Cosine |" in report
    assert "embeddings of 128 passages" in report
    assert "Compared with: tiny-bert-F16.gguf" in report
    assert "PPL" not in report
    assert not list(out.glob("Modelfile*"))
    assert "Nothing had to be done again" in ggufkit(*wanted).out
    card.write_card(results.collect(out), out, "me/tiny-bert")
    text_of_card = (out / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in text_of_card
    taken = re.search(r"\*\*Which one should I take\?\*\* Take (\S+): the best balance", report)
    assert taken is not None, report[:500]
    file = taken[1].replace("\\", "")
    assert f"llama-embedding -hf me/tiny-bert -hff {file}\n```" in text_of_card
    base = out / "tiny-bert-F16.gguf"
    told = fails(3, "perplexity", base, "--corpus", text, "--base", base)
    assert "tiny-bert-F16.gguf is an encoder (bert): it gives embeddings of texts, and has no perplexity." in told
    assert "generates none" in fails(3, "chat", base)
    assert "and answers no questions" in fails(3, "tasks", base, "--tasks", asked)
    assert "FROM ./FILE.gguf" in fails(3, "modelfile", base)
    assert "without a matrix" in fails(3, "imatrix", base, "--calibration", text, "--out", tmp_path / "none")
    load_check.require_computes(base, session)
    norm = read_header(base).by_name["token_embd_norm.weight"]
    with base.open("r+b") as file:
        file.seek(norm.offset)
        file.write(np.full(4, np.nan, np.float32).tobytes())
    with pytest.raises(GgufError, match="no finite embeddings with tiny-bert-F16"):
        load_check.require_computes(base, session)
