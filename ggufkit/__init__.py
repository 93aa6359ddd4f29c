"""ggufkit: one command from a Hugging Face checkpoint to GGUF files with numbers you can trust.

The Python API, loaded when it is used:

- `build(BuildRequest(model, …))` does what `ggufkit build` does and returns a `BuildResult`;
- `plan(BuildRequest(model, …))` tells what it would make;
- `load_results(directory)` reads a result directory's table into a pandas DataFrame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggufkit.version import __version__

__all__ = ["BuildRequest", "BuildResult", "__version__", "build", "load_results", "plan"]

if TYPE_CHECKING:
    from ggufkit.pipeline.build import BuildResult, build
    from ggufkit.pipeline.plan import plan
    from ggufkit.report.tables import load_results
    from ggufkit.request import BuildRequest

_HOMES = {
    "BuildRequest": "ggufkit.request",
    "BuildResult": "ggufkit.pipeline.build",
    "build": "ggufkit.pipeline.build",
    "plan": "ggufkit.pipeline.plan",
    "load_results": "ggufkit.report.tables",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use, so that `import ggufkit` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ggufkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
