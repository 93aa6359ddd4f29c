"""The Python API is told what the command line is told, reads it alike, and refuses it with the same words."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest

import ggufkit
from ggufkit.api import options
from ggufkit.api.call import listening
from ggufkit.api.result import Compared, Result
from ggufkit.cli import cli
from ggufkit.core import errors, progress
from ggufkit.core.progress import Listener, OneOfMany, SilentReporter
from ggufkit.report.results import collect
from ggufkit.request import BuildRequest, EvaluationOptions
from tests.fake_results import write_results

FUNCTIONS = {
    "build": options.BuildOptions, "convert": options.ConvertOptions, "imatrix": options.ImatrixOptions,
    "quantize": options.QuantizeOptions, "awq": options.AwqOptions, "refine": options.RefineOptions,
    "recipe": options.RecipeOptions, "perplexity": options.PerplexityOptions, "tasks": options.TasksOptions,
    "bench": options.BenchOptions, "lora": options.LoraOptions,
}  # fmt: skip
SHOWN_ONLY = {"dry_run", "as_json", "quiet"}
"""What is about the terminal."""


def named(command: str) -> set[str]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return {str(p.name) for p in found.params if not getattr(p, "hidden", False)} - SHOWN_ONLY


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_its_command_takes(name: str) -> None:
    signature = inspect.signature(getattr(ggufkit, name))
    own = {p for p in signature.parameters if p not in ("reporter", "quiet", "more")}
    own = {{"type": "base_type"}.get(p, p) for p in own}
    taken = own | set(FUNCTIONS[name].__annotations__)
    extra = {"strategy"} if name == "build" else set()
    assert taken - extra == named(name)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("precision", "0"),
        ("precision", "many"),
        ("fits", "8 apples"),
        ("scratch_limit", ""),
        ("chunks", "1"),
        ("ngl", "-1"),
        ("ctx", "7"),
        ("threads", "0"),
        ("seed", "x"),
        ("backend", "abacus"),
        ("base_type", "f17"),
        ("awq_engine", "none"),
        ("effort", "much"),
        ("prune_layers", "first"),
        ("types", " , "),
    ],
)
def test_what_is_wrong_is_refused_alike(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ggufkit import cli as command_line

    with pytest.raises(ggufkit.UsageError) as raised:
        BuildRequest("m", **{option: said})
    assert command_line._run(["build", "m", f"--{option.replace('_', '-')}={said}"], False) == 2
    told = " ".join(capsys.readouterr().err.split())
    why = raised.value.message.partition(": ")[2].removesuffix(".")
    assert why in told.replace(f"'--{option}'", option)
    assert raised.value.exit_code == 2
    assert option in raised.value.message


def test_spellings_of_the_command_line_are_read() -> None:
    told: dict[str, Any] = {
        "precision": "2%",
        "fits": "6GiB",
        "chunks": "all",
        "ngl": "auto",
        "prune_layers": "3,4",
    }
    made = BuildRequest("m", types="q4_k_m, q8_0", variants=["plain", "gptq"], scratch_limit="100MB", **told)
    assert (made.types, made.variants) == (("q4_k_m", "q8_0"), ("plain", "gptq"))
    assert (made.evaluation.precision, made.report.fits, made.evaluation.chunks) == (0.02, 6 << 30, None)
    assert (made.run.ngl, made.overrides.prune_layers, made.evaluation.scratch_limit) == (None, (3, 4), 10**8)
    assert BuildRequest("m", tensor_type="attn_v=q8_0").overrides.tensor_type == ("attn_v=q8_0",)
    assert BuildRequest(Path("m"), chunks=9) == BuildRequest("m", evaluation=EvaluationOptions(chunks=9))


def test_a_group_is_checked_too() -> None:
    with pytest.raises(ggufkit.UsageError, match="chunks"):
        BuildRequest("m", evaluation=EvaluationOptions(chunks=-1))


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"quantize\(\) has no option 'thread'. Did you mean 'threads'"):
        ggufkit.quantize("x.gguf", "q8_0", thread=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="a request or options"):
        ggufkit.build(BuildRequest("m"), types="q8_0")
    with pytest.raises(ggufkit.UsageError, match="there is none"):
        ggufkit.bench([])


def test_functions_are_called_like_packages_that_are_there() -> None:
    import ggufkit.refine.options  # which Python sets as an attribute of ggufkit

    with pytest.raises(TypeError, match="has no option"):
        ggufkit.refine("a.gguf", "b.gguf", "m", nonsense=1)  # type: ignore[call-arg]
    from ggufkit.refine import options as refining

    assert refining.RefineOptions().sequential
    assert set(ggufkit.__all__) <= set(dir(ggufkit))
    assert all(getattr(ggufkit, name) is not None for name in ggufkit.__all__)


def test_every_error_is_exported_and_says_all_in_a_traceback() -> None:
    classes = {n for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, errors.GgufkitError)}
    assert classes <= set(ggufkit.__all__)
    error = ggufkit.InputError("It broke.", hint="Mend it.", log=Path("x.log"), details=["line 3"])
    assert str(error).splitlines() == ["It broke.", "line 3", "Mend it.", "Log: x.log"]


def test_a_result_is_a_table_and_a_drawing(tmp_path: Path) -> None:
    root = write_results(tmp_path / "<out>")
    rows = tuple(collect(root))
    result = Result(root, tuple(root / row.file for row in rows), rows, ("beware <of> it",), 2)
    assert isinstance(result.df, pd.DataFrame)
    assert list(result.df["file"]) == [row.file for row in rows]
    shown = result._repr_html_()
    assert shown.count("<tr") == len(rows) + 1
    assert "<svg" in shown
    assert "KLD" in shown
    assert "beware &lt;of&gt; it" in shown
    with pytest.raises(ggufkit.UsageError, match="8 files"):
        _ = result.path
    one = Result(root, (root / "<x>.imatrix",))
    assert one.path.name == "<x>.imatrix"
    assert re.search(r"<code>.*&lt;x&gt;", one._repr_html_())
    assert one.df.empty


def test_directories_side_by_side(tmp_path: Path) -> None:
    roots = [write_results(tmp_path / name) for name in "ab"]
    found = ggufkit.compare([str(root) for root in roots], quiet=True)
    assert isinstance(found, Compared)
    assert found.groups is not None
    assert found.groups.comparable
    assert list(dict.fromkeys(found.df["directory"])) == ["a", "b"]
    assert "directory" in found._repr_html_()
    with pytest.raises(ggufkit.UsageError, match="does not exist"):
        ggufkit.compare(tmp_path / "c")


def test_warnings_are_kept_once_and_passed_on() -> None:
    told = SilentReporter()
    listener = Listener(told)
    for about in ("a", "b", "a"):
        listener.warn(OneOfMany("{} is large.", about))
    listener.warn("Beware.")
    assert listener.warnings == ("a, b is large.", "Beware.")
    assert len(told.warnings) == 4


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with listening(None, quiet) as listener:
            listener.warn("x")
            with listener.step("y") as step:
                step.update(1, 2)
    assert capsys.readouterr().err == ""
    assert isinstance(listener, progress.Listener)
