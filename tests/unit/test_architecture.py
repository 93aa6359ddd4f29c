"""The rules of the house: which module may import what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ggufkit

PACKAGE = Path(ggufkit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Where a library may be imported: files and directories of the package, "" for everywhere.
HOMES = {
    "click": ("cli/",),
    "rich": ("cli/",),
    "subprocess": ("process.py",),
    "pandas": ("tables.py", "report/"),
    "matplotlib": ("report/",),
    "torch": ("awq/", "layers/", "refine/", "lora.py", "hub/pickles.py"),
    "transformers": ("awq/", "layers/", "refine/", "calibration.py", "lora.py"),
    "peft": ("lora.py",),
    "llama_cpp": ("chat.py", "chat_child.py"),
}

# Layers from top to bottom: a module imports from its own layer and from below.
LAYERS = (
    ("cli",),
    ("pipeline", "doctor"),
    ("planning", "artifacts"),
    ("modelfiles",),
    ("job",),
    ("report", "compare", "publish", "chat"),
    ("results", "tables", "preflight"),
    ("scaling", "refining", "overlap"),
    ("calibration_text", "adopt", "convert", "quantize", "imatrix", "imatrix_parts", "perplexity", "divergence", "bench",
     "lora", "modelfile", "streaming"),
    ("offload", "together"),
    ("sources", "corpus", "hub", "demo", "tokens", "session"),
    ("awq", "refine", "layers", "calibration"),
    ("steps", "measurements", "checkpoint", "llama", "quants", "backends"),
    ("manifest", "hashing", "process"),
    ("machine", "paths", "probes", "metrics", "variants", "progress", "units", "rowfiles"),
    ("records", "errors"),
)  # fmt: skip


def imports_of(file: Path) -> set[str]:
    """Every module that a file imports, at any depth; imports for the type checker only do not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_in_their_homes(library: str) -> None:
    homes = HOMES[library]
    strays = [
        str(file.relative_to(PACKAGE))
        for file in MODULES
        if any(name.split(".")[0] == library for name in imports_of(file))
        and not str(file.relative_to(PACKAGE)).startswith(homes)
    ]
    assert not strays, f"{library} belongs in {homes}"


def layer_of(module: str) -> int:
    """The layer of a module of the package, by the first part of its name."""
    part = module.split(".")[1] if "." in module else ""
    for number, names in enumerate(LAYERS):
        if part in names:
            return number
    raise AssertionError(f"{module} is in no layer of tests/unit/test_architecture.py")


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_downwards(file: Path) -> None:
    module = "ggufkit." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    if module in ("ggufkit.__init__", "ggufkit.__main__"):
        return
    here = layer_of(module)
    upwards = {
        name
        for name in imports_of(file)
        if name.startswith("ggufkit.") and name.split(".")[1] in {n for names in LAYERS for n in names}
        if layer_of(name) < here
    }
    assert not upwards
