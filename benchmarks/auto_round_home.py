"""auto-round's own environment, made in ggufkit's cache; packages of this one are seen behind its own, torch among them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from ggufkit.core import failures, process
from ggufkit.core.paths import cache_dir

AUTO_ROUND = "auto-round==0.16.1"
DRIVER = Path(__file__).with_name("auto_round_driver.py")
_READY = "ready"


def environment() -> Path:
    """The Python of the environment, which is made now if it is not there.

    Raises:
        ToolError: it could not be made.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    home = cache_dir() / "auto-round" / f"{AUTO_ROUND.replace('==', '-')}-py{version}-torch{torch.__version__}"
    python = home / "bin" / "python"
    if not (home / _READY).is_file():
        shutil.rmtree(home, ignore_errors=True)
        _succeed([sys.executable, "-m", "venv", home], home)
        shared = Path(torch.__file__).parents[1]
        packages = next(home.glob("lib/python*/site-packages"))
        (packages / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
        _succeed([python, "-m", "pip", "install", AUTO_ROUND], home)
        (home / _READY).touch()
    return python


def _succeed(command: list[str | Path], home: Path) -> None:
    output = process.run(command, log=home.with_name(f"{home.name}.log"))
    failures.require_success(output, f"installing {AUTO_ROUND}")
