"""Sweep files: what they say, and each fault with its line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit.core.errors import InputError
from ggufkit.core.marked import read_marked
from ggufkit.core.records import QuantType
from ggufkit.sweep import matrix, sweep_file
from ggufkit.sweep.spec import Queue, Spec

KNOWN = [QuantType(name, "") for name in ("Q4_K_M", "Q2_K", "IQ4_NL", "Q8_0", "F16")]
TWO = "models: [qwen2.5-0.5b, llama-3.2-1b]\n"


def spec(directory: Path, text: str | bytes) -> Spec:
    file = directory / "nightly.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return sweep_file.read(file, KNOWN)


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        # what YAML itself does not take
        ("models:\n\t- qwen2.5-0.5b\n", (2, 1), "here is a tab"),
        ("models:\n  - model: qwen2.5-0.5b\n\t  name: x\n", (3, 1), "here is a tab"),
        ("models: [qwen2.5-0.5b\ntypes: [q8_0]\n", (2, 6), "began in line 1"),
        (TWO + "types:[q8_0]\n", (2, 1), "Behind a colon stands a space."),
        ("models: [a]\nout: a: b\n", (2, 7), "stands in quotes"),
        ("models: [a]\nout: @a\n", (2, 6), "stands in quotes"),
        ('models: ["a\n', (2, 1), "began in line 1"),
        (b"models: [a\xff]\n", (1, 11), "not UTF-8"),
        ("models: [a\x01]\n", (1, 11), "U+0001"),
        ("a: " + "[" * 30 + "]" * 30, (1, 23), "nested more than 20 deep"),
        # what YAML takes, and a sweep file does not
        ("models: &all [qwen2.5-0.5b]\n", (1, 9), "Anchors"),
        (TWO + "exclude: [{types: *k_m}]\n", (2, 19), 'stands in quotes: "*_k_m"'),
        (TWO + "exclude: [{types: [*]}]\n", (2, 20), 'stands in quotes: "*_k_m"'),
        ("models: [!mine a]\n", (1, 10), "The tag !mine"),
        ("models: [a]\nout: {{ home }}\n", (2, 7), "A key is a mapping"),
        (TWO + "types: [q8_0]\ntypes: [q2_k]\n", (3, 1), "'types' is here a second time"),
        ("- qwen2.5-0.5b\n", (1, 1), "should be a mapping"),
        # keys
        (TWO + "variant: [imatrix]\n", (2, 1), "Did you mean 'variants'?"),
        (TWO + "chunks: 20\n", (2, 1), "options: {chunks: …}"),
        (TWO + "options:\n  chunk: 20\n", (3, 3), "Did you mean 'chunks'?"),
        (TWO + "options: {no-bench: true}\n", (2, 11), "Write bench: false."),
        (TWO + "options: {force: true}\n", (2, 11), "Give --force"),
        (TWO + "options: {explain: true}\n", (2, 11), "build --explain"),
        (TWO + "options: {types: [q8_0]}\n", (2, 11), "beside `options`"),
        (TWO + "cluster: {slurm: {queue: gpu}}\n", (2, 19), "It is called `partition`."),
        ("types: [q8_0]\n", (1, 1), "There are no models."),
        # models
        ("models: []\n", (1, 9), "The list of models is empty."),
        ("models:\n# - qwen2.5-0.5b\ntypes: [q8_0]\n", (1, 8), "models has no value"),
        ("models:\n  qwen2.5-0.5b: {}\n", (2, 3), "should be a list"),
        (TWO + 'out: "a\\0b"\n', (2, 6), "out holds a zero character"),
        ("models: [qwen2.5-0.6b]\n", (1, 10), "Did you mean qwen2.5-0.5b"),
        ("models:\n  - ../nowhere/llama\n", (2, 5), "nowhere/llama is not there"),
        ("models: [./no-model]\n", (1, 10), "it has no config.json"),
        ("models: [{model: ./there, revision: main}]\n", (1, 18), "Leave `revision` out."),
        ("models: [Qwen/Qwen3-0.6B, ms:Qwen/Qwen3-0.6B]\n", (1, 27), "Give one another name"),
        ("models: [{model: qwen2.5-0.5b, name: a/b}]\n", (1, 38), "No directory is called 'a/b' here."),
        ("models: [{model: qwen2.5-0.5b, name: Sweep.csv}]\n", (1, 38), "No directory is called 'Sweep.csv' here."),
        ("models: [{name: a}]\n", (1, 10), "has no `model`"),
        # types and variants
        (TWO + "types: 4\n", (2, 8), "should be a list, [q4_k_m, q8_0], and is a number, 4"),
        (TWO + "types: [q4_k_m, q4_k_n]\n", (2, 17), "knows no type 'q4_k_n'"),
        (TWO + "types: [like: q4_k_m]\n", (2, 9), "no space behind it"),
        (TWO + "types: [recipe:none.yaml]\n", (2, 9), "none.yaml is not there"),
        (TWO + "variants:\n  - plain\n  - imatrx\n", (4, 5), "Did you mean imatrix?"),
        # values
        (TWO + "options:\n  chunks: many\n", (3, 11), "neither a number"),
        (TWO + "options: {bench: 0}\n", (2, 18), "should be true or false, and is a number, 0"),
        (TWO + "options: {imatrix: none.imatrix}\n", (2, 20), "none.imatrix is not there"),
        (TWO + "corpora: [wikitext]\n", (2, 11), "Did you mean wikitext2?"),
        (TWO + "tasks: [arcc]\n", (2, 9), "Did you mean arc?"),
        (TWO + "cluster: {workers: none}\n", (2, 20), "not a valid integer"),
        # what fits nothing
        (TWO + "exclude:\n  - {models: 'qwen*', types: [q2_k]}\n", (3, 31), "'q2_k' fits no type"),
        (TWO + "exclude: [{models: lama-3.2-1b}]\n", (2, 20), "Did you mean llama-3.2-1b?"),
        (TWO + "include:\n  - models: 'mistral*'\n    types: [q2_k]\n", (3, 13), "fits no model"),
        (TWO + "include: [{models: 'qwen*'}]\n", (2, 11), "names no types or variants"),
        (TWO + "exclude: [{types: '*'}]\n", (1, 10), "nothing is left to be made"),
        (TWO + "profiles: {quick: {models: ['mistral*']}}\n", (2, 29), "fits no model"),
        (TWO + "calibration: chat\n", (2, 14), "No build of this sweep uses"),
    ],
)  # fmt: skip
def test_each_fault_is_one_message_with_its_line_and_column(
    tmp_path: Path, text: str | bytes, place: tuple[int, int], said: str
) -> None:
    (tmp_path / "no-model").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        matrix.cells(spec(tmp_path, text))
    assert caught.value.message.startswith(f"{tmp_path / 'nightly.yaml'}, line {place[0]}, column {place[1]}: ")
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert "\n" not in caught.value.message


def test_the_line_is_shown_with_a_mark_below(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        spec(tmp_path, TWO + "types: [" + ", ".join(["q8_0"] * 40) + ", q4_k_n]")
    line, mark = caught.value.details
    assert len(line) <= 102
    assert line[mark.index("^") :].startswith("q4_k_n")


def test_an_empty_file_and_none_at_all(tmp_path: Path) -> None:
    for text in ("", "# nothing yet\n"):
        with pytest.raises(InputError, match="is empty"):
            spec(tmp_path, text)
    with pytest.raises(InputError, match="is not there"):
        sweep_file.read(tmp_path / "none.yaml")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    for name in ("model", "texts"):
        (tmp_path / name).mkdir()
    for name in ("model/config.json", "texts/a.jsonl", "own.txt", "r.recipe.yaml", "mine.imatrix", "arc.csv"):
        (tmp_path / name).write_text("{}")
    read = spec(
        tmp_path,
        "models: [./model]\ntypes: ['recipe:r.recipe.yaml']\nvariants: 'imatrix, awq'\noptions: {imatrix: mine.imatrix}\n"
        "calibration: ['texts:0.5', chat]\ncorpora: [wikitext2, 'texts/a.jsonl:body', own.txt]\n"
        "tasks: [hellaswag, own=arc.csv]\n",
    )
    assert read.out == tmp_path / "nightly"
    (cell,) = matrix.cells(read)
    request = cell.request
    assert (cell.name, request.model, request.types) == (
        "model", str(tmp_path / "model"), (f"recipe:{tmp_path / 'r.recipe.yaml'}",),
    )  # fmt: skip
    assert request.calibration.text == (f"{tmp_path / 'texts'}:0.5", "chat")
    assert request.calibration.imatrix == tmp_path / "mine.imatrix"
    assert request.evaluation.corpora == (
        "wikitext2", f"{tmp_path / 'texts' / 'a.jsonl'}:body", str(tmp_path / "own.txt"),
    )  # fmt: skip
    assert request.evaluation.tasks == ("hellaswag", f"own={tmp_path / 'arc.csv'}")


def test_values_are_read_as_they_are_written(tmp_path: Path) -> None:
    read = spec(
        tmp_path,
        "models: [{model: Qwen/Qwen3-0.6B, revision: 0123456, hub: modelscope}]\ntypes: q4_k_m, Q8_0\n"
        "options: {chunks: all, ctx: [512, 4096], precision: 2%, scratch-limit: 8GiB, bench: no, threads: 3, "
        "check_function: on}\n"
        "cluster: {workers: 2, slurm: {partition: gpu, time: 4:00:00, memory: 64GiB, extra: []}, pbs: }\n",
    )
    (cell,) = matrix.cells(read)
    how = cell.request.evaluation
    assert cell.request.model == "Qwen/Qwen3-0.6B@0123456"
    assert cell.request.source.hub == "modelscope"
    assert cell.request.types == ("q4_k_m", "Q8_0")
    assert (how.chunks, how.ctx, how.precision, how.scratch_limit, how.bench) == (
        None,
        (512, 4096),
        0.02,
        8 << 30,
        False,
    )
    assert (cell.request.run.threads, cell.request.conversion.check_function) == (3, True)
    assert read.cluster.workers == 2
    assert read.cluster.queues == {
        "slurm": Queue(partition="gpu", time="4:00:00", memory_bytes=64 << 30),
        "pbs": Queue(),
    }


def test_types_are_checked_where_there_is_a_toolchain(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(TWO + "types: [q9_k]\n")
    assert [cell.request.types for cell in matrix.cells(sweep_file.read(file))] == [("q9_k",)] * 2


def test_a_file_with_the_marks_of_windows(tmp_path: Path) -> None:
    assert len(matrix.cells(spec(tmp_path, b"\xef\xbb\xbfmodels:\r\n  - qwen2.5-0.5b\r\n"))) == 1


def test_a_key_may_have_dashes() -> None:
    told = read_marked(b"a-b: 1\n", "it", hint="").mapping("it", ("a_b",))
    assert told["a_b"].text == "1"
