"""A GGUF is done when llama.cpp computes with it, and what its checkpoint computes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufkit.core.errors import CheckpointError, GgufError, TokenizerError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import read_manifest
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.llama.gguf_reader import mapped, parse
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.steps import convert, load_check
from ggufkit.steps.convert import ConvertNotes, ConvertOptions
from ggufkit.steps.import_gguf import import_gguf
from ggufkit.steps.session import Session
from tests import tiny
from tests.integration.run_cli import fails, ggufkit

INPUT = 3


def with_config(checkpoint: Path, **settings: object) -> Path:
    file = checkpoint / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return checkpoint


def test_what_lacks_a_tensor_is_not_quantized(base: Path) -> None:
    base.write_bytes(base.read_bytes().replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_dawn.weight", 1))
    message = fails(INPUT, "quantize", base, "--types", "q8_0")
    assert "llama.cpp cannot load tiny-llama-Q8_0.gguf: blk.1.ffn_down.weight is missing" in message
    assert "Log: " in message
    assert not base.with_name("tiny-llama-Q8_0.gguf").exists()


def test_what_computes_no_numbers_is_not_taken_over(base: Path, session: Session) -> None:
    norm = read_header(base).by_name["output_norm.weight"]
    with base.open("r+b") as file:
        file.seek(norm.offset)
        file.write(np.full(4, np.nan, np.float32).tobytes())
    output = session.workspace.root / "model-F16.gguf"
    with pytest.raises(GgufError, match=r"no finite logits with model-F16\.gguf"):
        import_gguf(read_gguf(base, sha256_file(base)), "model", output, session)
    assert not output.exists()


def test_a_file_without_a_vocabulary_is_loaded_and_run(base: Path, session: Session) -> None:
    assert load_check.require_computes(base, session) is not None
    kind = b"tokenizer.ggml.model\x08\0\0\0\x04\0\0\0\0\0\0\0"
    base.write_bytes(base.read_bytes().replace(kind + b"gpt2", kind + b"none", 1))
    assert load_check.require_computes(base, session) is None
    base.write_bytes(base.read_bytes().replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_dawn.weight", 1))
    with pytest.raises(GgufError, match=r"blk\.1\.ffn_down\.weight is missing"):
        load_check.require_computes(base, session)


def test_a_conversion_notes_how_far_it_is_off(converted: Path) -> None:
    made = read_manifest(converted)
    assert made is not None
    off = ConvertNotes.from_manifest(made).logit_difference
    assert off is not None
    assert 0 < off < 1e-3


def test_yarn_with_a_factor_of_its_own_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.5}
    message = fails(INPUT, "convert", with_config(checkpoint, rope_scaling=yarn), "--out", tmp_path / "out")
    assert "attention_factor 1.5 of rope type yarn" in message
    assert "--allow-losses" in message


def test_another_function_is_refused_by_its_cause(checkpoint: Path, session: Session) -> None:
    factors = {"long_factor": [1.5] * 32, "short_factor": [1.0] * 32}
    longrope = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 128, **factors}
    output = session.workspace.root / "model-F16.gguf"
    with pytest.raises(
        CheckpointError, match=r"logits are .* off.*rope_scaling \(rope\) of type longrope"
    ) as raised:
        convert.convert(
            open_checkpoint(with_config(checkpoint, rope_scaling=longrope)),
            output,
            ConvertOptions(allow_losses=True),
            session,
        )
    assert "--no-check-function" in str(raised.value.hint)
    assert not output.exists()


def test_weights_that_transformers_would_invent_are_missed(checkpoint: Path, session: Session) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no lm_head\.weight"):
        convert.convert(
            open_checkpoint(checkpoint), session.workspace.root / "m-F16.gguf", ConvertOptions(), session
        )


def test_added_tokens_without_rows_are_not_lost_silently(
    checkpoint: Path, tmp_path: Path, session: Session
) -> None:
    from sentencepiece import SentencePieceTrainer

    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"a word {i} and another one, {i * i}" for i in range(500)))
    SentencePieceTrainer.train(
        input=str(text), model_prefix=str(checkpoint / "tokenizer"), vocab_size=376, byte_fallback=True, minloglevel=2,
        hard_vocab_limit=False, model_type="bpe",
    )  # fmt: skip
    for name in ("tokenizer.json", "tokenizer.vocab"):
        (checkpoint / name).unlink()
    rows = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    (checkpoint / "added_tokens.json").write_text(json.dumps({"<|a|>": rows, "<|b|>": rows + 1}))
    with pytest.raises(
        TokenizerError, match=rf"added_tokens\.json has the token '<\|b\|>' with the id {rows + 1}"
    ) as raised:
        convert.convert(
            open_checkpoint(checkpoint), session.workspace.root / "m-F16.gguf", ConvertOptions(), session
        )
    assert "resize_token_embeddings" in str(raised.value.hint)


def test_a_vocabulary_without_merges(base: Path) -> None:
    base.write_bytes(base.read_bytes().replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez", 1))
    message = fails(INPUT, "quantize", base, "--types", "q8_0")
    assert "llama.cpp cannot load tiny-llama-Q8_0.gguf: cannot find tokenizer merges in model file." in message
    assert "The checkpoint's tokenizer has no merges: take tokenizer.json from the base model." in message


def ending_with_eos(path: Path, output: Path) -> Path:
    """The same GGUF with `tokenizer.ggml.add_eos_token`, before its other keys."""
    with mapped(path) as data:
        end, content = parse(path, data).end, data[:]
    key, first = b"tokenizer.ggml.add_eos_token", 24
    header = content[:first] + struct.pack("<Q", len(key)) + key + struct.pack("<IB", 7, 1) + content[first:end]
    header = header[:16] + struct.pack("<Q", struct.unpack_from("<Q", header, 16)[0] + 1) + header[first:]
    output.write_bytes(header + b"\0" * (-len(header) % 32) + content[end + -end % 32 :])
    return output


def test_a_tokenizer_that_ends_texts_with_eos(base: Path, tmp_path: Path, session: Session) -> None:
    """llama-perplexity and llama-imatrix give up on it; it is evaluated as without."""
    eos, text = ending_with_eos(base, tmp_path / "eos.gguf"), tiny.text_file(tmp_path / "text.txt")
    assert load_check.require_computes(eos, session) is not None
    asked = ("--corpus", text, "--ctx", 64, "--chunks", 4, "--out", tmp_path / "out", "--json")
    rows = json.loads(ggufkit("perplexity", eos, "--base", base, *asked).out)["eos.gguf"]
    assert {row["metric"]: row["value"] for row in rows}["kld_mean"] == pytest.approx(0, abs=1e-5)
    assert ggufkit("perplexity", eos, *asked, "--force").code == 0
    made = ggufkit("imatrix", eos, "--calibration", text, "--calibration-samples", 2, "--out", tmp_path)
    assert made.code == 0, made.err
