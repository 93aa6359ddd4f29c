"""Files on several texts, conversations among them: one base pass for each text, shared by all files."""

from __future__ import annotations

import json
from pathlib import Path

import ggufkit
from ggufkit.core.manifest import read_manifest
from ggufkit.core.records import Toolchain
from ggufkit.llama.gguf import MAGIC, read_header
from ggufkit.llama.gguf_bytes import FIXED, info, own_pairs, padded, pairs
from ggufkit.steps.imatrix import ImatrixParams
from tests import tiny

CHATML = "{% for m in messages %}{{ '<|im_end|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"


def give_template(gguf: Path, template: str) -> None:
    """Add a chat template to a GGUF."""
    header, data = read_header(gguf), gguf.read_bytes()
    n_pairs, own = own_pairs(header)
    start = FIXED.size + len(own)
    entries = data[start : start + sum(len(info(t, 0, 0)) for t in header.tensors)]
    head = FIXED.pack(MAGIC, 3, len(header.tensors), n_pairs + 1) + own
    head += pairs({"tokenizer.chat_template": template}) + entries
    gguf.write_bytes(head.ljust(padded(len(head), header.alignment), b"\0") + data[header.data_offset :])


def conversations(path: Path) -> Path:
    chats = [{"messages": [{"role": "user", "content": f"How much is {i} times two?"}]} for i in range(80)]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return path


def test_each_text_is_measured_with_one_base_pass(base: Path, tools: Toolchain, tmp_path: Path) -> None:
    give_template(base, CHATML)
    prose, chats = tiny.text_file(tmp_path / "prose.txt"), conversations(tmp_path / "chat.jsonl")
    files = list(ggufkit.quantize(base, types="q4_0,q8_0", out=tmp_path / "q", quiet=True).paths)
    how = {"base": base, "corpus": [prose, chats], "ctx": 64, "chunks": 4, "out": tmp_path / "out", "quiet": True}
    found = ggufkit.perplexity(files, **how)  # type: ignore[arg-type]
    assert list(found.df["kld_mean"].notna()) == [False, True, True]
    logs = sorted((tmp_path / "out" / "logs").rglob("perplexity-*.log"))
    assert len(logs) == 2
    assert ["special tokens are parsed" in log.read_text() for log in logs].count(True) == 1
    measured = sorted((tmp_path / "out" / ".ggufkit" / "measurements").rglob("*.divergence.json"))
    assert len(measured) == 4
    corpora = {m["conditions"]["corpus"] for file in measured for m in json.loads(file.read_text())}
    assert corpora == {"prose.txt", "chat.jsonl"}
    before = [file.stat().st_mtime_ns for file in measured]
    ggufkit.perplexity(files, **how)  # type: ignore[arg-type]
    assert [file.stat().st_mtime_ns for file in measured] == before


def test_a_matrix_of_conversations_and_prose(base: Path, tools: Toolchain, tmp_path: Path) -> None:
    give_template(base, CHATML)
    prose, chats = tiny.text_file(tmp_path / "prose.txt"), conversations(tmp_path / "chat.jsonl")
    made = ggufkit.imatrix(base, calibration=[f"{chats}:0.5", prose], calibration_samples=2, quiet=True).path
    manifest = read_manifest(made)
    assert manifest is not None
    assert ImatrixParams.from_manifest(manifest).special
    assert manifest.notes["calibration_source"] == "chat.jsonl:0.5 + prose.txt:0.5"
    alone = read_manifest(ggufkit.imatrix(base, calibration=prose, calibration_samples=2, quiet=True).path)
    assert alone is not None
    assert "special" not in alone.params
