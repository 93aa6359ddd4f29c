"""Which files of a repository are taken, which are refused, and when a file on disk is the one listed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.core.errors import SourceError
from ggufkit.core.jsonfile import parse_json
from ggufkit.hub import huggingface, modelscope
from ggufkit.hub.listing import (
    Hub,
    Listing,
    RemoteFile,
    Repo,
    defect,
    needed,
    recall,
    remember,
    require_safe,
    require_sane,
)

REPO = Repo("acme/x")


def listing(*names: str) -> Listing:
    return Listing("c" * 40, tuple(RemoteFile(name, 1) for name in names))


def chosen(*names: str, allow_pickle: bool = False) -> list[str]:
    return [file.path for file in needed(REPO, listing(*names), allow_pickle=allow_pickle)]


def test_takes_what_a_conversion_reads() -> None:
    names = [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "README.md",
        "chat_template.jinja", "model.safetensors", "additional_chat_templates/rag.jinja", "1_Pooling/config.json",
    ]  # fmt: skip
    others = [
        "model.gguf",
        "flax_model.msgpack",
        "pytorch_model.bin",
        "x.png",
        ".gitattributes",
        "onnx/model.onnx",
    ]
    assert chosen(*names, *others, "original/params.json") == sorted(names)


def test_takes_one_set_of_weights() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert chosen("config.json", index, "consolidated.safetensors", *shards) == sorted(
        ["config.json", index, *shards]
    )
    assert chosen("config.json", "consolidated.safetensors", "w.safetensors") == ["config.json", "w.safetensors"]
    assert chosen("config.json", "consolidated.safetensors") == ["config.json", "consolidated.safetensors"]


def test_pickles_are_taken_on_request_only() -> None:
    names = [
        "config.json",
        "pytorch_model-00001-of-00001.bin",
        "pytorch_model.bin.index.json",
        "training_args.bin",
    ]
    with pytest.raises(SourceError) as refused:
        chosen(*names)
    assert "--allow-pickle" in str(refused.value.hint)
    assert chosen(*names, allow_pickle=True) == names[:3]
    assert chosen("config.json", "model.safetensors", "pytorch_model.bin", allow_pickle=True)[1:] == [
        "model.safetensors"
    ]


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["model.safetensors"], "config.json"),
        (["adapter_config.json", "adapter_model.safetensors"], "--lora"),
        (["config.json", "model-Q4_K_M.gguf"], "GGUF files already"),
        (["config.json"], "safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused(names: list[str], hint: str) -> None:
    with pytest.raises(SourceError) as refused:
        chosen(*names)
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize(
    "path", ["../../x", "a/../../x", "/etc/passwd", "..", "", "a\\..\\b", "C:\\x", "c:x", "a\0b", "model?.json"]
)
def test_a_path_outside_is_refused(path: str) -> None:
    with pytest.raises(SourceError):
        needed(REPO, listing("config.json", "model.safetensors", path))


@given(st.text(max_size=40))
def test_what_is_safe_stays_inside(path: str) -> None:
    root = Path("/cache/snapshot")
    try:
        require_safe(REPO, [RemoteFile(path, 1)])
    except SourceError:
        return
    assert Path(*(p for p in (root / path).parts if p != ".")).is_relative_to(root)
    assert ".." not in (root / path).parts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "size", "oid", "lfs", "type"]), inner)
    ),
    max_leaves=20,
)
ENTRY = st.fixed_dictionaries(
    {
        "path": JSON | st.sampled_from(["config.json", "model.safetensors"]),
        "size": JSON | st.just(1),
        "type": st.just("file"),
    },
    optional={
        "oid": JSON | st.just("0" * 40),
        "lfs": JSON | st.fixed_dictionaries({"oid": JSON | st.just("0" * 64)}),
    },
)


@pytest.mark.parametrize("hub", [huggingface, modelscope])
@given(st.binary(max_size=60) | (JSON | st.lists(ENTRY, max_size=4)).map(lambda data: json.dumps(data).encode()))
def test_whatever_a_hub_answers_is_a_listing_or_an_error(hub: Hub, data: bytes) -> None:
    try:
        taken = listed(hub, data)
    except SourceError as error:
        taken, said = [], error.message if error.hint else "\x1b no hint"
    else:
        said = ""
    assert all(0 <= file.size < 1 << 41 and file.path.isprintable() for file in taken)
    assert "\x1b" not in said


def listed(hub: Hub, data: bytes) -> list[RemoteFile]:
    """What is taken of a hub's answer; of ModelScope's in its own words."""
    if hub is huggingface:
        files = [entry.described() for entry in parse_json(data, list[huggingface._Entry], "x", SourceError)]
    else:
        there = re.sub(rb'"([a-z])(\w+)":', lambda m: b'"%s%s":' % (m[1].upper(), m[2]), data)
        page = parse_json(b'{"Data": %s}' % there, modelscope._Page, "x", SourceError)
        files = [entry.described() for entry in page.entries()]
    return needed(REPO, require_sane(REPO, Listing("c" * 40, tuple(files))))


def test_a_file_is_judged_by_size_and_hash(tmp_path: Path, private_cache: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    git = hashlib.sha1(b"blob 7\0content").hexdigest()
    assert defect(file, RemoteFile("x", 7, sha256)) is None
    assert defect(file, RemoteFile("x", 7, None, git)) is None
    assert "bytes" in str(defect(file, RemoteFile("x", 8, sha256)))
    assert "SHA-256" in str(defect(file, RemoteFile("x", 7, "0" * 64, git)))
    assert "git hash" in str(defect(file, RemoteFile("x", 7, None, "0" * 40)))
    assert "not there" in str(defect(tmp_path / "y", RemoteFile("y", 7)))


def test_a_listing_is_remembered_by_revision_and_commit(private_cache: Path) -> None:
    known = Listing("c" * 40, (RemoteFile("config.json", 3, None, "d" * 40),))
    remember(huggingface, Repo("acme/x", "refs/pr/1"), known)
    assert recall(huggingface, Repo("acme/x", "refs/pr/1")) == known
    assert recall(huggingface, Repo("acme/x", "c" * 40)) == known
    assert recall(huggingface, REPO) is None
    assert recall(huggingface, Repo("acme/x", "refs/pr/1", "dataset")) is None


def test_the_cache_is_where_the_library_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert huggingface.cache() == tmp_path / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert huggingface.cache() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert huggingface.cache() == tmp_path / "hub"
    assert huggingface.directory(REPO, "abc") == tmp_path / "hub" / "models--acme--x" / "snapshots" / "abc"


def test_what_another_tool_left_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    home, commit = tmp_path / "models--acme--x", "a" * 40
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    digest = hashlib.sha256(b"weights").hexdigest()
    (home / "blobs" / digest).write_bytes(b"weights")
    (home / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    found = huggingface.list_cached(REPO)
    assert found == Listing(commit, (RemoteFile("model.safetensors", 7, digest, None),))
    assert huggingface.list_cached(Repo("acme/x", commit)) == found
    assert huggingface.list_cached(Repo("acme/x", "v2")) is None


def test_how_an_encoder_pools_is_needed() -> None:
    names = ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "onnx/model.onnx"]
    listing = Listing("c", tuple(RemoteFile(name, 1) for name in names))
    assert [file.path for file in needed(Repo("a/b"), listing)] == sorted(names[:-1])
