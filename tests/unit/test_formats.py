"""Checkpoints beside GGUFs: which format they have, packed matrices to the last value, and llama-perplexity's statistics."""

from __future__ import annotations

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ggufkit.core.errors import CheckpointError, InputError, ToolOutputError, UsageError
from ggufkit.core.values import EVALUATED
from ggufkit.formats import known
from ggufkit.formats.scoring import compare
from ggufkit.formats.statistics import divergence
from ggufkit.formats.tokens import Tokens, joined
from ggufkit.llama.logits_file import MAGIC, LogitsStream, open_logits
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.models.quantized import packed
from ggufkit.models.quantized.packed import Packing
from tests import tiny

INT8 = {"num_bits": 8, "type": "int"}
W8A8 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": INT8, "input_activations": INT8}},
}


def _with(how: dict[str, Any], group: str, **changed: Any) -> dict[str, Any]:
    scheme = {**how["config_groups"]["group_0"], group: changed or None}
    return {**how, "config_groups": {"group_0": scheme}}


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        (W8A8, "w8a8"),
        (_with(W8A8, "input_activations"), "w8a16"),
        (_with(_with(W8A8, "weights", num_bits=8, type="float"), "input_activations", num_bits=8, type="float"), "fp8"),
        (_with(_with(W8A8, "weights", num_bits=4, type="int"), "input_activations"), "w4a16"),
    ],
)  # fmt: skip
def test_a_quantized_checkpoint_is_of_the_format_that_its_config_says(
    how: dict[str, Any], name: str, tmp_path: Path
) -> None:
    found = known.subject(open_checkpoint(_checkpoint(tmp_path, how)))
    assert (found.format.name, found.label) == (name, f"model-hf-{name}")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"quant_method": "hqq"}, "by the method 'hqq'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "packed for 'gemv'"),
        ({"quant_method": "gptq", "bits": 3}, "3 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "'fp4'"),
        (_with(W8A8, "weights", num_bits=3, type="int"), "scheme of another kind"),
        ({"quant_method": "compressed-tensors", "config_groups": None}, "scheme of another kind"),
    ],
)
def test_an_unknown_method_is_refused_by_its_name(how: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        known.subject(open_checkpoint(_checkpoint(tmp_path, how)))
    assert "compressed-tensors" in (caught.value.hint or "")


def test_formats_are_made_of_what_is_not_quantized(tmp_path: Path) -> None:
    plain = open_checkpoint(_checkpoint(tmp_path / "a", None))
    assert known.subject(plain).format.name == "f16"
    assert known.subject(plain, "nf4").format.column == "hf-nf4"
    with pytest.raises(UsageError, match="cannot be made"):
        known.subject(plain, "awq")
    with pytest.raises(CheckpointError, match="quantized already"):
        known.subject(open_checkpoint(_checkpoint(tmp_path / "b", {"quant_method": "awq"})), "nf4")


def _checkpoint(home: Path, how: dict[str, Any] | None) -> Path:
    path = tiny.write_llama(home / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | ({"quantization_config": how} if how else {})))
    return path


def _word(values: list[int], bits: int) -> int:
    """A signed word of 32 bits, the first value in its lowest bits."""
    number = sum(value << (bits * i) for i, value in enumerate(values))
    return number - (1 << 32) if number >= 1 << 31 else number


@pytest.mark.parametrize(
    ("bits", "offset", "act_order"), [(4, 1, False), (4, 0, True), (8, 1, False), (2, 1, True)]
)
def test_gptq_is_unpacked_to_every_value(bits: int, offset: int, act_order: bool) -> None:
    rng, n_in, n_out, groups, per = np.random.default_rng(bits), 64, 32, 4, 32 // bits
    codes = rng.integers(0, 1 << bits, (n_in, n_out))
    zeros = rng.integers(0, 1 << bits, (groups, n_out))
    taken_off = offset * sum(
        1 << bits * i for i in range(per)
    )  # of words, as GPTQModel does it for its first format
    scales = rng.random((groups, n_out)).astype(np.float16)
    group_of = rng.permutation(np.arange(n_in) % groups) if act_order else np.arange(n_in) // (n_in // groups)
    down = [
        [_word(codes[i * per : (i + 1) * per, j].tolist(), bits) for j in range(n_out)] for i in range(n_in // per)
    ]
    across = [[_word(row[j * per : (j + 1) * per].tolist(), bits) for j in range(n_out // per)] for row in zeros]
    qzeros = (np.array(across, np.int64) - taken_off).astype(np.int32)  # which wraps around
    parts = {
        "qweight": torch.tensor(down, dtype=torch.int32), "qzeros": torch.from_numpy(qzeros),
        "scales": torch.from_numpy(scales), "g_idx": torch.from_numpy(group_of),
    }  # fmt: skip
    found = packed.weight(parts, Packing("gptq", bits, offset)).numpy()
    for j in range(n_out):
        for i in range(n_in):
            g = group_of[i]
            assert found[j, i] == np.float32(scales[g, j]) * np.float32(codes[i, j] - zeros[g, j])


def test_awq_is_unpacked_to_every_value() -> None:
    rng, n_in, n_out, groups = np.random.default_rng(1), 32, 24, 2
    codes, zeros = rng.integers(0, 16, (n_in, n_out)), rng.integers(0, 16, (groups, n_out))
    scales = rng.random((groups, n_out)).astype(np.float16)

    def pack(values: NDArray[np.int64]) -> torch.Tensor:
        order = [0, 2, 4, 6, 1, 3, 5, 7]  # as AutoAWQ writes it
        words = [[_word([int(row[j + k]) for k in order], 4) for j in range(0, n_out, 8)] for row in values]
        return torch.tensor(words, dtype=torch.int32)

    parts = {"qweight": pack(codes), "qzeros": pack(zeros), "scales": torch.from_numpy(scales)}
    found = packed.weight(parts, Packing("awq")).numpy()
    for j in range(n_out):
        for i in range(n_in):
            g = i // (n_in // groups)
            assert found[j, i] == np.float32(scales[g, j]) * np.float32(codes[i, j] - zeros[g, j])


def test_parts_that_do_not_fit_are_refused() -> None:
    parts = {"qweight": torch.zeros(8, 32, dtype=torch.int32), "qzeros": torch.zeros(2, 4, dtype=torch.int32)}
    with pytest.raises(CheckpointError, match="no scales"):
        packed.weight(parts, Packing("gptq"))
    parts["scales"] = torch.ones(3, 32)
    with pytest.raises(CheckpointError, match="its scales are"):
        packed.weight(parts, Packing("gptq"))
    parts |= {"scales": torch.ones(2, 32), "g_idx": torch.full((64,), 5)}
    with pytest.raises(CheckpointError, match="g_idx"):
        packed.weight(parts, Packing("gptq"))


def _saved(logits: NDArray[np.float32]) -> bytes:
    """A row as llama-perplexity writes it, in plain words of its source."""
    top = float(logits.max())
    least = max(float(logits.min()), top - 16)
    log_sum = math.log(sum(math.exp(float(x) - top) for x in logits))
    scale = (top - least) / 65535
    codes = [round((float(x) - least) / scale) if x > least else 0 for x in logits]
    codes += [0] * (len(codes) % 2)
    return struct.pack(f"<ff{len(codes)}H", scale, least - top - log_sum, *codes)


def _stream(logits: NDArray[np.float32], tokens: NDArray[np.int32]) -> bytes:
    """(n_chunks, n_rows, n_vocab) logits as a file."""
    n_chunks, n_ctx = tokens.shape
    head = struct.pack("<8siii", MAGIC, n_ctx, logits.shape[2], n_chunks) + tokens.astype("<i4").tobytes()
    return head + b"".join(_saved(row) for chunk in logits for row in chunk)


def test_saved_logits_are_read_chunk_by_chunk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 7, (3, 8)).astype(np.int32)
    logits = (rng.standard_normal((3, 3, 7)) * 6).astype(np.float32)
    file = tmp_path / "base.logits"
    file.write_bytes(_stream(logits, tokens))
    with open_logits(file) as base:
        assert (base.n_ctx, base.n_vocab, base.first) == (8, 7, 4)
        assert (base.tokens == tokens).all()
        rows = [list(chunk) for chunk in base.chunks(2)]
    assert [[len(part.codes) for part in chunk] for chunk in rows] == [[2, 1]] * 3
    expected = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
    found = np.array([np.concatenate([part.codes * part.scale + part.least for part in chunk]) for chunk in rows])
    clipped = logits < logits.max(-1, keepdims=True) - 16
    assert np.abs(found - expected)[~clipped].max() < 2e-4


def test_logits_that_end_early_are_refused(tmp_path: Path) -> None:
    whole = _stream(np.zeros((1, 3, 4), np.float32), np.zeros((1, 8), np.int32))
    base = LogitsStream(8, 4, np.zeros((1, 8), np.int32), io.BytesIO(whole[20 + 32 : -1]))
    with pytest.raises(ToolOutputError, match="not whole"):
        [list(chunk) for chunk in base.chunks(9)]
    (tmp_path / "other").write_bytes(b"something else entirely")
    with pytest.raises(ToolOutputError, match="no logits"), open_logits(tmp_path / "other"):
        pass


def test_a_comparison_is_llama_perplexitys_formula_token_by_token() -> None:
    rng, n, vocab = np.random.default_rng(2), 5, 9
    base, mine = (rng.standard_normal((n, vocab)).astype(np.float32) * 9 for _ in range(2))
    data = b"".join(_saved(row) for row in base)
    stream = LogitsStream(2 * n + 2, vocab, np.zeros((1, 2 * n + 2), np.int32), io.BytesIO(data))
    [[rows]] = [list(chunk) for chunk in stream.chunks(n)]
    following = rng.integers(0, vocab, n)
    found = compare(torch.from_numpy(mine), rows, torch.from_numpy(following))
    for i in range(n):
        log_p = mine[i].astype(float) - math.log(sum(math.exp(float(x)) for x in mine[i]))
        log_base = [float(c) * float(rows.scale[i, 0]) + float(rows.least[i, 0]) for c in rows.codes[i]]
        kld = sum(math.exp(b) * (b - p) for b, p in zip(log_base, log_p, strict=True) if b > -16)
        assert found.nll[i] == pytest.approx(-log_p[following[i]], rel=1e-6)
        assert found.nll_base[i] == pytest.approx(-log_base[following[i]], rel=1e-5)
        assert found.kld[i] == pytest.approx(kld, rel=1e-5, abs=1e-6)
        assert found.same_top[i] == (mine[i].argmax() == np.argmax(log_base))


def test_statistics_are_llama_perplexitys() -> None:
    rng, n = np.random.default_rng(3), 400
    base = rng.exponential(3.0, n)
    nll = base + rng.normal(0.01, 0.05, n)
    kld, same = rng.exponential(0.02, n), rng.random(n) < 0.9
    halves = [Tokens(nll[s], base[s], kld[s], same[s]) for s in (slice(0, 150), slice(150, n))]
    found = divergence(joined(halves), 2, 402)

    def mean_and_uncertainty(values: NDArray[np.float64]) -> tuple[float, float]:
        total, squares = float(values.sum()), float((values**2).sum())
        spread = squares / n - (total / n) ** 2
        return total / n, math.sqrt(spread / (n - 1))

    log_ppl, log_base = mean_and_uncertainty(nll), mean_and_uncertainty(base)
    covariance = (float((nll * base).sum()) / n - log_ppl[0] * log_base[0]) / (n - 1)
    ratio = math.sqrt(log_ppl[1] ** 2 + log_base[1] ** 2 - 2 * covariance)
    squares = mean_and_uncertainty((np.exp(-nll) - np.exp(-base)) ** 2)
    assert found.ppl == pytest.approx((math.exp(log_ppl[0]), math.exp(log_ppl[0]) * log_ppl[1]))
    assert found.ln_ppl_ratio == pytest.approx((log_ppl[0] - log_base[0], ratio))
    assert found.kld == pytest.approx(mean_and_uncertainty(kld))
    assert found.rms_dp == pytest.approx((math.sqrt(squares[0]), 0.5 / math.sqrt(squares[0]) * squares[1]))
    assert found.same_top_p[0] == pytest.approx(same.mean())
    ordered = np.sort(kld)
    assert (found.kld_percentiles[0.0], found.kld_percentiles[1.0]) == (ordered[0], ordered[-1])
    assert found.kld_percentiles[0.5] == pytest.approx((ordered[n // 2] + ordered[n // 2 - 1]) / 2)


def test_predictions_that_are_no_numbers_are_refused() -> None:
    nll = np.ones(20)
    nll[15] = np.nan
    with pytest.raises(InputError, match="not finite, first in chunk 4"):
        divergence(Tokens(nll, np.ones(20), np.ones(20), np.ones(20, bool)), 5, 10)


def test_what_is_named_is_a_gguf_or_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert EVALUATED.read(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    assert EVALUATED.read(tmp_path) == str(tmp_path)
    assert EVALUATED.read("hf:nf4") == "hf:nf4"
    with pytest.raises(UsageError, match="no path"):
        EVALUATED.read(3)
