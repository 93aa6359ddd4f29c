"""Which commands make a file, by ggufkit and by auto-round: each row of `benchmarks.peers` is counted from the checkpoint.

A step's command names in braces the steps whose products it reads. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_MORE = {"+output": "--include-output", "+norms": "--tune-norms"}
"""What a refinement's name may end with, and the option that it stands for."""
VARIANTS = ("plain", "imatrix", "awq", "awq+imatrix", "gptq", "awq+gptq")
OURS = (*VARIANTS, *(f"{v}{more}" for v in ("gptq", "awq+gptq") for more in ("+output", "+output+norms")))
"""ggufkit's methods: its variants, and refinement of the output matrix, and of norms, too."""
PEER = "auto-round-"
"""What its methods begin with; iterations follow."""
HERE = "here"
"""The directory of a step, in its command."""
_READS = re.compile(r"\{([^{}]+)\}")
_REFINED, _SCALED = "gptq", "awq"


@dataclass(frozen=True)
class Step:
    """A command, and a pattern for the one file or directory that it leaves."""

    argv: tuple[str, ...]
    product: str = "*.gguf"

    @property
    def reads(self) -> tuple[str, ...]:
        """The steps whose products it reads, each once."""
        found = (name for word in self.argv for name in _READS.findall(word))
        return tuple(dict.fromkeys(name for name in found if name != HERE))

    def command(self, products: Mapping[str, Path]) -> tuple[str, ...]:
        """The command with paths for names."""
        return tuple(_READS.sub(lambda found: str(products[found[1]]), word) for word in self.argv)


@dataclass(frozen=True)
class Inputs:
    """What all files are made from and with.

    Args:
        model: the checkpoint.
        text, samples: calibration text, and how many samples of 512 tokens of it.
        types: which types, for all of which one AWQ search serves.
        device, backend: what ggufkit's and auto-round's own work runs on; what llama.cpp does.
        ggufkit, auto_round: the beginnings of their commands; the latter gets the type and the number of iterations.
    """

    model: str
    text: str
    samples: int
    types: tuple[str, ...]
    device: str
    backend: str
    ggufkit: tuple[str, ...]
    auto_round: tuple[str, ...]


def iterations(method: str) -> int | None:
    """auto-round's iterations, None for a method of ggufkit.

    Raises:
        ValueError: there is no such method.
    """
    if method in OURS:
        return None
    number = method.removeprefix(PEER)
    if number == method or not number.isdecimal():
        raise ValueError(f"{method} is no method: {', '.join(OURS)}, {PEER}N with N iterations.")
    return int(number)


def last_step(method: str, kind: str) -> str:
    """The name of the step that makes a method's file."""
    return f"{method}-{kind}"


def steps_of(inputs: Inputs, methods: Sequence[str]) -> dict[str, Step]:
    """All steps that the files of `methods` may take, by name."""
    steps = {**_bases(inputs, ""), **_bases(inputs, "awq"), **_bases(inputs, "awq+imatrix")}
    for kind in inputs.types:
        steps |= _files(inputs, kind)
        peers = [(method, count) for method in methods if (count := iterations(method)) is not None]
        steps |= {
            last_step(method, kind): Step((*inputs.auto_round, "{here}", kind, str(count)), "**/*.gguf")
            for method, count in peers
        }
    return steps


def order(steps: Mapping[str, Step], wanted: str) -> list[str]:
    """The steps that make a file, each after those that it reads, the file's own last."""
    before = [name for read in steps[wanted].reads for name in order(steps, read)]
    return [*dict.fromkeys(before), wanted]


def _bases(inputs: Inputs, scaling: str) -> dict[str, Step]:
    """The base that files of a scaling are quantized from, its importance matrix, and the scaled checkpoint."""
    prefix, ours = f"{scaling}:" if scaling else "", inputs.ggufkit
    checkpoint = f"{{{prefix}checkpoint}}" if scaling else inputs.model
    matrix = ("imatrix", f"{{{prefix}convert}}", *_text(inputs), "--backend", inputs.backend, "--out", "{here}")
    steps = {
        f"{prefix}convert": Step((*ours, "convert", checkpoint, "--out", "{here}")),
        f"{prefix}matrix": Step((*ours, *matrix), "*.imatrix"),
    }
    if scaling:
        weighed = ("--for-imatrix",) if scaling != _SCALED else ()
        search = ("awq", inputs.model, "--types", ",".join(inputs.types), "--device", inputs.device, *weighed)
        steps[f"{prefix}checkpoint"] = Step((*ours, *search, *_text(inputs), "--out", "{here}/scaled"), "scaled")
    return steps


def _files(inputs: Inputs, kind: str) -> dict[str, Step]:
    return {last_step(method, kind): _file(inputs, method, kind) for method in OURS}


def _file(inputs: Inputs, method: str, kind: str) -> Step:
    scaled, ours = method.startswith(_SCALED), inputs.ggufkit
    prefix = "" if not scaled else "awq:" if method == _SCALED else "awq+imatrix:"
    base = f"{{{prefix}convert}}"
    if _REFINED not in method:
        weighed = ("--imatrix", f"{{{prefix}matrix}}") if "imatrix" in method else ()
        return Step((*ours, "quantize", base, "--types", kind, *weighed, "--out", "{here}"))
    rounded = last_step("awq+imatrix" if scaled else "imatrix", kind)
    more = (option for name, option in _MORE.items() if name in method)
    model = f"{{{prefix}checkpoint}}" if scaled else inputs.model
    source = ("refine", f"{{{rounded}}}", "--base", base, "--model", model, "--device", inputs.device)
    return Step((*ours, *source, *_text(inputs), *more, "--out", "{here}/refined.gguf"))


def _text(inputs: Inputs) -> tuple[str, ...]:
    return "--calibration", inputs.text, "--calibration-samples", str(inputs.samples)
