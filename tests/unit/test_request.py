"""A request is options in groups, each default in one place; they are called alike on the command line and in Python."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from ggufkit import cli as command_line
from ggufkit import request
from ggufkit.cli import COMMANDS, cli
from ggufkit.cli.build import build_command
from ggufkit.core import variants
from ggufkit.core.variants import Scaling
from ggufkit.request import BuildRequest, CalibrationOptions, EvaluationOptions, RunOptions, Source

OPTIONS = {name: p for p in build_command.params for name in [*p.opts, *p.secondary_opts]}


def test_options_and_groups_say_the_same() -> None:
    flat = BuildRequest(
        "x", chunks=9, bench=False, calibration="my.txt", calibration_samples=7, hub="hf", lora="a"
    )
    grouped = BuildRequest(
        "x",
        evaluation=EvaluationOptions(chunks=9, bench=False),
        calibration=CalibrationOptions("my.txt", 7),
        source=Source("hf", lora=Path("a")),
    )
    assert flat == grouped
    assert replace(grouped, run=RunOptions(threads=3)).run.threads == 3
    assert BuildRequest("x", evaluation=EvaluationOptions(chunks=9), bench=False).evaluation == flat.evaluation


@pytest.mark.parametrize(("old", "value"), [("n_ctx", 64), ("n_chunks", 3), ("evaluate", False), ("source", "hf")])
def test_names_of_before_are_told_their_new_ones(old: str, value: Any) -> None:
    now = request.RENAMED[old]
    with pytest.warns(DeprecationWarning, match=f"{now}= now") as told:
        made = BuildRequest("x", **{old: value})
    assert made == BuildRequest("x", **{now: value})
    assert told[0].filename == __file__


def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(TypeError, match="no option 'chunk'"):
        BuildRequest("x", chunk=3)


def test_every_option_has_its_field_and_its_default() -> None:
    for name, (group, _) in request.OPTIONS.items():
        assert BuildRequest("x", **{name: request.default(name)}) == BuildRequest("x"), name
        assert group in request.GROUPS


def test_names_are_those_of_the_command_line() -> None:
    spelt = {name.lstrip("-").replace("-", "_") for name, p in OPTIONS.items() if isinstance(p, click.Option)}
    assert set(request.OPTIONS) - {"strategy"} <= spelt


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_take_few_parameters(name: str) -> None:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    assert found.callback is not None
    assert len(inspect.signature(found.callback).parameters) <= 6


def test_an_option_of_before_works_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    note = "--chunks of `ggufkit imatrix` is called --calibration-samples now"
    for words in (["--chunks", "2"], ["--chunks=2"]):
        assert command_line._run(["imatrix", "x.gguf", *words], False) == 3
        assert note in capsys.readouterr().err
    assert command_line._run(["imatrix", "--", "--chunks"], False) == 3
    said = capsys.readouterr().err
    assert note not in said
    assert "--chunks is not there" in said


def test_an_option_given_twice_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="n_ctx"), pytest.raises(TypeError, match="'ctx' twice"):
        BuildRequest("m", ctx=128, n_ctx=64)


@pytest.mark.parametrize(
    ("scaling", "label", "name"),
    [
        (Scaling(), "awq", "awq"),
        (Scaling(True), "awq+imatrix", "awq-imatrix"),
        (Scaling(False, "Q4_0"), "awq-Q4_0", "awq-Q4_0"),
        (Scaling(True, "Q4_0"), "awq+imatrix-Q4_0", "awq-imatrix-Q4_0"),
    ],
)
def test_scalings_are_called_as_ever(scaling: Scaling, label: str, name: str) -> None:
    assert (scaling.label, scaling.file_name) == (label, name)
    assert Scaling.from_label(label) == scaling


def test_a_file_of_a_later_version_s_variant_has_a_name() -> None:
    assert [variants.infix(name) for name in ("", "plain", "awq+imatrix", "zz")] == ["", "", "awq-imatrix-", "zz-"]
