"""ggufkit: one command from a Hugging Face checkpoint to GGUF files with numbers you can trust.

The Python API, loaded when it is used. Each command is a function that takes what the command line takes:

    >>> result = ggufkit.build("qwen2.5-0.5b", types="q4_k_m,6GiB", precision="2%")  # doctest: +SKIP
    >>> result.df  # a pandas DataFrame; in a notebook `result` shows it with a plot  # doctest: +SKIP

- `build`, `plan`, `convert`, `imatrix`, `quantize`, `merge`, `lora`, `awq`, `refine`, `recipe`, `perplexity`, `tasks`,
  `bench`, `compare`;
- `sweep` and its plan, `plan_sweep`, for many models at once;
- `serve`, a context in which a file is an OpenAI-compatible endpoint;
- `Result`, what they return, and `load_results(directory)`, a result directory's table;
- `GgufkitError` and its subclasses: their text says what to do;
- `Variant`, `Method`, `Work`, `Metric`, `Subject`: for packages that add variants and metrics.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ggufkit.version import __version__

if TYPE_CHECKING:
    from ggufkit.api.engines import awq, recipe, refine
    from ggufkit.api.making import build, convert, imatrix, lora, merge, plan, quantize
    from ggufkit.api.measuring import bench, compare, perplexity, tasks
    from ggufkit.api.result import Compared, Result
    from ggufkit.api.result import Result as BuildResult
    from ggufkit.api.serving import serve
    from ggufkit.api.sweeping import Swept, plan_sweep, sweep
    from ggufkit.core.errors import (
        BusyError,
        CheckpointError,
        CorpusError,
        DeviceMemoryError,
        GgufError,
        GgufkitError,
        InputError,
        Interrupted,
        MissingExtra,
        ResourceError,
        SourceError,
        TokenizerError,
        ToolchainError,
        ToolError,
        ToolKilled,
        ToolOutputError,
        UnknownType,
        UnsupportedArchitecture,
        UsageError,
    )
    from ggufkit.core.methods import Method, Work
    from ggufkit.core.variants import Variant
    from ggufkit.measure.metrics import Metric, Subject
    from ggufkit.report.tables import load_results
    from ggufkit.request import BuildRequest

__all__ = [
    "BuildRequest",
    "BuildResult",
    "BusyError",
    "CheckpointError",
    "Compared",
    "CorpusError",
    "DeviceMemoryError",
    "GgufError",
    "GgufkitError",
    "InputError",
    "Interrupted",
    "Method",
    "Metric",
    "MissingExtra",
    "ResourceError",
    "Result",
    "SourceError",
    "Subject",
    "Swept",
    "TokenizerError",
    "ToolError",
    "ToolKilled",
    "ToolOutputError",
    "ToolchainError",
    "UnknownType",
    "UnsupportedArchitecture",
    "UsageError",
    "Variant",
    "Work",
    "__version__",
    "awq",
    "bench",
    "build",
    "compare",
    "convert",
    "imatrix",
    "load_results",
    "lora",
    "merge",
    "perplexity",
    "plan",
    "plan_sweep",
    "quantize",
    "recipe",
    "refine",
    "serve",
    "sweep",
    "tasks",
]  # fmt: skip

_FUNCTIONS = {
    **dict.fromkeys(("build", "plan", "convert", "imatrix", "quantize", "merge", "lora"), "ggufkit.api.making"),
    **dict.fromkeys(("awq", "refine", "recipe"), "ggufkit.api.engines"),
    **dict.fromkeys(("perplexity", "tasks", "bench", "compare"), "ggufkit.api.measuring"),
    "serve": "ggufkit.api.serving",
    **dict.fromkeys(("sweep", "plan_sweep"), "ggufkit.api.sweeping"),
}
_HOMES = {
    **_FUNCTIONS,
    "BuildRequest": "ggufkit.request",
    "BuildResult": "ggufkit.api.result",
    "Compared": "ggufkit.api.result",
    "Result": "ggufkit.api.result",
    "Swept": "ggufkit.api.sweeping",
    "load_results": "ggufkit.report.tables",
    **dict.fromkeys(("Method", "Work"), "ggufkit.core.methods"),
    "Variant": "ggufkit.core.variants",
    **dict.fromkeys(("Metric", "Subject"), "ggufkit.measure.metrics"),
}
_NOW_CALLED = {"BuildResult": "Result"}


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use, so that `import ggufkit` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'ggufkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "ggufkit.core.errors")), _NOW_CALLED.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)


class _Called(ModuleType):
    """A package that is a function of the same name, too: `ggufkit.awq(…)` and `ggufkit.awq.engine`."""

    @property
    def _function(self) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        return signature(self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class _Package(ModuleType):
    """This package. Python sets a submodule as its attribute, and would so hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FUNCTIONS and isinstance(value, ModuleType):
            value.__class__ = _Called
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
