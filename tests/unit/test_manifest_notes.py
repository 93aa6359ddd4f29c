"""What steps keep in their manifests: the keys are a file format, and only the step that owns them spells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ggufkit.core.manifest import Notes, Params
from ggufkit.core.records import Json, Manifest
from ggufkit.measure.bench import BenchParams
from ggufkit.measure.divergence import DivergenceNotes
from ggufkit.measure.evaluation import EvalNotes, EvalParams
from ggufkit.models.lora import split_source
from ggufkit.steps.awq import AwqNotes, AwqParams
from ggufkit.steps.convert import ConvertNotes, ConvertParams
from ggufkit.steps.imatrix import ImatrixNotes, ImatrixParams
from ggufkit.steps.import_gguf import ImportNotes, ImportParams
from ggufkit.steps.notes import GgufNotes, backend_of, seconds_of
from ggufkit.steps.quantize import QuantizeNotes, QuantizeParams
from ggufkit.steps.refine import RefineNotes
from ggufkit.texts.calibration import CalibrationNotes

MADE = Manifest(1, "quantize", 1, {}, {}, None, [], {}, "2025-01-01T00:00:00.000+00:00", 2.0)
SCALED: Any = {"blk.0.attn_q.weight": (9.5, 0.5)}  # in a manifest its tuples are lists
NOTES: list[tuple[Notes, dict[str, Json]]] = [
    (
        ConvertNotes("m", "plain", "F16", "acme/m", None),
        {"name": "m", "variant": "plain", "type": "F16", "source": "acme/m", "revision": None},
    ),
    (
        ConvertNotes("m", "awq", "F16", "acme/m", "c0ffee", 12, 0),
        {"name": "m", "variant": "awq", "type": "F16", "source": "acme/m", "revision": "c0ffee",
         "token_strings": 12, "token_mismatches": 0},
    ),
    (
        ConvertNotes("m", "plain", "F16", "acme/m", None, allow_losses=True, check_function=False),
        {"name": "m", "variant": "plain", "type": "F16", "source": "acme/m", "revision": None,
         "allow_losses": True, "check_function": False},
    ),
    (
        ImportNotes("m", "plain", "BF16", "/a/m.gguf"),
        {"name": "m", "variant": "plain", "type": "BF16", "source": "/a/m.gguf"},
    ),
    (
        QuantizeNotes("m", "imatrix", "Q4_K_M", 1, [["a", "q4_K", "q5_0"]]),
        {"name": "m", "variant": "imatrix", "type": "Q4_K_M", "n_fallback": 1, "fallbacks": [["a", "q4_K", "q5_0"]]},
    ),
    (
        RefineNotes("m", "gptq", "Q4_0", None, 7, {"a": "no inputs"}, "cpu", 9),
        {"name": "m", "variant": "gptq", "type": "Q4_0", "n_fallback": None, "refined": 7,
         "untouched": {"a": "no inputs"}, "device": "cpu", "peak_ram_bytes": 9},
    ),
    (AwqNotes("awq-Q4_0", 1.5), {"label": "awq-Q4_0", "tool_s": 1.5}),
    (AwqNotes("awq", 1.5, SCALED), {"label": "awq", "tool_s": 1.5, "tensors": SCALED}),
    (ImatrixNotes(["a"], "t.txt"), {"missing": ["a"], "calibration_source": "t.txt"}),
    (EvalNotes(1.5, "wikitext2"), {"tool_s": 1.5, "corpus": "wikitext2"}),
    (DivergenceNotes(1.5, "wikitext2"), {"tool_s": 1.5, "corpus": "wikitext2"}),
    (DivergenceNotes(1.5, "wikitext2", 99), {"tool_s": 1.5, "corpus": "wikitext2", "sample_bytes": 99}),
    (
        CalibrationNotes("t.txt", "aa", "bb", 4, 64, 256, 42),
        {"calibration_source": "t.txt", "calibration_text_sha256": "aa", "calibration_tokens_sha256": "bb",
         "calibration_samples": 4, "calibration_sample_tokens": 64, "calibration_tokens": 256, "calibration_seed": 42},
    ),
]  # fmt: skip
PARAMS: list[tuple[Params, dict[str, Json]]] = [
    (ConvertParams("f16", "m"), {"out_type": "f16", "name": "m", "pre": None}),
    (ImportParams("m"), {"name": "m"}),
    (QuantizeParams("Q4_0"), {"type": "Q4_0", "allow_requantize": False}),
    (
        AwqParams("native", "ggml", "source", True, "aa"),
        {"engine": "native", "objective": "ggml", "dtype": "source", "importance": True, "types_sha256": "aa"},
    ),
    (
        ImatrixParams(512, 128, "t.txt", "cuda"),
        {"n_ctx": 512, "n_chunks": 128, "text": "t.txt", "backend": "cuda"},
    ),
    (EvalParams(256, None), {"n_ctx": 256, "n_chunks": None, "ngl": None, "backend": "cpu"}),
    (
        EvalParams(2048, 5, 9, "cuda", None, 1024, 0.01),
        {"n_ctx": 2048, "n_chunks": 5, "ngl": 9, "backend": "cuda", "batch": None, "ubatch": 1024,
         "precision": 0.01},
    ),
    (
        BenchParams(512, 128, None, 5, 2, "a machine", "cpu"),
        {"n_prompt": 512, "n_gen": 128, "ngl": None, "repetitions": 5, "threads": 2, "machine": "a machine",
         "backend": "cpu"},
    ),
]  # fmt: skip


def noted(notes: Mapping[str, Json], **params: Json) -> Manifest:
    return replace(MADE, notes=notes, params=params)


@pytest.mark.parametrize(("notes", "keys"), NOTES)
def test_notes_are_written_and_read_by_their_keys(notes: Notes, keys: dict[str, Json]) -> None:
    assert notes.to_notes() == keys
    assert type(notes).from_manifest(noted(keys)) == notes


@pytest.mark.parametrize(("params", "keys"), PARAMS)
def test_params_are_written_and_read_by_their_keys(params: Params, keys: dict[str, Json]) -> None:
    assert params.to_params() == keys
    assert type(params).from_manifest(noted({}, **keys)) == params


@pytest.mark.parametrize("kind", list(dict.fromkeys(type(notes) for notes, _ in NOTES)))
def test_what_an_older_manifest_lacks_is_the_default(kind: type[Notes]) -> None:
    assert kind.from_manifest(MADE) == kind()
    assert kind.from_manifest(noted({"name": 7, "n_fallback": "2", "tool_s": None, "unheard_of": 1})) == kind()


def test_every_step_that_makes_a_gguf_says_what_it_is_called() -> None:
    made = noted(QuantizeNotes("m", "imatrix", "Q4_K_M", 1).to_notes())
    assert GgufNotes.from_manifest(made) == GgufNotes("m", "imatrix", "Q4_K_M")
    assert not GgufNotes.from_manifest(MADE).variant


def test_where_and_how_long_a_step_worked() -> None:
    assert backend_of(MADE) == "cpu"
    assert backend_of(noted({}, backend="metal")) == "metal"
    assert backend_of(noted({"device": "cuda"})) == "cuda"
    assert seconds_of(MADE) == 2.0
    assert seconds_of(noted({"tool_s": 7.5})) == 7.5


def test_an_adapter_stands_in_the_source() -> None:
    assert split_source("acme/m + my-lora") == ("acme/m", "my-lora")
    assert split_source("acme/m") == ("acme/m", None)
