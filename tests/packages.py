"""Packages as pip would install them: a directory with what their `pyproject.toml` says of entry points."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ggufkit.core import plugins, variants
from ggufkit.measure import metrics

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN_METHOD = Path(__file__).resolve().parents[1] / "examples" / "own_method"


def install(
    site: Path,
    groups: Mapping[str, Mapping[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str = "toy",
    version: str = "1.0",
) -> None:
    """Make Python find a package's entry points in `site`, and forget those that it has found before."""
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in groups.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(site))
    forget()


def install_own_method(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example, as its pyproject.toml has it."""
    project = tomllib.loads((OWN_METHOD / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    monkeypatch.syspath_prepend(str(OWN_METHOD))
    install(site, project["entry-points"], monkeypatch, name=project["name"], version=project["version"])


def forget() -> None:
    """What was found and loaded."""
    for cached in (plugins.found, variants._of_package, metrics._of_package):
        cached.cache_clear()
