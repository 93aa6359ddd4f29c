"""What a build refuses before it fetches or makes anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufkit import cli as command_line
from ggufkit.core import variants
from ggufkit.core.errors import InputError, ToolchainError, UsageError
from ggufkit.core.manifest import read_manifest, write_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import QuantType, Toolchain
from ggufkit.llama import toolchain
from ggufkit.llama.argv import Overrides
from ggufkit.llama.gguf import read_gguf
from ggufkit.models import sources
from ggufkit.pipeline import lookup
from ggufkit.pipeline.job import Job
from ggufkit.pipeline.lookup import prepare
from ggufkit.request import BuildRequest
from ggufkit.steps import quantize
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts import wikitext
from tests.fake_results import FAKES, write_results
from tests.unit.test_gguf import write


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> None:
    """No model is looked for, and no toolchain is here."""

    def look(*_: object) -> None:
        raise AssertionError("the model was asked for")

    monkeypatch.setattr(sources, "resolve", look)


@pytest.mark.parametrize(
    ("asked", "given", "way_out"),
    [
        ("plain", {"imatrix": Path("m")}, "--variants imatrix"),
        ("plain,awq,awq+imatrix", {"imatrix": Path("m")}, "--variants imatrix"),
        ("plain", {"calibration": "my.txt"}, "--variants imatrix"),
        ("plain,imatrix", {"calibration": "my.txt", "imatrix": Path("m")}, "Leave one"),
        ("plain,imatrix", {"imatrix": Path("m")}, None),
        ("gptq", {"calibration": "my.txt", "imatrix": Path("m")}, None),
        ("imatrix", {"calibration": "my.txt"}, None),
        ("awq", {"calibration": "my.txt"}, None),
        ("plain", {}, None),
        ("plain", {"imatrix": Path("m"), "calibration": "my.txt", "types": ("4.5bpw",)}, None),
        ("plain", {"imatrix": Path("m"), "calibration": "my.txt", "fits": 6 << 30}, None),
        ("awq", {"imatrix": Path("m"), "types": ("like:q4_0",)}, "--variants imatrix"),
        ("plain", {"calibration": "my.txt", "types": ("q4_0+attn_v=q8_0",)}, "--variants imatrix"),
    ],
)
def test_what_no_variant_uses(asked: str, given: dict[str, Any], way_out: str | None) -> None:
    request = BuildRequest("acme/x", variants=tuple(asked.split(",")), **given)
    unused = lookup.unused_option(request, variants.resolve(request.variants))
    assert (unused and way_out in str(unused.hint)) if way_out else unused is None
    if way_out:
        with pytest.raises(UsageError, match="is not used"):
            prepare(request, SilentReporter())


@pytest.mark.parametrize("option", ["--imatrix", "--calibration"])
def test_an_option_that_no_variant_uses_is_a_usage_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line._run(["build", "acme/x", option, "my.file"], False) == 2
    shown = capsys.readouterr().err
    assert option in shown
    assert "--variants imatrix" in shown


def test_a_matrix_that_is_missing_is_missed_at_once(tmp_path: Path) -> None:
    request = BuildRequest("acme/x", variants=("imatrix",), imatrix=tmp_path / "no.imatrix")
    with pytest.raises(InputError, match=r"no\.imatrix is not there"):
        prepare(request, SilentReporter())


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain that knows one type."""
    found = Toolchain(Path("bin"), "built", "c" * 40, "cpu", "1")
    monkeypatch.setattr(toolchain, "locate", lambda _backend: found)
    monkeypatch.setattr(toolchain, "find", lambda *_: found)
    monkeypatch.setattr(quantize, "known_types", lambda _tools: (QuantType("Q4_0", "4.34G"),))
    return found


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"types": ("q4_x",)}, "no type 'q4_x'"),
        ({"types": ("like:q4_x",)}, "'like:q4_x' is no type"),
        ({"types": ("recipe:no.yaml",)}, r"no\.yaml is not there"),
        ({"calibration": "no.txt", "types": ("4.5bpw",)}, "There is no text no.txt"),
        ({"calibration": "no.txt", "fits": 6 << 30}, "There is no text no.txt"),
        ({"corpus": "no.txt"}, "There is no text no.txt"),
        ({"calibration": "no.txt", "variants": ("imatrix",)}, "There is no text no.txt"),
        ({"out": Path("file") / "out"}, "cannot be written"),
        ({"variants": ("shiny",)}, "no variant 'shiny'"),
    ],
)
def test_what_needs_no_model_is_refused_before_it(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    text = tmp_path / "text.txt"
    text.write_text("text")
    with pytest.raises((InputError, UsageError), match=message):
        prepare(BuildRequest("acme/x", **{"corpus": str(text), "types": ("q4_0",), **given}), SilentReporter())


def test_an_impossible_backend_is_refused_before_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ToolchainError("This machine has no usable device.")

    monkeypatch.setattr(toolchain, "locate", refuse)
    with pytest.raises(ToolchainError):
        prepare(BuildRequest("acme/x", backend="hip"), SilentReporter())


@pytest.mark.usefixtures("tools")
def test_results_of_another_model_are_met_before_the_download(tmp_path: Path) -> None:
    base = write_results(tmp_path / "out", FAKES[:1], name="other") / "other-F16.gguf"
    noted = read_manifest(base)
    assert noted is not None
    write_manifest(base, replace(noted, step="convert"))
    with pytest.raises(InputError, match="holds the results of other"):
        prepare(BuildRequest("acme/x", tmp_path / "out", ("q4_0",)), SilentReporter())


@pytest.mark.usefixtures("tools")
def test_a_plan_fetches_no_named_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("a text was fetched")

    monkeypatch.setattr(wikitext, "named", fetch)
    monkeypatch.setattr(sources, "resolve", lambda *_: read_gguf(write(tmp_path / "x.gguf")))
    request = BuildRequest("acme/x", tmp_path / "out", ("q4_0",), ("plain", "imatrix"))
    planned = prepare(request, SilentReporter(), tmp_path)
    assert planned.text is not None
    assert planned.text.n_bytes == 1_290_590
    with pytest.raises(AssertionError, match="a text was fetched"):
        prepare(request, SilentReporter())


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (("plain", "imatrix"), "plain Q4_0, imatrix Q4_0, imatrix IQ2_XS"),
        (("plain", "awq", "gptq"), "plain F32, plain Q4_0, awq F32, awq Q4_0, gptq Q4_0, gptq IQ2_XS"),
        (("plain",), "plain Q4_0, plain IQ2_XS"),
    ],
)
def test_a_type_that_needs_a_matrix_is_left_out_where_another_variant_has_one(
    asked: tuple[str, ...], made: str, tmp_path: Path
) -> None:
    model = read_gguf(write(tmp_path / "x.gguf"))
    names = ("F32", "Q4_0", "IQ2_XS") if "awq" in asked else ("F16", "Q4_0", "IQ2_XS")
    kinds = tuple(QuantType(name, "") for name in names)
    tools, chosen = Toolchain(tmp_path, "built", "c" * 40, "cpu", "1"), variants.resolve(asked)
    request = BuildRequest("x", variants=asked)
    found = Job(request, model, "x", kinds, kinds, chosen, None, None, Session(tools, Workspace(tmp_path)))
    assert ", ".join(f"{v.name} {t.name}" for v, t in found.targets) == made


@pytest.mark.parametrize(
    ("asked", "told", "made"),
    [
        (("plain", "imatrix"), Overrides(), "plain Q8_0, plain Q4_0, imatrix Q4_0"),
        (("imatrix",), Overrides(), "imatrix Q8_0, imatrix Q4_0"),
        (("plain", "imatrix"), Overrides(output="Q4_K"), "plain Q8_0, plain Q4_0, imatrix Q8_0, imatrix Q4_0"),
        (("plain", "imatrix", "gptq"), Overrides(), "plain Q8_0, plain Q4_0, imatrix Q4_0, gptq Q8_0, gptq Q4_0"),
    ],
)
def test_what_a_matrix_changes_nothing_in_is_made_once(
    asked: tuple[str, ...], told: Overrides, made: str, tmp_path: Path
) -> None:
    model, kinds = read_gguf(write(tmp_path / "x.gguf")), (QuantType("Q8_0", ""), QuantType("Q4_0", ""))
    tools, chosen = Toolchain(tmp_path, "built", "c" * 40, "cpu", "1"), variants.resolve(asked)
    session = Session(tools, Workspace(tmp_path))
    found = Job(BuildRequest("x", variants=asked), model, "x", kinds, kinds, chosen, None, None, session, told)
    assert ", ".join(f"{v.name} {t.name}" for v, t in found.targets) == made
    assert len(found.targets) + len(found.made_as_plain) == len(asked) * 2


def test_paths_and_strings_are_taken_alike(tmp_path: Path) -> None:
    given = {
        "out": "results",
        "imatrix": "~/m.imatrix",
        "lora": "adapter",
        "corpus": tmp_path,
        "calibration": tmp_path,
    }
    request = BuildRequest(tmp_path, **given)  # type: ignore[arg-type]
    assert (request.out, request.calibration.imatrix) == (Path("results"), Path.home() / "m.imatrix")
    assert request.source.lora == Path("adapter")
    assert request.model == request.evaluation.corpus == request.calibration.text == str(tmp_path)
    assert BuildRequest("x").out is None


@pytest.mark.usefixtures("tools")
def test_what_is_no_model_on_this_disk_is_refused_before_a_text_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wikitext, "named", lambda *_: pytest.fail("a text was fetched"))
    (tmp_path / "x.gguf").write_text("hello")
    for model in ("", "x.gguf", "none"):
        with pytest.raises(InputError):
            prepare(BuildRequest(f"{tmp_path}/{model}", types=("q4_0",)), SilentReporter())


def test_options_of_scaling_matter_where_something_is_scaled(tmp_path: Path) -> None:
    for variants_asked, error in ((("awq",), UsageError), (("plain",), InputError)):
        request = BuildRequest(
            str(tmp_path / "none"), variants=variants_asked, awq_engine="autoawq", awq_per_type=True
        )
        with pytest.raises(error) as caught:
            prepare(request, SilentReporter())
        assert ("GGUF types" in caught.value.message) == (error is UsageError)
