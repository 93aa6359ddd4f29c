"""How far a tool is, from pieces of what it prints."""

from __future__ import annotations

import pytest

from ggufkit.core.errors import TokenizerError
from ggufkit.core.process import ToolOutput
from ggufkit.llama import launcher
from ggufkit.llama.progress_lines import (
    chunks_collected,
    chunks_found,
    ended_tokenizing,
    is_computing,
    percent_written,
    repetitions_done,
    steps_done,
)

READ = "compute_imatrix: tokenizing the input ..\ncompute_imatrix: tokenization took 2.1 ms\n"
COMPUTING = READ + "compute_imatrix: computing over 12 chunks, n_ctx=512, batch_size=2048\n"


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("[  12/ 290]  blk.0.attn_k.weight - [ 576, 192]\n[  13/ 290] blk.0.attn_n", (13, 290)),
        ("[3/117] Building CXX object ggml.cpp.o", (3, 117)),
        ("[  12/ 2", None),
        ("", None),
    ],
)
def test_steps(text: str, steps: tuple[int, int] | None) -> None:
    assert steps_done(text) == steps


def test_the_converters_bar() -> None:
    assert percent_written("Writing:   3%|▎   | 1.2M/44M\rWriting:  41%|████▏ | 18M/44M") == 41
    assert percent_written("INFO:hf-to-gguf:Set model tokenizer") is None


def test_an_importance_matrix_on_its_way() -> None:
    assert chunks_collected("[1]\nsave_imatrix: stored collected data after 20 chunks in x\n") == 20
    assert chunks_collected("save_imatrix: stored") is None
    assert not is_computing(READ)
    assert is_computing(COMPUTING)
    assert ended_tokenizing(READ)
    assert not ended_tokenizing(COMPUTING)
    assert not ended_tokenizing("error loading model")
    assert (chunks_found(COMPUTING), chunks_found(READ)) == (12, None)


def test_what_the_launcher_explains_is_raised_as_it_is() -> None:
    said = 'warning\nggufkit-error: {"kind": "TokenizerError", "message": "No.", "hint": "Yes."}\n'
    error = launcher.error_in(ToolOutput(("python",), 1, "", said, 1.0))
    assert isinstance(error, TokenizerError)
    assert (error.message, error.hint) == ("No.", "Yes.")
    assert launcher.error_in(ToolOutput(("python",), 1, "", "Traceback", 1.0)) is None


def test_repetitions_of_a_benchmark() -> None:
    said = "llama-bench: benchmark 1/2: warmup prompt run\n"
    assert repetitions_done(said) is None
    assert repetitions_done(said + "llama-bench: benchmark 1/2: prompt run 1/5\n") == (0, 10)
    assert repetitions_done(said + "llama-bench: benchmark 2/2: generation run 3/5\n") == (7, 10)
