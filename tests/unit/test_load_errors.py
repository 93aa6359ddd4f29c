"""What a log says of a file that was not loaded, and of what a conversion loses."""

from __future__ import annotations

import pytest

from ggufkit.llama.load_errors import why_no_projector, why_not_loaded
from ggufkit.llama.losses import losses

_STAMP = "0.00.013.693 E llama_model_load: error loading model: "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("missing tensor 'blk.1.ffn_down.weight'", "blk.1.ffn_down.weight is missing"),
        ("check_tensor_dims: tensor 'output_norm.weight' not found", "output_norm.weight is missing"),
        (
            "check_tensor_dims: tensor 'token_embd.weight' has wrong shape; expected  256,   377, got  256, 376,   1,   1",
            "token_embd.weight has the shape 256 x 376 where 256 x 377 is needed",
        ),
        (
            "done_getting_tensors: wrong number of tensors; expected 22, got 21",
            "it holds 22 tensors, of which the architecture knows 21",
        ),
        (
            "error loading model vocabulary: cannot find tokenizer merges in model file",
            "cannot find tokenizer merges",
        ),
        ("unknown model architecture: 'moon'", "unknown model architecture: 'moon'"),
    ],
)
def test_the_reason_names_tensor_and_sizes(said: str, reason: str) -> None:
    told = why_not_loaded(f"loading\n{_STAMP}{said}\nllama_model_load_from_file_impl: failed to load model\n")
    assert told is not None
    assert told.startswith(reason)


def test_an_assertion_is_a_reason_and_silence_is_none() -> None:
    assert (
        why_not_loaded("x.cpp:12: GGML_ASSERT(n_head > 0) failed\n")
        == "it gives up with «GGML_ASSERT(n_head > 0) failed»"
    )
    assert why_not_loaded("loading\nKilled\n") is None


def test_what_the_converter_leaves_out_is_listed_once() -> None:
    said = "".join(
        f"WARNING:hf-to-gguf:ignore token {i}: id is out of range, max=4095\n"
        for i in (4096, 4097, 4096, 4098, 4099, 5000)
    )
    assert losses(said) == ["the tokens 4096, 4097, 4098, 4099 and 1 more (no rows for them)"]
    assert losses("WARNING:hf-to-gguf:Unknown RoPE type: spiral\n") == ["the rope type spiral"]


@pytest.mark.parametrize("kind", ["default", "proportional", "mrope"])
def test_rope_types_that_are_none_are_no_loss(kind: str) -> None:
    assert (
        losses(f"WARNING:hf-to-gguf:Unknown RoPE type: {kind}\nINFO:hf-to-gguf:gguf: rope scaling type = NONE\n")
        == []
    )


def test_why_images_cannot_be_read() -> None:
    stamp = "0.00.058.921 E "
    said = f"{stamp}clip_init: failed to load model 'a/b.gguf': load_hparams: unknown projector type: moon\n\n"
    assert why_no_projector(said) == "unknown projector type: moon"
    wrong = "mismatch between text model (n_embd = 1) and mmproj (n_embd = 2)"
    assert (
        why_no_projector(f"{stamp}mtmd_init_from_file: error: {wrong}\nhint: you may be using wrong mmproj\n")
        == wrong
    )
    assert why_no_projector(f"{stamp}srv    load_model: loaded") is None
