"""Notebooks run on the real toolchain: `pytest --nbmake examples`."""

from __future__ import annotations

import pytest

from ggufkit.core.errors import ToolchainError
from ggufkit.llama import toolchain


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a notebook where there is no llama.cpp, and none can be built."""
    if item.path.suffix != ".ipynb":
        return
    try:
        toolchain.find("cpu")
    except ToolchainError as error:
        pytest.skip(f"no llama.cpp toolchain: {error.message}")
