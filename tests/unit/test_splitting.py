"""A GGUF in parts: how it is cut, that joining gives its bytes, and that a broken set is refused by every command."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import gguf
import numpy as np
import pytest

from ggufkit.cli import cli
from ggufkit.commands.merge import merge
from ggufkit.core.errors import GgufError, InputError, ResourceError, UsageError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import SCHEMA, manifest_path, read_manifest, write_manifest
from ggufkit.core.part_names import whole_of
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Checkpoint, Json, Manifest, Toolchain
from ggufkit.llama import parts
from ggufkit.llama.gguf import gguf_sha256, read_gguf, read_header
from ggufkit.pipeline import plan
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.resources import PlannedFile
from ggufkit.request import RunOptions
from ggufkit.steps import convert, division, joining
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Result, Workspace, staleness

SIZES = (5_000, 5_500, 6_500, 8_000, 11_000)
ENOUGH = 15_000
"""Bytes that the whole file is within."""
QUIET = SilentReporter()


def write(path: Path, values: float = 0.0, alignment: int = 32) -> Path:
    """Seven tensors of 512 to 4,096 bytes."""
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_name("tiny")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for number in range(7):
        rows = 4 << (number % 4)
        writer.add_tensor(f"{number}.weight", np.full((rows, 32), number + values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def noted(path: Path) -> Path:
    """A file with a manifest, as a step leaves it."""
    output: dict[str, Json] = {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
    notes: dict[str, Json] = {"name": "tiny", "variant": "plain", "type": "F32"}
    made = Manifest(SCHEMA, "quantize", 1, {}, {}, None, [], output, "2026-01-01T00:00:00+00:00", 1.0, notes)
    write_manifest(path, made)
    return path


def divided(path: Path, limit: int = SIZES[2], values: float = 0.0) -> list[Path]:
    """The parts of a file."""
    return read_header(division.divide(noted(write(path, values)), limit, QUIET)).files


@pytest.mark.parametrize("limit", SIZES)
@pytest.mark.parametrize("alignment", [32, 64])
def test_a_file_in_parts_is_joined_to_its_bytes(tmp_path: Path, limit: int, alignment: int) -> None:
    whole = noted(write(tmp_path / "tiny-F32.gguf", alignment=alignment))
    before, names = whole.read_bytes(), [tensor.name for tensor in read_header(whole).tensors]
    first = division.divide(whole, limit, QUIET)
    header = read_header(first)
    assert [tensor.name for tensor in header.tensors] == names
    assert max(file.stat().st_size for file in header.files) <= limit
    assert len(header.parts) > 1
    assert not whole.exists()
    made = merge(header.files[-1], tmp_path / "joined", RunOptions(), QUIET)
    assert made.path.read_bytes() == before
    assert made.sha256 == gguf_sha256(first)
    assert merge(first, tmp_path / "joined", RunOptions(), QUIET).fresh


def test_a_limit_that_a_tensor_exceeds_is_refused_with_one_that_does(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "tiny.gguf"))
    with pytest.raises(UsageError, match="has no parts of") as refused:
        division.require_possible(header, 4_500)
    least = int(str(refused.value.hint).split()[2].replace(",", ""))
    assert parts.cut(header, least).groups
    with pytest.raises(UsageError):
        parts.cut(header, least - 1)
    with pytest.raises(UsageError, match="in F32"):
        division.require_possible(header, 4_100, ["Q8_0", "F32"])
    division.require_possible(header, least, ["F32"])


def test_parts_have_the_whole_files_hash_however_they_are_cut(tmp_path: Path) -> None:
    whole = noted(write(tmp_path / "tiny.gguf"))
    made = read_manifest(whole)
    assert made is not None
    digest = made.output["sha256"]
    for limit in (*SIZES, ENOUGH):
        now = division.divide(division.there(whole), limit, QUIET)
        assert now == division.there(whole)
        assert gguf_sha256(now) == digest == read_gguf(now, gguf_sha256(now)).sha256
        assert read_gguf(now).as_input().has_its_content()
        found = read_manifest(now)
        assert found is not None
        assert found.output["sha256"] == digest
    assert sorted(f.name for f in tmp_path.iterdir()) == ["tiny.gguf", "tiny.gguf.manifest.json"]


def test_a_set_that_is_divided_so_already_is_left_alone(tmp_path: Path) -> None:
    files = divided(tmp_path / "tiny.gguf")
    before = [file.stat() for file in files]
    assert division.divide(files[0], SIZES[2], QUIET) == files[0]
    assert [file.stat() for file in files] == before


def test_a_file_of_a_users_own_is_not_overwritten(tmp_path: Path) -> None:
    whole = noted(write(tmp_path / "tiny.gguf"))
    count = len(parts.cut(read_header(whole), SIZES[2]).groups)
    own = tmp_path / f"tiny-00002-of-{count:05d}.gguf"
    own.write_text("mine")
    with pytest.raises(InputError, match="did not make it"):
        division.divide(whole, SIZES[2], QUIET)
    assert own.read_text() == "mine"
    assert whole.exists()


def test_what_would_not_be_joined_to_the_same_bytes_is_not_split(tmp_path: Path) -> None:
    whole = write(tmp_path / "tiny.gguf")
    with whole.open("ab") as file:
        file.write(b"more")
    with pytest.raises(GgufError, match="not as llama"):
        division.divide(noted(whole), SIZES[2], QUIET)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["tiny.gguf", "tiny.gguf.manifest.json"]


def test_a_disk_without_room_keeps_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noted(write(tmp_path / "tiny.gguf"))
    monkeypatch.setattr("ggufkit.core.machine.free_disk", lambda _: 100)
    with pytest.raises(ResourceError, match=r"tiny.gguf is split, which takes .* beside it"):
        division.divide(whole, SIZES[2], QUIET)
    assert whole.exists()


def joined_by_cat(tmp_path: Path, order: Sequence[int]) -> Path:
    files = divided(tmp_path / "tiny.gguf", SIZES[0])
    target = tmp_path / "cat.gguf"
    target.write_bytes(b"".join(files[i].read_bytes() for i in order[: len(files)]))
    return target


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6), (2, 0, 1, 3)], ids=["in order", "as a shell sorts"])
def test_parts_that_cat_joined_are_recognized_and_joined_right(tmp_path: Path, order: Sequence[int]) -> None:
    cat = joined_by_cat(tmp_path, order)
    with pytest.raises(GgufError, match="joined end to end") as refused:
        read_gguf(cat)
    assert "ggufkit merge" in str(refused.value.hint)
    made = merge(cat, tmp_path / "joined", RunOptions(), QUIET)
    assert made.path.read_bytes() == write(tmp_path / "again.gguf").read_bytes()
    with pytest.raises(InputError, match="which it is made from"):
        merge(cat, None, RunOptions(), QUIET)


def test_a_cat_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 2 of \d parts"):
        merge(joined_by_cat(tmp_path, (0, 1)), tmp_path / "joined", RunOptions(), QUIET)
    with pytest.raises(InputError, match="is whole"):
        merge(write(tmp_path / "own.gguf"), tmp_path / "joined", RunOptions(), QUIET)


def missing(files: list[Path]) -> str:
    files[1].unlink()
    return f"{files[1]} is not there: part 2 of"


def swapped(files: list[Path]) -> str:
    files[1].rename(aside := files[1].with_name("aside"))
    files[2].rename(files[1])
    aside.rename(files[2])
    return f"{files[1]} is part 3 by what it holds, not part 2"


def truncated(files: list[Path]) -> str:
    with files[-1].open("rb+") as file:
        file.truncate(files[-1].stat().st_size - 64)
    return f"{files[-1]} is truncated"


def of_another_model(files: list[Path]) -> str:
    other = divided(files[0].parent / "other" / whole_of(files[0]).name, SIZES[0], 1.0)
    shutil.copyfile(other[1], files[1])
    return f"{files[1]} is not the part that was written with the others"


def of_another_split(files: list[Path]) -> str:
    other = divided(files[0].parent / "other" / "x.gguf", SIZES[-1])
    shutil.copyfile(other[1], files[1])
    return f"{files[1]} is one of {len(other)} parts by what it holds"


DAMAGES = (missing, swapped, truncated, of_another_model, of_another_split)
COMMANDS = (
    "build {set} --out {out} --types q8_0 --no-eval --no-bench", "quantize {set} --types q8_0",
    "quantize {whole} --recipe {set}", "imatrix {set} --calibration {text}", "perplexity {set} --corpus {text}",
    "perplexity {whole} --base {set} --corpus {text}", "bench {set}", "tasks {set} --tasks {task}", "inspect {set}",
    "inspect {whole} --against {set}", "report {dir}", "compare {dir} {dir}", "compare {whole} {set}", "serve {set}",
    "serve {set} --systemd", "chat {set} hello", "publish {dir} me/x", "modelfile {set}", "merge {set} --out {out}",
    "refine {set} --base {whole} --model {out}", "recipe {set} --target like:q4_k_m",
)  # fmt: skip


@pytest.fixture(params=DAMAGES, ids=lambda damage: damage.__name__)
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Path], str]:
    """A set that is no whole one, what else a command is told, and what is said of it."""
    files = divided(tmp_path / "made" / "tiny-F32.gguf", SIZES[0])
    text, task = tmp_path / "text.txt", tmp_path / "mine.jsonl"
    text.write_text("once upon a time " * 500)
    task.write_text('{"question": "a", "choices": ["b", "c"], "answer": 0}\n' * 4)
    damage: Callable[[list[Path]], str] = request.param
    said = damage(files)
    given = files[0] if files[0].exists() else files[-1]
    return {
        "set": given, "dir": files[0].parent, "out": tmp_path / "out", "text": text, "task": task,
        "whole": write(tmp_path / "whole" / "other-F32.gguf"),
    }, said  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_broken_set_is_refused_by_every_command(command: str, broken: tuple[dict[str, Path], str]) -> None:
    names, said = broken
    if command.startswith("quantize {whole}") and ("truncated" in said or "written with" in said):
        pytest.skip("types are copied from headers alone")
    with pytest.raises(GgufError) as refused:
        cli.main(command.format(**names).split(), standalone_mode=False)
    assert said in refused.value.message
    assert refused.value.exit_code == 3
    assert refused.value.hint
    assert not names["out"].exists() or not list(names["out"].glob("*.gguf"))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_broken_set_of_a_build_is_stale(tmp_path: Path, damage: Callable[[list[Path]], str]) -> None:
    from ggufkit.steps.step import Recipe

    files, recipe = divided(tmp_path / "tiny-F32.gguf", SIZES[0]), Recipe("quantize", 1)
    assert staleness(recipe, files[0]) is None
    said = damage(files)
    assert said in str(staleness(recipe, files[0]))


def test_joining_what_is_not_what_it_was_leaves_nothing(tmp_path: Path) -> None:
    header = read_header(divided(tmp_path / "tiny.gguf")[0])
    with pytest.raises(GgufError, match="not the file that they were"):
        joining.join(header, "0" * 64, tmp_path / "joined.gguf", QUIET)


def test_a_set_counts_as_the_whole_file_does(tmp_path: Path) -> None:
    files = divided(tmp_path / "tiny.gguf")
    assert manifest_path(files[0]).exists()
    assert not manifest_path(tmp_path / "tiny.gguf").exists()
    again = noted(write(tmp_path / "tiny.gguf"))
    assert division.there(again) == again
    assert division.divide(again, SIZES[2], QUIET) == files[0]
    assert not again.exists()


def test_a_set_of_which_nothing_is_left_is_none(tmp_path: Path) -> None:
    files = divided(tmp_path / "tiny.gguf")
    for file in files[:-1]:
        file.unlink()
    assert division.sets_in(tmp_path) == [files[0]]
    files[-1].unlink()
    assert division.sets_in(tmp_path) == []


def test_a_plan_counts_the_largest_file_that_is_whole_and_in_parts_for_a_while(tmp_path: Path) -> None:
    base = read_header(write(tmp_path / "tiny.gguf"))

    def dividing(limit: int | None, *sizes: int) -> int:
        job = cast(Job, SimpleNamespace(request=SimpleNamespace(parts=SimpleNamespace(split=limit))))
        return plan._dividing(job, base, [cast(PlannedFile, SimpleNamespace(size_bytes=n)) for n in sizes])

    assert dividing(None, 1 << 30) == 0
    assert dividing(SIZES[0], 6_000) == base.size_bytes
    assert dividing(SIZES[0], 1 << 20) == 1 << 20
    assert dividing(ENOUGH, 6_000) == 0


def test_a_base_in_parts_counts_for_a_conversion_and_gives_way_to_another(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, prints = tmp_path / "tiny-F32.gguf", ["a"]
    checkpoint = Checkpoint(tmp_path, "tiny", "tiny", None, "LlamaForCausalLM", 1, 1)
    session = Session(Toolchain(tmp_path, "built", "c", "cpu", "1"), Workspace(tmp_path))

    def make(_begun: object, partial: Path) -> Made:
        write(partial)
        return Made(inputs={"checkpoint": prints[0]})

    monkeypatch.setattr(convert, "fingerprint", lambda _path, _reporter: prints[0])
    monkeypatch.setattr(convert, "_begin", lambda *_: None)
    monkeypatch.setattr(convert, "_convert", make)

    def converted() -> Result:
        return convert.convert(checkpoint, whole, ConvertOptions("f32"), session)

    first = division.divide(converted().path, SIZES[2], QUIET)
    assert (converted().path, converted().fresh) == (first, True)
    prints[0] = "b"
    assert (converted().path, converted().fresh) == (whole, True)
    assert not first.exists()
