"""What is read of a checkpoint is what is hashed; a file that is not what its name says is refused before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ggufkit.core.errors import CheckpointError
from ggufkit.core.progress import SilentReporter
from ggufkit.models import lora, sources
from ggufkit.models.checkpoint import open_checkpoint, stored_tensors
from ggufkit.models.files import INDEX, files_of, fingerprint
from tests import tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


def refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "config.json",
        "model.safetensors",
        "merges.txt",
    ],
)
def test_a_pointer_of_git_lfs(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text(POINTER)
    error = refused(checkpoint)
    assert f"{checkpoint / name} is a pointer of Git LFS" in error.message
    assert "git lfs pull" in str(error.hint)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "config.json"])
def test_an_empty_file(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text("")
    assert f"{checkpoint / name} is empty" in refused(checkpoint).message


@pytest.mark.parametrize("content", ["{}".encode("utf-16"), b"[]", b'{"a":'])
@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json"])
def test_settings_that_are_none(checkpoint: Path, name: str, content: bytes) -> None:
    (checkpoint / name).write_bytes(content)
    assert str(checkpoint / name) in refused(checkpoint).message


def test_what_nobody_reads_may_be_anything(checkpoint: Path) -> None:
    (checkpoint / "trainer_state.json").write_text(POINTER)
    (checkpoint / "README.md").write_text("")
    assert open_checkpoint(checkpoint).n_params


@pytest.mark.parametrize("name", ["mymerge.safetensors", "consolidated.safetensors", "model.fp16.safetensors"])
def test_weights_under_another_name(checkpoint: Path, name: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    error = refused(checkpoint)
    assert (
        f"no weights under a name that is read: model.safetensors, or model-00001-of-0000N.safetensors … with {INDEX}"
        in (error.message)
    )
    assert name in error.message
    assert error.hint == "If that is the whole model, rename it to model.safetensors."


def test_two_sets_of_weights(tmp_path: Path) -> None:
    """transformers reads the whole file, the converter the shards."""
    path = tiny.write_llama(tmp_path / "m", shards=2)
    shutil.copy(tiny.write_llama(tmp_path / "other") / "model.safetensors", path)
    assert f"holds model.safetensors beside the shards of {INDEX}" in refused(path).message
    (path / INDEX).unlink()
    assert "holds weights under several names: model-00001-of-00002.safetensors, " in refused(path).message
    for shard in path.glob("model-*"):
        shard.unlink()
    assert open_checkpoint(path).n_params
    shutil.copy(path / "model.safetensors", path / "model_old.safetensors")
    assert "holds weights under several names" in refused(path).message


def test_an_absurd_number_of_shards(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-999999999.safetensors")
    assert "lacks model-000000001-of-999999999.safetensors, model-000000002" in refused(checkpoint).message


def index(path: Path, weight_map: object) -> Path:
    """An index that says this, beside the weights in a directory below."""
    (path / "sub").mkdir(exist_ok=True)
    if (path / "model.safetensors").exists():
        (path / "model.safetensors").rename(path / "sub" / "w.safetensors")
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return path


def test_weights_below_the_directory_are_hashed(checkpoint: Path, private_cache: Path) -> None:
    names = [tensor.name for tensor in stored_tensors(checkpoint)]
    path = index(checkpoint, dict.fromkeys(names, "sub/w.safetensors"))
    assert [tensor.name for tensor in stored_tensors(path)] == names
    assert path / "sub" / "w.safetensors" in files_of(path)
    before, file = fingerprint(path), path / "sub" / "w.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert fingerprint(path) != before
    (path / "unread.safetensors").write_bytes(b"")
    assert path / "unread.safetensors" not in files_of(path)


def test_templates_and_modules_below_the_directory_are_hashed(checkpoint: Path) -> None:
    for name in ("additional_chat_templates/rag.jinja", "1_Pooling/config.json"):
        (checkpoint / name).parent.mkdir()
        (checkpoint / name).write_text("{}")
    (checkpoint / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}]))
    found = [str(file.relative_to(checkpoint)) for file in files_of(checkpoint)]
    assert {"additional_chat_templates/rag.jinja", "1_Pooling/config.json"} < set(found)
    (checkpoint / "modules.json").write_text(json.dumps([{"path": "../other"}]))
    assert "names '../other', which is outside of the checkpoint" in refused(checkpoint).message


@pytest.mark.parametrize(
    "name", ["../w.safetensors", "/tmp/w.safetensors", "a/../../w.safetensors", "", "..\\w.safetensors"]
)
def test_an_index_that_leads_outside(checkpoint: Path, name: str) -> None:
    assert f"names {name!r}, which is outside of the checkpoint" in refused(index(checkpoint, {"a": name})).message


@pytest.mark.parametrize("weight_map", [[], {"a": 1}, {"a": None}, "x", 3, None])
def test_an_index_of_another_shape(checkpoint: Path, weight_map: object) -> None:
    assert f"{INDEX} is not as expected" in refused(index(checkpoint, weight_map)).message


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[" * 100_000, "nested"), ('{"a":' * 100_000, "nested"), ('{"a": 1e9999999}', "Number out of range")],
)
def test_a_hostile_config(checkpoint: Path, text: str, reason: str) -> None:
    (checkpoint / "config.json").write_text(text)
    assert reason in refused(checkpoint).message


def test_tensors_that_the_index_does_not_name(tmp_path: Path) -> None:
    path = tiny.write_llama(tmp_path / "m", shards=2)
    content = json.loads((path / INDEX).read_text())
    del content["weight_map"]["model.norm.weight"]
    (path / INDEX).write_text(json.dumps(content))
    assert "does not name 1 tensors that its shards hold, model.norm.weight first" in refused(path).message


def test_a_link_leads_outside_unless_the_cache_of_a_hub_made_it(tmp_path: Path) -> None:
    elsewhere = tiny.write_llama(tmp_path / "elsewhere")
    for home in ("hub/models--a--b/snapshots/" + "c" * 40, "git/a"):
        path = tmp_path / home
        path.mkdir(parents=True)
        for file in elsewhere.iterdir():
            blob = path.parent.parent / "blobs" / file.name
            blob.parent.mkdir(exist_ok=True)
            shutil.copy(file, blob)
            (path / file.name).symlink_to(blob)
    assert open_checkpoint(tmp_path / "hub" / "models--a--b" / "snapshots" / ("c" * 40)).n_params
    assert "which is outside of the checkpoint" in refused(tmp_path / "git" / "a").message
    downloaded = tmp_path / "downloaded"  # as `huggingface-cli download --local-dir` once made it
    downloaded.mkdir()
    for blob in (tmp_path / "hub" / "models--a--b" / "blobs").iterdir():
        (downloaded / blob.name).symlink_to(blob)
    assert open_checkpoint(downloaded).n_params


def test_an_adapter_that_is_cut(checkpoint: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    weights = (checkpoint / "model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors is truncated") as caught:
        lora.merge(open_checkpoint(checkpoint), adapter, SilentReporter())
    assert caught.value.hint


def test_a_directory_of_ggufs(tmp_path: Path) -> None:
    (tmp_path / "m-F16.gguf").write_bytes(b"GGUF")
    assert refused(tmp_path).hint == f"If you mean a GGUF in it, give that: {tmp_path / 'm-F16.gguf'}"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "chat_template.jinja"])
def test_a_link_to_what_was_not_downloaded(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).symlink_to("../../blobs/0f")
    error = refused(checkpoint)
    assert error.message == f"{checkpoint / name} is a link to ../../blobs/0f, which is not there."
    assert error.hint == "Its download did not end: download the checkpoint again."
    (checkpoint / name).rename(checkpoint / "notes.txt")
    if name != "model.safetensors":
        assert open_checkpoint(checkpoint).n_params


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "acme/tiny"}))
    with pytest.raises(CheckpointError, match="is an adapter, not a model") as caught:
        sources.require_readable(str(tmp_path))
    assert caught.value.hint == f"Give the model that it changes: build acme/tiny --lora {tmp_path}"
    (tmp_path / "adapter_config.json").write_text("{")
    assert refused(tmp_path).hint == f"Give the model that it changes: build BASE --lora {tmp_path}"
