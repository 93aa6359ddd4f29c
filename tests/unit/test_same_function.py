"""Logits as llama-perplexity saves them, compared with a reference's; what is said of a difference."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ggufkit.core import machine
from ggufkit.core.errors import ResourceError, ToolOutputError
from ggufkit.core.records import Checkpoint, Toolchain
from ggufkit.llama.gguf import GgufHeader
from ggufkit.llama.logits_file import SavedLogits, read_logits
from ggufkit.llama.reference import n_tokens
from ggufkit.models import rope, same_function
from ggufkit.models.same_function import Difference
from ggufkit.steps import function_check
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace

N_CTX, N_VOCAB = 16, 33
FIRST, ROWS = N_CTX // 2, N_CTX - 1 - N_CTX // 2


def saved_file(path: Path, logits: NDArray[np.float32]) -> Path:
    """As `tools/perplexity/perplexity.cpp` writes it."""
    rows = bytearray()
    for row in logits:
        top, least = row.max(), max(row.min(), row.max() - 16)
        scale = np.float32((top - least) / 65535)
        least_log_prob = np.float32(least - top - np.log(np.exp(row - top).sum()))
        packed = np.round((np.maximum(row, least) - least) / scale).astype("<u2")
        rows += struct.pack("<ff", scale, least_log_prob) + packed.tobytes() + b"\0\0" * (len(row) % 2)
    head = b"_logits_" + struct.pack("<iii", N_CTX, logits.shape[1], 1)
    path.write_bytes(head + np.arange(N_CTX, dtype="<i4").tobytes() + rows)
    return path


@pytest.fixture
def logits() -> NDArray[np.float32]:
    values: NDArray[np.float32] = (np.random.default_rng(0).standard_normal((ROWS, N_VOCAB)) * 6).astype(
        np.float32
    )
    return values


def test_saved_logits_are_read_back(tmp_path: Path, logits: NDArray[np.float32]) -> None:
    saved = read_logits(saved_file(tmp_path / "logits", logits))
    assert saved is not None
    assert (saved.first, saved.tokens, saved.is_finite) == (FIRST, tuple(range(N_CTX)), True)
    assert same_function.compare(logits, saved).relative < 1e-4
    assert same_function.compare(np.pad(logits, ((0, 0), (0, 3))), saved).relative < 1e-4  # rows that pad


def test_one_bad_logit_is_seen(tmp_path: Path, logits: NDArray[np.float32]) -> None:
    logits[3, 5] = np.nan
    with np.errstate(invalid="ignore"):
        saved = read_logits(saved_file(tmp_path / "logits", logits))
    assert saved is not None
    assert not saved.is_finite


@given(st.integers(0, 600))
def test_what_is_cut_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "logits"
    values: NDArray[np.float32] = np.tile(np.arange(N_VOCAB), (ROWS, 1)).astype(np.float32)
    whole = saved_file(path, values).read_bytes()
    path.write_bytes(whole[: min(length, len(whole) - 1)])
    if 8 <= length < 20:
        assert read_logits(path) is None  # the text was too short
    else:
        with pytest.raises(ToolOutputError):
            read_logits(path)


def test_a_difference_is_told_by_what_it_is(logits: NDArray[np.float32]) -> None:
    def saved(values: NDArray[np.float32]) -> SavedLogits:
        return SavedLogits(tuple(range(N_CTX)), FIRST, values)

    logits /= 4  # nothing is clipped
    shifted = same_function.compare(logits, saved(logits + 7))
    assert shifted.relative < 1e-6  # a constant for all tokens is no difference
    doubled = same_function.compare(logits, saved(2 * logits))
    assert doubled.scale == pytest.approx(0.5, rel=1e-4)
    assert "a scale of the head" in same_function.likely_cause(doubled, None)
    noise = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)
    tipped = logits.copy()
    tipped[0] += noise[0]
    assert (
        same_function.compare(np.tile(logits, (3, 1)), saved(np.concatenate([tipped, logits, logits]))).relative
        < 1e-6
    )
    other = same_function.compare(logits, saved(logits + noise))
    assert other.relative > 0.3
    assert "rope" in same_function.likely_cause(other, 1e-4)
    assert "from the first tokens on" in same_function.likely_cause(other, other.relative)
    assert "from the first tokens on" in same_function.likely_cause(Difference(0.2, 1.0, 0.2), None)


def test_gelu_is_a_table() -> None:
    assert same_function.limit({"hidden_act": "gelu_new"}) > same_function.limit({"hidden_act": "silu"})


def test_suspects_are_what_the_config_sets() -> None:
    assert [w for w, _ in same_function.suspects({"hidden_size": 8})] == []
    yarn = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}
    config: dict[str, Any] = {"rope_scaling": yarn, "sliding_window": 8, "hidden_act": "gelu"}
    suspects = dict(same_function.suspects(config))
    assert [w.split("(")[1] for w in suspects] == [
        "rope).", "rope) of type yarn.", "attention).", "activation).", "activation)."
    ]  # fmt: skip
    first, second = list(suspects.values())[:2]
    assert first["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}
    assert second["rope_scaling"] is None
    assert config["rope_scaling"] == yarn


def test_suspects_of_a_model_that_reads_images_are_in_its_text_config() -> None:
    config = {"rms_norm_eps": 1, "text_config": {"rms_norm_eps": 1e-5, "hidden_act": "gelu"}}
    [(words, changed)] = same_function.suspects(config)
    assert words == "It does not heed rms_norm_eps of 1e-05 (norms)."
    assert changed == {"rms_norm_eps": 1, "text_config": {"rms_norm_eps": 0.0, "hidden_act": "gelu"}}
    assert same_function.limit(config) > same_function.limit({"text_config": {"hidden_act": "silu"}})


@pytest.mark.parametrize(
    ("settings", "lost"),
    [
        (
            {"rope_type": "longrope", "factor": 4.0, "long_factor": [1.5], "short_factor": [1.0]},
            ["the rope type longrope"],
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5},
            ["attention_factor 1.5 of rope type yarn"],
        ),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.1386}, []),
        ({"rope_type": "yarn", "factor": 4.0}, []),
        ({"rope_type": "llama3", "factor": 8.0}, []),
        ({"type": "linear", "factor": 2.0}, []),
        (None, []),
        ("odd", []),
    ],
)
def test_rope_settings_that_a_gguf_does_not_hold(settings: object, lost: list[str]) -> None:
    header = GgufHeader(Path("x.gguf"), 3, {"general.architecture": "llama"}, (), 0, 32, 0)
    told = rope.unheeded({"rope_scaling": settings}, header)
    assert [words.startswith(start) for words, start in zip(told, lost, strict=True)] == [True] * len(lost)


@pytest.mark.parametrize(
    ("config", "more", "told"),
    [
        ({"sliding_window": 4096}, {}, ["sliding_window, which matters beyond 4,096 tokens"]),
        ({"sliding_window": 4096}, {"llama.attention.sliding_window": 4096}, []),
        ({"sliding_window": 4096, "use_sliding_window": False}, {}, []),
        ({"sliding_window": 4096, "layer_types": ["full_attention"]}, {}, []),
        ({"sliding_window": 32768}, {}, []),
        ({"sliding_window": None}, {}, []),
        ({"rope_scaling": {"type": "dynamic"}}, {}, ["the rope type dynamic, which matters beyond 32,768 tokens"]),
        ({"rope_scaling": {"type": "dynamic"}}, {"llama.rope.freq_base": 11158840.0}, []),  # scaled, as HunYuan's
        ({"rope_scaling": {"type": "dynamic"}}, {"llama.rope.scaling.type": "linear"}, []),
        ({"rope_scaling": 3, "layer_types": 3}, {}, []),
    ],
)
def test_settings_that_matter_in_long_texts_only(
    config: dict[str, Any], more: dict[str, Any], told: list[str]
) -> None:
    metadata = {"general.architecture": "llama", "llama.rope.freq_base": 10000.0, **more}
    header = GgufHeader(Path("x.gguf"), 3, metadata, (), 0, 32, 0)
    whole = {"max_position_embeddings": 32768, "rope_theta": 10000.0, **config}
    assert list(rope.unheeded_in_long_texts(whole, header)) == told


@pytest.mark.parametrize(
    ("config", "n"),
    [({}, 128), ({"max_position_embeddings": 4096}, 128), ({"n_positions": 64}, 64), ({"n_ctx": 2}, 8)],
)
def test_no_more_tokens_than_the_context(config: dict[str, int], n: int) -> None:
    assert n_tokens(config) == n


@pytest.mark.parametrize(
    ("asked", "billions", "free_gb", "wanted"),
    [
        (None, 0.5, 16, True), (None, 2.0, 64, False), (True, 2.0, 64, True), (False, 0.5, 16, False),
        (None, 0.5, 1, False),
    ],
)  # fmt: skip
def test_small_models_are_compared_and_others_on_request(
    monkeypatch: pytest.MonkeyPatch, asked: bool | None, billions: float, free_gb: int, wanted: bool
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: free_gb << 30)
    n_params = int(billions * 1e9)
    checkpoint = Checkpoint(Path("m"), "m", "m", None, "LlamaForCausalLM", n_params, 2 * n_params)
    session = Session(Toolchain(Path("bin"), "built", "0", "cpu", "0", None), Workspace(Path("out")))
    assert function_check.is_wanted(checkpoint, asked, session) == wanted


def test_what_is_asked_for_and_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 30)
    checkpoint = Checkpoint(Path("m"), "m", "m", None, "LlamaForCausalLM", 7_000_000_000, 14_000_000_000)
    session = Session(Toolchain(Path("bin"), "built", "0", "cpu", "0", None), Workspace(Path("out")))
    with pytest.raises(ResourceError, match="of memory"):
        function_check.is_wanted(checkpoint, True, session)
