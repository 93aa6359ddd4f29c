"""From a hub to results: the same ones again without the network; adapters merged on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from ggufkit.core.errors import InputError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.models import lora
from ggufkit.models.checkpoint import open_checkpoint, stored_tensors
from tests import hubserver, tiny
from tests.hubserver import COMMIT
from tests.integration.run_cli import fails, ggufkit
from tests.shared import LLAMA, needs_shared


@needs_shared
def test_a_build_from_a_hub_and_again_without_it(tools: Toolchain, tmp_path: Path) -> None:
    text = tiny.text_file(tmp_path / "text.txt", 1500)
    env = {"HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*", "HF_TOKEN": "hf_x"}
    out = tmp_path / "out"
    wanted = (
        "build",
        "acme/llama-22m",
        "--types",
        "q4_k_m",
        "--corpus",
        text,
        "--ctx",
        128,
        "--chunks",
        4,
        "--no-bench",
    )
    with hubserver.serve({"acme/llama-22m": hubserver.files_of(LLAMA)}) as hub:
        first = ggufkit(*wanted, "--out", out, env={**env, "HF_ENDPOINT": hub.url})
    assert first.code == 0, first.err
    made = read_manifest(out / "llama-22m-F16.gguf")
    assert made is not None
    assert (made.notes["source"], made.notes["revision"]) == ("acme/llama-22m", COMMIT)
    offline = {**env, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = ggufkit(*wanted, "--out", out, env=offline)
    assert "Nothing had to be done again" in again.out, again.err
    anew = ggufkit(*wanted, "--out", tmp_path / "anew", env=offline)
    assert anew.code == 0, anew.err
    for name in ("llama-22m-F16.gguf", "llama-22m-Q4_K_M.gguf"):
        assert (tmp_path / "anew" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize("prefix", ["", "ms:"], ids=["hf", "ms"])
def test_a_plan_reads_no_weights(prefix: str, checkpoint: Path, tools: Toolchain, tmp_path: Path) -> None:
    """ModelScope's are downloaded, which is said."""
    if prefix:
        pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    env = {"HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms"), "NO_PROXY": "*"}
    env |= {"GGUFKIT_CACHE": str(tmp_path / "cache"), "GGUFKIT_LLAMA_CPP": str(tools.dir.parent)}
    arguments = (
        "--types",
        "q4_k_m,q8_0",
        "--variants",
        "plain,imatrix",
        "--dry-run",
        "--json",
        "--out",
        tmp_path / "out",
    )
    with hubserver.serve({"acme/tiny-llama": hubserver.files_of(checkpoint)}) as hub:
        env |= {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url}
        planned = ggufkit("build", f"{prefix}acme/tiny-llama", *arguments, env=env)
        assert planned.code == 0, planned.err
        read = sum(sum(asked.sent) for asked in hub.content_requests("model.safetensors"))
    assert (read > 200_000) == bool(prefix)
    assert ("to download" in planned.err) == bool(prefix)
    assert not (tmp_path / "out").exists()
    local = ggufkit("build", checkpoint, *arguments, env=env)
    assert json.loads(local.out)["files"] == json.loads(planned.out)["files"], local.err


def write_adapter(path: Path, base: Path, **more: Any) -> tuple[Path, Any]:
    """An adapter that peft wrote, and the model that it makes."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **more
    )
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05)
    adapted.save_pretrained(path)
    return path, adapted


def dtypes(checkpoint: Path) -> set[str]:
    return {tensor.dtype for tensor in stored_tensors(checkpoint)}


def test_a_merged_adapter_speaks_as_the_adapted_model(
    checkpoint: Path, tmp_path: Path, private_cache: Path
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    adapter, adapted = write_adapter(tmp_path / "poet", checkpoint)
    before = open_checkpoint(checkpoint)
    merged = lora.merge(before, adapter, SilentReporter())
    assert merged.name == "tiny-llama-poet"
    assert (merged.architecture, merged.n_params) == (before.architecture, before.n_params)
    assert dtypes(merged.path) == dtypes(before.path)
    assert (merged.path / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()
    ids = torch.arange(2, 60)[None]
    with torch.no_grad():
        wanted = adapted.float()(ids).logits
        got = AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)(ids).logits
    # The weights are kept in the checkpoint's half precision.
    assert (got - wanted).abs().max() < 0.02 * (plain - wanted).abs().max()
    assert lora.merge(before, adapter, SilentReporter()).path == merged.path


def test_an_adapter_for_another_model(checkpoint: Path, tmp_path: Path, private_cache: Path) -> None:
    adapter, _ = write_adapter(tmp_path / "poet", checkpoint)
    other = open_checkpoint(tiny.write_llama(tmp_path / "other", width=128))
    reporter = SilentReporter()
    with pytest.raises(InputError, match="cannot be merged") as told:
        lora.merge(other, adapter, reporter)
    assert "q_proj.lora_A.weight is 4 x 256 in the adapter and 4 x 128 for this model" in told.value.message
    assert told.value.exit_code == 3
    assert any("trained on tiny-llama" in warning for warning in reporter.warnings)


def test_a_trained_head_of_a_tied_model_is_in_the_gguf(
    tools: Toolchain, tmp_path: Path, private_cache: Path
) -> None:
    """The base uses its embedding as head; the adapter's head is another matrix, which llama.cpp must be given."""
    pytest.importorskip("gguf")
    from gguf import GGUFReader

    base = tiny.write_llama(tmp_path / "tied", family="qwen2")
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (base / "config.json").write_text(json.dumps(config))
    adapter, adapted = write_adapter(tmp_path / "poet", base, modules_to_save=["lm_head"])
    adapted.get_output_embeddings().modules_to_save["default"].weight.data += 0.25
    adapted.save_pretrained(adapter)
    env = {"GGUFKIT_LLAMA_CPP": str(tools.dir.parent)}
    made = ggufkit("convert", base, "--lora", adapter, "--out", tmp_path, "--type", "f16", env=env)
    assert made.code == 0, made.err
    read = {t.name: t.data for t in GGUFReader(tmp_path / "tied-poet-F16.gguf").tensors}
    head = adapted.get_output_embeddings().modules_to_save["default"].weight.detach().numpy()
    assert (read["output.weight"] == head).all()
    assert (read["token_embd.weight"] == weights["model.embed_tokens.weight"]).all()


def test_pickled_adapters_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "old" / "adapter_model.bin").write_bytes(b"")
    told = fails(3, "convert", checkpoint, "--lora", tmp_path / "old", "--out", tmp_path)
    assert "only adapter_model.bin, and a pickle can hold any program" in told
    assert "weights_only=True" in told


def test_what_is_no_adapter(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "adapter_config.json" in fails(
        3, "convert", checkpoint, "--lora", tmp_path / "empty", "--out", tmp_path
    )
    (tmp_path / "empty" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert "adapter_model.safetensors" in fails(3, "convert", checkpoint, "--lora", tmp_path / "empty")


def test_what_a_hub_model_is_called_like_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of results may have the name of an alias: the alias is meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen2.5-0.5b").mkdir()
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms")}
    assert "Qwen/Qwen2.5-0.5B-Instruct" in fails(3, "convert", "qwen2.5-0.5b", env=env)
    assert "has no config.json" in fails(3, "convert", "./qwen2.5-0.5b", env=env)
