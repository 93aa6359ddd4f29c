"""GGUF adapters: how they are written, and whether they are a model's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import GgufError, GgufkitError, UsageError
from ggufkit.llama import adapter, argv
from ggufkit.llama.adapter import Adapter, Scaled, require_all_kin, require_kin
from ggufkit.llama.gguf import read_header
from ggufkit.llama.server_argv import Beside
from ggufkit.modelfile import grammar
from ggufkit.modelfile.grammar import Modelfile
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of width 64."""
    return tiny.write_parrot(tmp_path_factory.mktemp("models") / "m.gguf", "hello", "{{ messages }}")


@pytest.mark.parametrize(
    ("written", "file", "scale"),
    [("a.gguf", "a.gguf", 1), ("a.gguf=0.5", "a.gguf", 0.5), ("a=b.gguf", "a=b.gguf", 1), ("a.gguf=-1e-1", "a.gguf", -0.1)],
)  # fmt: skip
def test_how_an_adapter_is_written(written: str, file: str, scale: float) -> None:
    assert Scaled().read(written) == Adapter(Path(file), scale)


def test_a_file_whose_name_ends_like_a_scale(tmp_path: Path) -> None:
    (tmp_path / "rate=0.5").write_bytes(b"")
    assert Scaled().read(tmp_path / "rate=0.5") == Adapter(tmp_path / "rate=0.5")


def test_what_the_tools_are_told() -> None:
    given = (Adapter(Path("a,b.gguf")), Adapter(Path("c.gguf"), 0.5))
    assert argv.adapters("--lora", given) == ["--lora", '"a,b.gguf"', "--lora-scaled", "c.gguf:0.5"]
    beside = Beside(loras=given[:1], control_vectors=given[1:])
    assert beside.options()[2:] == ["--control-vector-scaled", "c.gguf:0.5"]
    assert beside.resolved().loras[0].file.is_absolute()
    assert beside.resolved().mmproj is None


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"architecture": "qwen2"}, "its architecture is qwen2, that of the model llama"),
    "kind": ({"kind": "model"}, "is no LoRA adapter: its general.type is model"),
    "tensor": ({"tensor": "attn_x"}, "it changes blk.0.attn_x.weight, which the model lacks"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_adapter_of_another_model(model: Path, name: str, tmp_path: Path) -> None:
    told, reason = WRONG[name]
    lora = tiny.write_lora(tmp_path / "lora.gguf", model, **told)
    with pytest.raises(GgufkitError, match=reason):
        require_kin(Adapter(lora), read_header(model))


def test_shapes_and_pairs(model: Path, tmp_path: Path) -> None:
    lora = tiny.write_lora(tmp_path / "lora.gguf", model)
    require_kin(Adapter(lora, 0.5), read_header(model))
    found, header = read_header(lora), read_header(model)
    wide = replace(found, tensors=tuple(replace(t, shape=(t.shape[0], 2 * t.shape[1])) for t in found.tensors))
    assert (
        adapter._strangeness(wide, header) == "it changes blk.0.attn_q.weight of 64 × 128, the model's has 64 × 64"
    )
    one = replace(found, tensors=found.tensors[:1])
    assert adapter._strangeness(one, header) == "it lacks blk.0.attn_q.weight.lora_b"
    norm = replace(found, tensors=(*found.tensors, replace(found.tensors[0], name="blk.0.attn_norm.weight")))
    assert "attn_norm.weight, which llama.cpp does not apply" in (adapter._strangeness(norm, header) or "")
    tied = replace(header, tensors=tuple(t for t in header.tensors if t.name != "output.weight"))
    names = {"lora_a": (4, 260), "lora_b": (4, 64)}
    embeds = replace(
        found,
        tensors=tuple(
            replace(found.tensors[0], name=f"token_embd.weight.{end}", shape=shape) for end, shape in names.items()
        ),
    )
    assert "the output, too" in (adapter._strangeness(embeds, tied) or "")


def test_a_colon_in_the_path_of_a_scaled_adapter(model: Path, tmp_path: Path) -> None:
    lora = tiny.write_lora(tmp_path / "a:b.gguf", model)
    require_kin(Adapter(lora), read_header(model))
    with pytest.raises(UsageError, match="colon"):
        require_kin(Adapter(lora, 2), read_header(model))


def test_control_vectors(model: Path, tmp_path: Path) -> None:
    header = read_header(model)
    require_all_kin((), [Adapter(tiny.write_control_vector(tmp_path / "v.gguf", 64))], header)
    with pytest.raises(GgufkitError, match=r"its direction\.1 has 32 values, the model 64"):
        require_all_kin((), [Adapter(tiny.write_control_vector(tmp_path / "w.gguf", 32))], header)
    with pytest.raises(GgufError, match=r"m\.gguf is no control vector: its architecture is llama"):
        require_all_kin((), [Adapter(model)], header)


def test_the_line_of_a_modelfile() -> None:
    text = grammar.write(Modelfile("./m.gguf", adapter="./my lora.gguf"))
    assert 'ADAPTER "./my lora.gguf"' in text
    assert [command.name for command in grammar.parse(text)] == ["model", "adapter"]
