"""The AutoAWQ engine: AutoAWQ 0.2.9 in an environment of its own, scale-only, in float32, with its faults corrected.

The environment is a venv in ggufkit's cache with tested pins. It sees the packages of ggufkit's own
environment behind its own, so that torch is shared.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file

from ggufkit.awq.apply import Rewrites
from ggufkit.awq.compat import group_size
from ggufkit.core import failures, process
from ggufkit.core.errors import ResourceError, ToolError, ToolOutputError, UnsupportedArchitecture
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import Progress, Reporter
from ggufkit.layers import Shards, StreamedModel
from ggufkit.texts.calibration import Calibration

AUTOAWQ = "autoawq==0.2.9"
PINS = ("transformers==5.23.0", "accelerate==1.15.0")
TORCH = "torch==2.13.0"
SUPPORTED = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "Phi3ForCausalLM",
)

_DRIVER = Path(__file__).with_name("autoawq_driver.py")
_OLDEST_TORCH = (2, 6)
_READY, _SHARED = "ready", "ggufkit-host.pth"
_BATCH_TOKENS = 2048
_QUIET = Surroundings(
    {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
)
_HINT = "Use --awq-engine native, which needs no environment of its own."


@dataclass(frozen=True)
class AutoAwqResult:
    """What AutoAWQ made: the weights that replace the checkpoint's, and the scales it found by module."""

    rewrites: Rewrites
    scales: dict[str, torch.Tensor]


def require_supported(model: StreamedModel) -> None:
    """Refuse what AutoAWQ cannot do, or does wrongly.

    Raises:
        UnsupportedArchitecture: it is not in `SUPPORTED`, or Phi-3 whose query heads share KV heads.
    """
    query, kv = model.heads
    if model.architecture not in SUPPORTED:
        raise UnsupportedArchitecture(f"AutoAWQ cannot scale {model.architecture}.", hint=_HINT)
    if model.architecture == "Phi3ForCausalLM" and query != kv:
        message = "AutoAWQ breaks Phi-3 models whose query heads share KV heads."
        raise UnsupportedArchitecture(message, hint=_HINT)


def scale_with_autoawq(
    model: StreamedModel, calibration: Calibration, state: Path, log: Path, reporter: Reporter
) -> AutoAwqResult:
    """Run AutoAWQ on a checkpoint. The whole model is in memory in float32.

    Args:
        state: directory for its input and output; the result reads from it.
        log: receives AutoAWQ's whole output.

    Raises:
        UnsupportedArchitecture: AutoAWQ cannot do this model.
        ToolError: its environment could not be made, or it failed.
        ResourceError: the disk is full.
    """
    require_supported(model)
    python = environment(log.with_name("autoawq-install.log"), reporter)
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = group_size(config.hidden_size, config.intermediate_size, head * config.num_attention_heads)
    job = {
        "model": str(model.path.resolve()),
        "tokens": str(state / "tokens.npy"),
        "out": str(state),
        "group_size": size,
        "batch": max(1, _BATCH_TOKENS // calibration.samples.shape[1]),
    }
    try:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        np.save(state / "tokens.npy", calibration.samples)
        (state / "job.json").write_text(json.dumps(job), encoding="utf-8")
    except OSError as error:
        message = f"AutoAWQ's input cannot be written to {state}: {error.strerror}."
        raise ResourceError(message, hint="Free some space and repeat the command.") from error
    with reporter.step("AutoAWQ: searching scales", model.n_layers) as progress:
        run = process.run(
            [python, _DRIVER, state / "job.json"], log=log, on_text=_Watch(progress), surroundings=_QUIET
        )
        failures.require_success(run, f"scaling {model.path.name} with AutoAWQ")
    return _result(model, state, log)


def _result(model: StreamedModel, state: Path, log: Path) -> AutoAwqResult:
    made = Shards(state / "weights")
    names = [n for n in model.shards.tensors if n.startswith("model.layers.")]
    lost = [n for n in names if n not in made]
    if lost:
        raise ToolError(f"AutoAWQ lost {len(lost)} tensors, {lost[0]} first.", hint=_HINT, log=log)
    rewrites = {name: partial(_replacement, made, name) for name in names}
    return AutoAwqResult(rewrites, load_file(state / "scales.safetensors"))


def _replacement(made: Shards, name: str, _: torch.Tensor) -> torch.Tensor:
    return made.read(name)


@dataclass(frozen=True)
class _At:
    layer: int
    of: int


class _Watch:
    """Reads the driver's progress from its stdout, a line at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pending = ""

    def __call__(self, stream: str, text: str) -> None:
        if stream != "stdout":
            return
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            if line.startswith('{"layer"'):
                at = parse_json(line, _At, "AutoAWQ's progress", ToolOutputError, hint=_HINT)
                self._progress.update(at.layer, at.of, f"layer {at.layer + 1} of {at.of}")


def environment(log: Path, reporter: Reporter) -> Path:
    """The Python of AutoAWQ's environment, made now if it is not there.

    Raises:
        ToolError: it could not be made.
    """
    shared = _host_torch()
    tag = f"{AUTOAWQ.replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}-{shared or 'own-torch'}"
    home = cache_dir() / "autoawq" / tag
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f"{tag}.lock")):
        if not is_whole(home):
            shutil.rmtree(home, ignore_errors=True)
            with reporter.step("AutoAWQ: making its environment"):
                _make(home, shared is not None, log)
            (home / _READY).write_text("\n".join((AUTOAWQ, *PINS)), encoding="utf-8")
    return _python(home)


def is_whole(home: Path) -> bool:
    """Whether an environment was finished, and the packages that it shares are still where they were."""
    if not (home / _READY).is_file():
        return False
    shared = _packages(home) / _SHARED
    return not shared.is_file() or all(Path(place).is_dir() for place in shared.read_text().splitlines())


def _python(home: Path) -> Path:
    return home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _make(home: Path, share: bool, log: Path) -> None:
    made = process.run([sys.executable, "-m", "venv", home], log=log)
    if made.returncode != 0:
        hint = "Install Python's venv module (Debian: apt install python3-venv). " + _HINT
        raise ToolError("The environment of AutoAWQ could not be made.", hint=hint, log=log)
    if share:
        _share_packages(home)
    # Its own requirements name triton and datasets, which scaling does not use.
    install: list[str | Path] = [_python(home), "-m", "pip", "install"]
    for packages in (["--no-deps", AUTOAWQ], [*PINS] if share else [*PINS, TORCH]):
        run = process.run([*install, *packages], log=log, surroundings=_QUIET)
        if run.returncode != 0:
            why = failures.explain(run, "installing AutoAWQ")
            raise ToolError(why.message, hint=f"pip must reach a package index. {_HINT}", log=log)


def _share_packages(home: Path) -> None:
    """Let the environment see the packages of this one, behind its own."""
    spec = importlib.util.find_spec("torch")
    places = spec.submodule_search_locations if spec else None
    lines = [str(Path(place).parent) for place in places or ()]
    (_packages(home) / _SHARED).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _packages(home: Path) -> Path:
    return next((p for p in home.rglob("site-packages") if p.is_dir()), home)


def _host_torch() -> str | None:
    """The version of this environment's torch as "torch2.13.0", if AutoAWQ can use it."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = tuple(int(n) for n in version.split("+")[0].split(".")[:2])
    return f"torch{version}" if numbers >= _OLDEST_TORCH else None
