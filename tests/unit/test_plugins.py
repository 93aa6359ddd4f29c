"""What installed packages add: found by entry points, loaded when asked for, refused in one message when broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core import methods, variants
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.methods import Method
from ggufkit.core.variants import Scaling, Variant
from ggufkit.measure import metrics
from ggufkit.pipeline.lookup import _require_options
from ggufkit.request import BuildRequest
from tests.packages import forget, install, install_own_method

VARIANTS, METRICS = variants.GROUP, metrics.GROUP
MODULE = """
from dataclasses import dataclass
from ggufkit import Method, Metric, Variant

@dataclass(frozen=True)
class How:
    strength: float = 0.5
    twice: bool = False

def work(work): return None

good = Variant("good", before=Method("good", "checkpoint", work, How))
both = Variant("good+imatrix", before=good.before, imatrix=True)
misnamed = Variant("other", after=Method("other", "gguf", work))
misplaced = Variant("misplaced", after=Method("misplaced", "checkpoint", work))
idle = Variant("idle")
number = 7
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "toy_module.py").write_text(MODULE)
    yield tmp_path / "site"
    sys.modules.pop("toy_module", None)
    forget()


def test_a_package_s_variants_stand_in_the_table(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"good": "toy_module:good", "good+imatrix": "toy_module:both"}
    install(site, {VARIANTS: points}, monkeypatch)
    assert variants.names() == (*variants.BY_NAME, "good", "good+imatrix")
    assert "toy_module" not in sys.modules, "names are known without running anything"
    plain, good, both = variants.resolve(("good+imatrix", "GOOD", "plain"))
    assert (plain.name, good.name, both.name) == ("plain", "good", "good+imatrix")
    assert good.before is not None
    assert (good.before.package, good.before.version) == ("toy", "1.0")
    assert good.before == both.before, "one changed checkpoint serves both"
    assert good.has_float_types
    assert not both.has_float_types
    assert good.needs_checkpoint
    assert variants.file_name("m", both, "Q8_0") == "m-good-imatrix-Q8_0.gguf"
    assert variants.known("good") == good
    assert variants.known("gone") is None


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("raises", "no_such_module:x", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("lacks", "toy_module:nothing", "AttributeError"),
        ("number", "toy_module:number", "toy_module:number is no Variant"),
        ("misnamed", "toy_module:misnamed", "called 'other' there"),
        ("misplaced", "toy_module:misplaced", "stands in the wrong place"),
        ("idle", "toy_module:idle", "no method of its own"),
    ],
)
def test_a_broken_package_is_one_message(
    site: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: str, why: str
) -> None:
    install(site, {VARIANTS: {name: target}}, monkeypatch)
    assert [v.name for v in variants.resolve(("plain",))] == ["plain"], "who does not ask for it has no trouble"
    with pytest.raises(InputError) as raised:
        variants.resolve((name,))
    assert f"{name} of the package toy 1.0 cannot be used" in raised.value.message
    assert why in raised.value.message
    assert "pip uninstall toy" in str(raised.value.hint)
    assert variants.known(name) is None


def test_names_that_are_taken_are_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, {VARIANTS: {"plain": "toy_module:good"}, METRICS: {"ppl": "toy_module:x"}}, monkeypatch)
    with pytest.raises(InputError, match=r"toy 1\.0 .*'plain' is ggufkit's own name"):
        variants.resolve(("plain",))
    with pytest.raises(InputError, match="'ppl' is ggufkit's own name"):
        metrics.find("ppl")
    assert variants.names() == tuple(variants.BY_NAME)


def test_two_packages_of_one_name_are_refused(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, {VARIANTS: {"good": "toy_module:good"}}, monkeypatch)
    install(tmp_path / "b", {VARIANTS: {"good": "other:x"}}, monkeypatch, name="second")
    with pytest.raises(InputError, match="second and toy both add it"):
        variants.resolve(("good",))


def test_options_are_read_by_their_types(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, {VARIANTS: {"good": "toy_module:good"}}, monkeypatch)
    (good,) = variants.resolve(("good",))
    assert good.before is not None
    read = methods.options_of(good.before, ["good.strength=0.25", "good.twice=true", "other.x=1"])
    assert (read.strength, read.twice) == (0.25, True)
    assert methods.options_of(good.before, []).strength == 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("good.strength=much", "strength"),
        ("good.weight=1", "no option 'weight'"),
        ("strength=1", "no option of a variant"),
        ("good.strength", "no option of a variant"),
        ("other.x=1", "not used by --variants good"),
    ],
)
def test_wrong_options_are_refused(site: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    install(site, {VARIANTS: {"good": "toy_module:good"}}, monkeypatch)
    request = BuildRequest("m", variants="good", variant_option=words)
    with pytest.raises(UsageError, match=said):
        _require_options(request, variants.resolve(request.variants))


def test_metrics_are_asked_for_by_name(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    with pytest.raises(UsageError, match="no metric 'weight_sqnr'") as raised:
        metrics.find("weight_sqnr")
    assert "No package with metrics" in str(raised.value.hint)
    install_own_method(site, monkeypatch)
    found = metrics.find("weight_sqnr")
    assert (found.unit, found.package, found.version) == ("dB", "ggufkit-fewer-bits", "0.1")
    with pytest.raises(UsageError, match="no metric 'sqnr'") as raised:
        metrics.find("sqnr")
    assert "weight_sqnr" in str(raised.value.hint)


@pytest.mark.parametrize(
    "name", ["=1+1", "file", "kld", "mine", "a b", "ppl_stderr", "Size", "x" * 70, "directory"]
)
def test_columns_that_a_measurement_on_disk_may_not_add(name: str) -> None:
    assert metrics.may_be_added(name) == (name == "mine")


def test_what_a_variant_is_before_its_file_is_changed() -> None:
    own: dict[str, Any] = {"after": Method("last", "gguf", lambda _: None)}
    assert variants.unrefined(Variant("x", **own)).name == "plain"
    assert variants.unrefined(Variant("x", imatrix=True, **own)).name == "imatrix"
    first = Method("first", "checkpoint", lambda _: None)
    plainer = variants.unrefined(Variant("x", before=first, imatrix=True, **own))
    assert (plainer.name, plainer.after, plainer.before) == ("first+imatrix", None, first)
    assert Scaling.from_label("first+imatrix") == Scaling(True, None, "first")
    for variant in variants.VARIANTS:
        assert variants.unrefined(variant).name == variant.name.replace("gptq", "imatrix")


def test_a_package_s_variant_with_a_matrix_is_more_than_a_matrix() -> None:
    own = Method("smooth", "checkpoint", lambda _: None)
    assert Variant("imatrix", imatrix=True).only_weighs
    assert not Variant("smooth+imatrix", before=own, imatrix=True).only_weighs


def test_two_methods_of_one_name_are_refused() -> None:
    first, second = (Method("smooth", "checkpoint", lambda _: None, package=name) for name in ("one", "two"))
    chosen = (Variant("a", before=first), Variant("b", before=second))
    with pytest.raises(UsageError, match="Two methods are called smooth"):
        _require_options(BuildRequest("./m"), chosen)
    _require_options(BuildRequest("./m"), (chosen[0], replace(chosen[0], name="c", imatrix=True)))
