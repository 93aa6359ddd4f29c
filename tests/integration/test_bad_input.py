"""Bad input ends with one clear message and the right exit code, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufkit.core.errors import TokenizerError
from ggufkit.core.manifest import manifest_path
from ggufkit.core.records import Toolchain
from ggufkit.llama.gguf import read_header
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.steps import convert
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests import tiny
from tests.fake_results import FAKES, write_results
from tests.integration.run_cli import fails, ggufkit
from tests.unit.test_gguf import write

INPUT, USAGE, TOOLCHAIN, TOOL, RESOURCES = 3, 2, 4, 5, 6


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return tiny.text_file(tmp_path / "text.txt")


def build(model: Path, corpus: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("build", model, "--corpus", corpus, "--ctx", 64, "--chunks", 4, "--types", "q8_0", "--no-bench",
            "--out", out, *more)  # fmt: skip


def test_no_config(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "model").mkdir()
    assert "has no config.json" in fails(INPUT, *build(tmp_path / "model", corpus, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nothing_of_that_name(tmp_path: Path, corpus: Path) -> None:
    assert "no-such-model" in fails(INPUT, *build(tmp_path / "no-such-model", corpus, tmp_path / "out"))


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_broken_shard_is_found_before_conversion(tmp_path: Path, corpus: Path, damage: str) -> None:
    model = tiny.write_llama(tmp_path / "model", shards=2)
    shard = model / "model-00002-of-00002.safetensors"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    message = fails(INPUT, *build(model, corpus, tmp_path / "out"))
    assert shard.name in message
    assert not (tmp_path / "out").exists()


def test_nan_weights_are_named(checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain) -> None:
    shard = checkpoint / "model.safetensors"
    tensors = load_file(shard)
    tensors["model.layers.0.self_attn.k_proj.weight"][1, 1] = np.nan
    save_file(tensors, shard)
    message = fails(INPUT, *build(checkpoint, corpus, tmp_path / "out"))
    assert "model.layers.0.self_attn.k_proj.weight" in message
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_weights_beyond_f16(checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain) -> None:
    shard = checkpoint / "model.safetensors"
    tensors = {name: t.astype(np.float32) for name, t in load_file(shard).items()}
    tensors["lm_head.weight"][0, 0] = 1e5
    save_file(tensors, shard)
    assert "--base-type bf16" in fails(INPUT, *build(checkpoint, corpus, tmp_path / "out"))


def test_a_layer_without_weights(checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain) -> None:
    """The converter writes what there is, and llama.cpp could not load it."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "no weights for layers that its config.json has: 2." in fails(
        INPUT, *build(checkpoint, corpus, tmp_path / "out")
    )
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_an_architecture_that_the_converter_lacks(
    checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "architectures": ["FooBarForCausalLM"]}))
    assert "does not know the architecture FooBarForCausalLM" in fails(
        INPUT, *build(checkpoint, corpus, tmp_path / "out")
    )


def test_an_unknown_splitting(tmp_path: Path, corpus: Path, tools: Toolchain) -> None:
    model = tiny.write_llama(tmp_path / "model", family="whitespace")
    message = fails(INPUT, *build(model, corpus, tmp_path / "out"))
    assert "--pre NAME" in message
    wrong = fails(INPUT, *build(model, corpus, tmp_path / "out", "--pre", "qwen2"))
    assert "tokenizes" in wrong
    assert "differently from the original" in wrong
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_what_a_long_conversion_would_end_in_is_found_before_it(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.write_llama(tmp_path / "model", family="whitespace")

    def read(*_: object) -> str:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(convert, "_LONG", 0)
    monkeypatch.setattr(convert, "fingerprint", read)
    with pytest.raises(TokenizerError, match="differently from the original"):
        convert.convert(open_checkpoint(model), tmp_path / "m.gguf", ConvertOptions(pre="qwen2"), session)
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("empty", "is empty"),
        ("cut", "is truncated"),
        ("text", "is not a GGUF"),
        ("pointer", "of Git LFS"),
        ("big", "big-endian"),
    ],
)
def test_a_broken_gguf(tmp_path: Path, corpus: Path, damage: str, message: str) -> None:
    model = write(tmp_path / "model-F16.gguf", big=damage == "big")
    content = {
        "empty": b"",
        "cut": model.read_bytes()[:-50],
        "text": b"hello world, no gguf",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "big": model.read_bytes(),
    }
    model.write_bytes(content[damage])
    assert message in fails(INPUT, *build(model, corpus, tmp_path / "out"))
    assert message in fails(INPUT, "inspect", model)


def test_requantizing_is_refused(base: Path, tmp_path: Path) -> None:
    assert ggufkit("quantize", base, "--types", "q8_0").code == 0
    done = base.with_name("tiny-llama-Q8_0.gguf")
    before = done.read_bytes()
    assert "quantized already" in fails(INPUT, "quantize", done, "--types", "q4_0")
    assert "quantized already" in fails(
        INPUT, "build", done, "--types", "q4_0", "--no-eval", "--out", tmp_path / "o"
    )
    assert "is the input" in fails(INPUT, "quantize", done, "--types", "q8_0", "--allow-requantize")
    assert done.read_bytes() == before
    assert ggufkit("quantize", done, "--types", "q4_0", "--allow-requantize").code == 0


def test_an_unknown_type(checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain) -> None:
    message = fails(INPUT, *build(checkpoint, corpus, tmp_path / "out", "--types", "q4_k_x"))
    assert "no type 'q4_k_x'" in message
    assert "Q4_K_M" in message


def test_a_type_that_needs_an_importance_matrix(base: Path, corpus: Path, tmp_path: Path) -> None:
    message = fails(INPUT, *build(base, corpus, tmp_path / "out", "--types", "iq2_xs"))
    assert "--variants imatrix" in message


def test_a_matrix_that_is_missing_is_missed_before_conversion(
    checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain
) -> None:
    message = fails(INPUT, *build(checkpoint, corpus, tmp_path / "out", "--types", "q8_0,iq2_xs"))
    assert "IQ2_XS needs an importance matrix" in message
    assert not list((tmp_path / "out").glob("*.gguf"))


def write_matrix(path: Path, base: Path, layers: range) -> Path:
    """An importance matrix in the older format, of some layers."""
    wanted = [t for t in read_header(base).tensors if len(t.shape) == 2 and t.name.startswith("blk.")]
    known = [t for t in wanted if int(t.name.split(".")[1]) in layers]
    data = struct.pack("<i", len(known))
    for t in known:
        name = t.name.encode()
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, t.shape[0]) + b"\0\0\x80?" * t.shape[0]
    path.write_bytes(data)
    return path


def test_a_matrix_that_lacks_a_layer(base: Path, corpus: Path, tmp_path: Path) -> None:
    """llama-quantize finds out after it has made the layers before."""
    matrix = write_matrix(tmp_path / "half.dat", base, range(1))
    lacks = "and 5 more tensors: IQ2_XS needs it. Compute it for this model"
    assert lacks in fails(INPUT, "quantize", base, "--types", "q4_k_m,iq2_xs", "--imatrix", matrix)
    assert not list(base.parent.glob("*-Q4_K_M.gguf")), "nothing runs before"
    own = ("--variants", "imatrix", "--imatrix", matrix, "--types", "iq2_xs", "--no-eval")
    assert lacks in fails(INPUT, *build(base, corpus, tmp_path / "out"), *own)
    assert not list((tmp_path / "out").glob("*.gguf"))
    done = ggufkit("quantize", base, "--types", "q4_k_m", "--imatrix", matrix)
    assert done.code == 0, done.err
    assert "has no data for 7 tensors: blk.1." in " ".join(done.err.split())
    whole = write_matrix(tmp_path / "whole.dat", base, range(2))
    assert ggufkit("quantize", base, "--types", "iq2_xs", "--imatrix", whole).code == 0


def test_a_gguf_that_holds_nan(base: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(base, "r+")
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    tensor.data.view(np.uint16).flat[5] = 0x7E00
    reader.data.flush()
    message = fails(INPUT, "quantize", base, "--types", "q8_0")
    assert f"{base} holds NaN or infinite values: llama-quantize says that tensor blk.1.ffn_up.weight" in message
    assert "convert or download it again" in message
    assert "quantize-tiny-llama-Q8_0.log" in message
    assert not list(base.parent.glob("*-Q8_0.gguf*"))


def test_usage(tmp_path: Path) -> None:
    assert ggufkit("build").code == USAGE
    assert ggufkit("nonsense").code == USAGE
    assert ggufkit("build", "x", "--chunks", "1").code == USAGE
    assert ggufkit("build", "x", "--variants", "shiny").code == USAGE


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_an_output_directory_that_cannot_be_written(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert "cannot be written" in fails(INPUT, *build(checkpoint, corpus, locked / "out"))


def test_an_output_directory_below_a_file(
    checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(INPUT, *build(checkpoint, corpus, tmp_path / "file" / "out"))


def test_an_output_directory_inside_the_input(checkpoint: Path, corpus: Path) -> None:
    assert "lies inside the checkpoint" in fails(INPUT, *build(checkpoint, corpus, checkpoint / "out"))
    assert "lies inside the checkpoint" in fails(INPUT, "convert", checkpoint, "--out", checkpoint)
    assert not (checkpoint / "out").exists()


def test_an_output_directory_of_another_model(
    checkpoint: Path, converted: Path, corpus: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", tiny.write_llama(tmp_path / "other")
    out.mkdir()
    for file in (converted, manifest_path(converted)):
        shutil.copy(file, out)
    assert f"holds the results of {checkpoint.name}" in fails(INPUT, *build(other, corpus, out))
    assert [f.name for f in out.glob("*.gguf")] == [converted.name]
    write_results(
        tmp_path / "again", FAKES[1:2], name=f"{checkpoint.name}-awq"
    )  # as `ggufkit quantize` notes its input
    assert ggufkit(*build(checkpoint, corpus, tmp_path / "again"), "--dry-run").code == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "There is no text"),
        ("empty.txt", b"", "is empty"),
        ("latin.txt", "é".encode("latin-1") * 9, "is not UTF-8: byte 0"),
        ("x.arrow", b"ARROW1\0\0....", "cannot be read as a table"),
        ("wiki.parquet", b"PAR1....", "cannot be read as a table"),
        ("disguised.txt", b"ARROW1\0\0....", "binary framing"),
    ],
)
def test_a_corpus_that_cannot_be_read(
    checkpoint: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in fails(INPUT, *build(checkpoint, tmp_path / name, tmp_path / "out"))


def test_a_corpus_that_is_too_short(base: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too short to say anything.")
    message = fails(INPUT, *build(base, short, tmp_path / "out"))
    assert "too short" in message
    assert "✓ Base pass" not in message, "what failed is not shown as done"
    assert not list((tmp_path / "out").glob("*.gguf")), "nothing was made before"


def test_a_disk_that_is_too_small(checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain) -> None:
    code = (
        "import sys; from ggufkit.core import machine; machine.free_disk = lambda path: 1_000_000; "
        "from ggufkit.cli import main; main(sys.argv[1:])"
    )
    from ggufkit.core import process

    argv = [*map(str, build(checkpoint, corpus, tmp_path / "out"))]
    import sys

    ended = process.run([sys.executable, "-c", code, *argv])
    assert ended.returncode == RESOURCES, ended.stderr
    assert "of disk at its peak" in ended.stderr
    assert not list((tmp_path / "out").glob("*.gguf"))


def fake_tools(tools: Toolchain, directory: Path, name: str, script: str) -> dict[str, str]:
    """A toolchain of the real one's files, one of them replaced."""
    shutil.copytree(tools.dir, directory / "bin", symlinks=True)
    (directory / "bin" / name).unlink()
    (directory / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / "bin" / name).chmod(0o755)
    stamp = tools.dir.parent / "ggufkit-toolchain.json"
    if stamp.is_file():
        shutil.copy(stamp, directory)
    return {"GGUFKIT_LLAMA_CPP": str(directory)}


def swapping(tools: Toolchain, directory: Path, changed: Path) -> dict[str, str]:
    """Tools that find other content, of the same size and modification time, in a file that was hashed before."""
    env = fake_tools(tools, directory, "llama-perplexity", "")
    for name in ("llama-perplexity", "llama-imatrix", "llama-quantize"):
        swap = f'case "$*" in *--help*|*--version*|*--dry-run*) ;; *) tr a-z b-za < {changed} > {changed}.new'
        swap += f" && touch -r {changed} {changed}.new && mv {changed}.new {changed};; esac"
        (directory / "bin" / name).unlink(missing_ok=True)
        (directory / "bin" / name).write_text(f'#!/bin/sh\n{swap}\nexec {tools.dir}/{name} "$@"\n')
        (directory / "bin" / name).chmod(0o755)
    return env


def test_a_text_that_changes_before_a_tool_reads_it(
    base: Path, corpus: Path, tmp_path: Path, tools: Toolchain
) -> None:
    """No figures of the new text under the name of the old one."""
    env, out = swapping(tools, tmp_path / "fake", corpus), tmp_path / "out"
    changed = f"{corpus} changed while it was read"
    asked = ("perplexity", base, "--corpus", corpus, "--ctx", 64, "--chunks", 4, "--out", out)
    assert changed in fails(INPUT, *asked, env=env)
    assert changed in fails(INPUT, *build(base, corpus, out), env=env)
    matrix = ("imatrix", base, "--calibration", corpus, "--calibration-samples", 2, "--out", out)
    assert changed in fails(INPUT, *matrix, env=env)
    assert not [*out.glob("*.imatrix"), *(out / ".ggufkit" / "measurements").glob("*.json")]
    done = ggufkit(*build(base, corpus, out))
    assert done.code == 0, done.err


def test_a_base_and_a_matrix_that_change_while_they_are_read(base: Path, tmp_path: Path, tools: Toolchain) -> None:
    for changed in (tmp_path / "m.dat", base):
        matrix = write_matrix(tmp_path / "m.dat", base, range(2))
        env = swapping(tools, tmp_path / changed.stem, changed)
        asked = ("quantize", base, "--types", "q8_0", "--imatrix", matrix)
        assert f"{changed} changed while it was read" in fails(INPUT, *asked, env=env)
        assert not list(base.parent.glob("*Q8_0*"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -9 $$", "killed by SIGKILL"),
        ("kill -11 $$", "killed by SIGSEGV"),
        ("exit 0", "printed no size"),
        ("echo 'failed to quantize'; exit 1", "failed to quantize"),
    ],
)
def test_a_tool_that_dies_or_does_nothing(
    base: Path, tmp_path: Path, tools: Toolchain, script: str, message: str
) -> None:
    real = f'case "$*" in *--help*|*--version*|*--dry-run*) exec {tools.dir}/llama-quantize "$@";; esac; {script}'
    env = fake_tools(tools, tmp_path / "fake", "llama-quantize", real)
    said = fails(TOOL, "quantize", base, "--types", "q8_0", env=env)
    assert message in said
    assert ("✓ Quantizing" in said) == (script == "exit 0")
    assert "Log: " in said
    assert not base.with_name("tiny-llama-Q8_0.gguf").exists()


def test_a_perplexity_without_an_estimate(base: Path, corpus: Path, tmp_path: Path, tools: Toolchain) -> None:
    """llama-perplexity can exit with 0 and no result."""
    loads = f'case "$*" in *--no-warmup*) exec {tools.dir}/llama-perplexity "$@";; esac'
    env = fake_tools(tools, tmp_path / "fake", "llama-perplexity", f"{loads}; echo loading; exit 0")
    message = fails(TOOL, *build(base, corpus, tmp_path / "out"), env=env)
    assert "estimate" in message or "statistics" in message


def test_two_builds_in_one_directory(checkpoint: Path, corpus: Path, tmp_path: Path, tools: Toolchain) -> None:
    release = threading.Event()

    def hold() -> None:
        with Workspace(tmp_path / "out").locked():
            release.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.3)
    try:
        assert "Another ggufkit is working in" in fails(1, *build(checkpoint, corpus, tmp_path / "out"))
    finally:
        release.set()
        holder.join()


def test_a_toolchain_that_is_none(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    env = {"GGUFKIT_LLAMA_CPP": str(tmp_path)}
    assert "neither llama.cpp's tools nor its source" in fails(
        TOOLCHAIN, *build(checkpoint, corpus, tmp_path / "out"), env=env
    )


def test_a_converter_of_another_commit(checkpoint: Path, tmp_path: Path, tools: Toolchain) -> None:
    env = fake_tools(tools, tmp_path / "fake", "llama-imatrix", "exit 1")
    stamp = tmp_path / "fake" / "ggufkit-toolchain.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "commit": "f" * 40}))
    message = fails(TOOLCHAIN, "convert", checkpoint, "--out", tmp_path / "out", env=env)
    assert "may not be understood by the other" in message
    assert ggufkit("convert", checkpoint, "--out", tmp_path / "out", "--force-toolchain", env=env).code == 0


def test_a_base_of_another_vocabulary(base: Path, corpus: Path, tmp_path: Path) -> None:
    """llama-perplexity aborts on it."""
    other = write(tmp_path / "other.gguf")
    message = fails(INPUT, "perplexity", base, "--base", other, "--corpus", corpus, "--ctx", 64, "--chunks", 8)
    assert "its base" in message
    assert "has 3" in message


def test_a_checkpoint_in_the_working_directory(checkpoint: Path, corpus: Path, tools: Toolchain) -> None:
    """As in the README: the results cannot go to ./<name>, which is the checkpoint."""
    argv = [
        sys.executable,
        "-m",
        "ggufkit",
        "build",
        f"./{checkpoint.name}",
        "--types",
        "q8_0",
        "--corpus",
        str(corpus),
    ]
    done = subprocess.run([*argv, "--dry-run"], cwd=checkpoint.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tiny-llama-Q8_0" in done.stdout


def test_outputs_that_are_something_else(base: Path, checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    notes = tmp_path / "other" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    (notes.parent / "config.json").write_text("{}")
    text = ("--calibration", corpus, "--calibration-samples", 2)
    assert "something else" in fails(INPUT, "awq", checkpoint, "--out", notes.parent, *text)
    assert "is a directory" in fails(
        INPUT, "refine", base, "--base", base, "--model", checkpoint, "--out", notes.parent, *text
    )
    before = base.read_bytes()
    assert "is the GGUF itself" in fails(INPUT, "modelfile", base, "--out", base)
    assert "holds no tokenizer" in fails(INPUT, "modelfile", base, "--model", notes.parent)
    own = base.with_name("tiny-llama-Q8_0.gguf")
    own.write_bytes(before)
    assert "did not make it" in fails(INPUT, "quantize", base, "--types", "q8_0")
    assert "needs an importance matrix" in fails(INPUT, "quantize", base, "--types", "iq2_xs")
    twin = Path(shutil.copyfile(base, tmp_path / base.name))
    assert "mixed up" in fails(INPUT, "perplexity", base, twin, "--corpus", corpus, "--ctx", 64, "--chunks", 2)
    assert (own.read_bytes(), base.read_bytes(), notes.read_text()) == (before, before, "mine")


def test_a_table_of_the_users_is_found_before_anything_is_spent(base: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("date,amount\n")
    assert "did not write it" in fails(INPUT, *build(base, corpus, out))
    assert [f.name for f in out.iterdir()] == ["results.csv"]
    done = ggufkit(*build(base, corpus, out, "--force"))
    assert done.code == 0, done.err
    assert (out / "results.csv").read_text().startswith("name,variant,")
    command = re.search(r"^ggufkit build .*$", (out / "report.md").read_text(), re.MULTILINE)
    assert command is not None
    assert f"{base.name} --types q8_0 --corpus {corpus.name} --ctx 64 --chunks 4 --no-bench" in command[0]


def test_a_terminal_that_lacks_letters(base: Path, corpus: Path, tmp_path: Path) -> None:
    done = ggufkit(*build(base, corpus, tmp_path / "out"), env={"PYTHONIOENCODING": "latin-1"})
    assert done.code == 0, done.err
    assert "tiny-llama-Q8_0" in done.out


def test_results_go_beside_the_file_that_was_named(
    base: Path, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """Not beside what a link of a hub's cache points to; or where --out says."""
    link = tmp_path / "snapshot" / "model-F16.gguf"
    link.parent.mkdir()
    link.symlink_to(base)
    before = sorted(base.parent.iterdir())
    short = ("--corpus", corpus, "--ctx", 64, "--chunks", 4)
    done = ggufkit("perplexity", link, *short, "--out", tmp_path / "measured")
    assert done.code == 0, done.err
    assert [f.name for f in link.parent.iterdir()] == [link.name]
    assert list((tmp_path / "measured" / "logs").iterdir())
    assert ggufkit("quantize", link, "--types", "q8_0").code == 0
    named = tmp_path / "named" / "model"
    named.parent.mkdir()
    named.symlink_to(checkpoint)
    assert ggufkit("convert", named).code == 0
    assert [f.name for f in named.parent.glob("*.gguf")] == [f"{checkpoint.name}-F16.gguf"]
    assert (link.parent / "model-Q8_0.gguf").is_file()
    assert sorted(base.parent.iterdir()) == before
