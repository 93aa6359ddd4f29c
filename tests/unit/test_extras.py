"""What is optional: the table says what `pyproject.toml` says, and who lacks a part is told how to get it."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ggufkit import doctor
from ggufkit.cli import engines, steps
from ggufkit.core import extras
from ggufkit.core.errors import MissingExtra
from ggufkit.core.progress import SilentReporter
from ggufkit.core.variants import resolve
from ggufkit.llama import toolchain
from ggufkit.models import sources
from ggufkit.pipeline import lookup
from ggufkit.pipeline.lookup import prepare
from ggufkit.request import BuildRequest
from ggufkit.steps import convert
from ggufkit.steps.session import Session
from ggufkit.texts import corpus
from tests.fake_results import FAKES, write_results

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 has no reader of TOML")

PROJECT: dict[str, Any] = tomllib.loads(
    (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]
DECLARED: dict[str, list[str]] = PROJECT["optional-dependencies"]
NO_TABLE = {"all", "dev", "docs", "runtime", "toolchain"}
"""What no command waits for: collections, and what ggufkit fetches by itself when it is not there."""


def normal(name: str) -> str:
    return re.split(r"[\s<>=!~;\[]", name.lower().replace("_", "-"), maxsplit=1)[0]


def packages(extra: str) -> set[str]:
    """All that an extra installs directly, extras that it names included."""
    found: set[str] = set()
    for requirement in DECLARED[extra]:
        inner = re.fullmatch(r"ggufkit\[(.+)\]", requirement)
        found |= set().union(*(packages(e) for e in inner[1].split(","))) if inner else {normal(requirement)}
    return found


def distributions(module: str) -> set[str]:
    top = importlib.metadata.packages_distributions().get(module.partition(".")[0], [])
    return {normal(name) for name in top}


def test_each_extra_is_in_the_table() -> None:
    assert set(DECLARED) - NO_TABLE == set(extras.EXTRAS)


@pytest.mark.parametrize("extra", extras.EXTRAS.values(), ids=lambda e: e.name)
def test_an_extra_installs_what_is_asked_for(extra: extras.Extra) -> None:
    if extra.missing():
        pytest.skip(f"{extra.name} is not installed")
    for module in extra.modules:
        assert distributions(module) & packages(extra.name), f"[{extra.name}] does not bring {module}"


@pytest.mark.parametrize("extra", extras.EXTRAS.values(), ids=lambda e: e.name)
def test_the_core_does_without_an_extra(extra: extras.Extra) -> None:
    assert not packages(extra.name) & {normal(r) for r in PROJECT["dependencies"]}


def test_all_is_all_that_a_command_asks_for() -> None:
    assert set().union(*(packages(name) for name in extras.EXTRAS)) <= packages("all")


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def test_what_is_missing_is_named_with_what_brings_it(no_torch: None) -> None:
    with pytest.raises(
        MissingExtra, match=r"(?m)^Merging a LoRA adapter needs what is not installed: torch\.$"
    ) as told:
        extras.require("data", "lora")
    assert str(told.value.hint).endswith("-m pip install 'ggufkit[lora]'")
    assert told.value.exit_code == 3


@pytest.mark.parametrize(
    ("command", "arguments", "extra"),
    [
        (engines.awq_command, ["no-model"], "awq"),
        (engines.refine_command, [__file__, "--base", __file__, "--model", "no-model"], "refine"),
        (steps.convert_command, ["no-model"], "convert"),
    ],
    ids=["awq", "refine", "convert"],
)
def test_a_command_asks_first(no_torch: None, command: Any, arguments: list[str], extra: str) -> None:
    with pytest.raises(MissingExtra) as told:
        command.main(arguments, standalone_mode=False)
    assert f"ggufkit[{extra}]" in str(told.value.hint)


@pytest.mark.parametrize(
    ("variants", "wanted"), [(("plain",), "convert"), (("plain", "awq", "gptq"), "convert,awq,refine")]
)
def test_a_build_asks_before_it_downloads(no_torch: None, variants: tuple[str, ...], wanted: str) -> None:
    with pytest.raises(MissingExtra) as told:
        prepare(BuildRequest("acme/x", variants=variants), SilentReporter())
    assert f"ggufkit[{wanted}]" in str(told.value.hint)


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch, private_cache: Path) -> None:
    """All but what reads tables, data sets and ModelScope's login is installed."""
    absent = {"pyarrow", "datasets", "modelscope_hub"}
    monkeypatch.setattr(extras, "_is_installed", lambda module: module not in absent)
    monkeypatch.setattr(toolchain, "find", lambda *_: pytest.fail("the toolchain was asked for"))


@pytest.mark.parametrize(
    ("model", "options", "wanted"),
    [
        ("ms:acme/x", {}, "modelscope"),
        ("acme/x", {"hub": "modelscope"}, "modelscope"),
        ("qwen2.5-0.5b", {"hub": "modelscope"}, "modelscope"),
        ("acme/x", {"corpus": "acme/rows:test:text"}, "data"),
        ("acme/x", {"corpus": "ms:acme/rows:test"}, "modelscope"),
        ("acme/x", {"corpus": "{}/x.parquet"}, "data"),
        ("acme/x", {"corpus": "{}/x.parquet:text"}, "data"),
        ("acme/x", {"variants": ("imatrix",), "calibration": "{}/x.parquet"}, "data"),
    ],
)
def test_a_build_asks_at_once_for_what_reads_its_inputs(
    no_data: None, tmp_path: Path, model: str, options: dict[str, Any], wanted: str
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    given: dict[str, Any] = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(MissingExtra) as told:
        prepare(BuildRequest(model, out=tmp_path / "out", **given), SilentReporter())
    assert f"ggufkit[{wanted}]" in str(told.value.hint)
    assert not (tmp_path / "out").exists()


def test_what_reads_inputs_is_not_asked_for_in_vain(no_data: None, tmp_path: Path) -> None:
    for given in ("wikitext2", str(tmp_path / "nothing.parquet"), str(Path(__file__)), "no such text"):
        corpus.require_readable(given)
    (tmp_path / "x.jsonl").write_text('{"text": "x"}')
    corpus.require_readable(str(tmp_path / "x.jsonl"))
    assert not sources.needs_modelscope("acme/x")
    assert not sources.needs_modelscope("qwen2.5-0.5b")
    assert not sources.needs_modelscope(str(tmp_path))


@pytest.mark.parametrize(("variants", "wanted"), [(("plain", "imatrix"), []), (("plain", "gptq"), ["refine"])])
def test_what_is_converted_is_not_converted_again(
    tmp_path: Path, variants: tuple[str, ...], wanted: list[str]
) -> None:
    """So a second build needs no torch; were the base stale, its step would ask."""
    write_results(tmp_path, FAKES[:1])
    request = BuildRequest("acme/x", variants=variants, out=tmp_path)
    assert lookup._extras_of(request, resolve(variants), tmp_path) == wanted
    assert lookup._extras_of(request, resolve(variants), tmp_path / "other") == ["convert", *wanted]
    assert lookup._extras_of(request, resolve(variants), None) == ["convert", *wanted]


def test_a_conversion_asks_for_what_it_needs(no_torch: None, tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="Converting a checkpoint needs"):
        convert._converter_source(convert.ConvertOptions(), Session(None, None))  # type: ignore[arg-type]


def test_doctor_tells_which_extras_are_there(no_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor._extras()
    assert "not installed: convert, awq, refine, lora" in found.state
    assert "'ggufkit[convert,awq,refine,lora" in found.fix
    assert not found.needed
    monkeypatch.undo()
    assert "convert" in doctor._extras().state.partition("not installed")[0]


def test_only_what_is_needed_of_an_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "datasets")
    extras.require("data", modules=("pyarrow",))
    with pytest.raises(MissingExtra, match=r"(?m)^Reading rows needs what is not installed: datasets\.$"):
        extras.require("data", modules=("datasets",), purpose="Reading rows")
