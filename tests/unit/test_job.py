"""What a build refuses before it fetches or makes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufkit import cli as command_line
from ggufkit import job, sources
from ggufkit.errors import InputError
from ggufkit.job import BuildRequest, prepare
from ggufkit.progress import SilentReporter


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> None:
    """No model is looked for, and no toolchain is here."""

    def look(*_: object) -> None:
        raise AssertionError("the model was asked for")

    monkeypatch.setattr(sources, "resolve", look)


@pytest.mark.parametrize(
    ("variants", "given", "way_out"),
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
    ],
)
def test_what_no_variant_uses(variants: str, given: dict[str, object], way_out: str | None) -> None:
    request = BuildRequest("acme/x", variants=tuple(variants.split(",")), **given)  # type: ignore[arg-type]
    unused = job.unused_option(request)
    assert (unused and way_out in str(unused.hint)) if way_out else unused is None
    if way_out:
        with pytest.raises(InputError, match="is not used"):
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
