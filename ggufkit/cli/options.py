"""Parameter types and option decorators that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ggufkit.core import machine, variants
from ggufkit.llama import backends

Command = TypeVar("Command", bound=Callable[..., Any])
MOST = (1 << 31) - 1
"""llama.cpp's tools read no larger numbers."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class NameList(click.ParamType[tuple[str, ...]]):
    """A comma-separated list: `q4_k_m,q8_0`."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split at commas; an empty list is a mistake."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(",") if part.strip())
        if not names:
            self.fail("the list is empty", param, ctx)
        return names


class UserPath(click.Path):
    """A path; `~` is the home also where the shell leaves it, as in `--out=~/models`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Replace a leading `~`."""
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 - a path may be bytes


def beside(gguf: Path) -> Path:
    """The directory that the user named with a file: where a hub's cache keeps what its links point to is no place."""
    return gguf.absolute().parent


def beside_model(model: str) -> Path:
    """The directory that the user named with a local MODEL; the current one for a hub's."""
    from ggufkit.models import sources

    return Path(os.path.abspath(Path(model).expanduser())).parent if sources.is_local(model) else Path()  # noqa: PTH100


class Size(click.ParamType[int]):
    """A number of bytes: `8GiB`, `100MB`, `1500000`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a number with a unit; GB and GiB differ as they should."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?)B?\s*", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no size; write 8GiB or 100MB", param, ctx)
        number, unit, binary = float(match[1]), match[2].upper(), match[3]
        factor = _UNITS[unit] if binary else 1000 ** "KMGT".find(unit) * 1000 if unit else 1
        return int(number * factor)


class Count(click.ParamType[int | None]):
    """A positive number, or a word that means None: `all`, `auto`."""

    def __init__(self, word: str, minimum: int = 1) -> None:
        self.name = f"N|{word}"
        self.word = word
        self.minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Read the number or the word."""
        if value is None or isinstance(value, int) or str(value).lower() == self.word:
            return value if isinstance(value, int) else None
        if not str(value).isdecimal() or not self.minimum <= int(value) <= MOST:
            self.fail(f"{value!r} is neither a number from {self.minimum} to {MOST} nor {self.word!r}", param, ctx)
        return int(value)


NAMES = NameList()
SIZE = Size()
PATH = UserPath(path_type=Path)
FILE = UserPath(path_type=Path, dir_okay=False)


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def threads_option(command: Command) -> Command:
    """--threads."""
    return click.option("--threads", type=click.IntRange(1, machine.MOST_THREADS), default=machine.physical_cores,
                        show_default="physical cores", help="CPU threads.")(command)  # fmt: skip


def backend_options(command: Command) -> Command:
    """--backend, --ngl, --threads."""
    return _all(
        click.option("--backend", type=click.Choice(backends.CHOICES), default="auto", show_default=True,
                     help="What llama.cpp computes on."),
        click.option("--ngl", type=Count("auto", 0), default="auto", show_default=True,
                     help="Layers on the GPU; auto: all that fit."),
        threads_option,
    )(command)  # fmt: skip


def eval_options(command: Command) -> Command:
    """--corpus, --ctx, --chunks."""
    return _all(
        click.option("--corpus", default="wikitext2", show_default=True, metavar="PATH|NAME",
                     help="Evaluation text."),
        click.option("--ctx", "n_ctx", type=click.IntRange(8, MOST), default=512, show_default=True,
                     help="Context in tokens, as in llama-perplexity."),
        click.option("--chunks", "n_chunks", type=Count("all", 2), default="all", show_default=True,
                     help="How many chunks of the text to evaluate."),
    )(command)  # fmt: skip


def calibration_options(command: Command) -> Command:
    """--calibration, --calibration-samples, --calibration-field, --seed."""
    return _all(
        click.option("--calibration", default="wikitext2-train", show_default=True, metavar="PATH|NAME",
                     help="Text for importance matrices, AWQ and GPTQ: like the use, unlike the corpus."),
        click.option("--calibration-samples", type=click.IntRange(1, MOST), default=128, show_default=True,
                     help="Samples of 512 tokens."),
        click.option("--calibration-field", default="text", show_default=True, metavar="NAME",
                     help="Field that holds the text, in JSON and JSONL."),
        click.option("--seed", type=int, default=42, show_default=True, help="Seed of the samples drawn."),
    )(command)  # fmt: skip


def awq_options(command: Command) -> Command:
    """--awq-engine, --awq-objective, --awq-dtype, --awq-per-type."""
    return _all(
        click.option("--awq-engine", type=click.Choice(variants.AWQ_ENGINES), default="native", show_default=True,
                     help="Ours, or AutoAWQ in an environment of its own."),
        click.option("--awq-objective", type=click.Choice(variants.AWQ_OBJECTIVES), default="ggml", show_default=True,
                     help="What our engine minimizes: the error under llama.cpp's types, or AutoAWQ's."),
        click.option("--awq-dtype", type=click.Choice(variants.AWQ_DTYPES), default="source", show_default=True,
                     help="Of the scaled checkpoint; float32 loses nothing."),
        click.option("--awq-per-type", is_flag=True, help="Scales for each type, not for their mean."),
    )(command)  # fmt: skip


def source_options(command: Command) -> Command:
    """--from, --allow-pickle, --lora."""
    return _all(
        click.option("--from", "source", type=click.Choice(["auto", "hf", "modelscope"]), default="auto",
                     show_default=True, help="Hub to ask; auto: a cache, then the one that answers."),
        click.option("--allow-pickle", is_flag=True, help="Accept weights in *.bin where there are no safetensors."),
        click.option("--lora", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
                     help="A LoRA adapter to merge first."),
    )(command)  # fmt: skip


def convert_options(command: Command) -> Command:
    """What a conversion may be told."""
    return _all(
        click.option("--pre", metavar="NAME", help="llama.cpp's name of the BPE pre-tokenizer, instead of detecting it."),
        click.option("--allow-token-mismatch", is_flag=True, help="Accept a vocabulary that tokenizes differently."),
        click.option("--force-toolchain", is_flag=True, help="Accept a converter of another commit than the tools."),
    )(command)  # fmt: skip


def redo_options(command: Command) -> Command:
    """--force and --explain."""
    return _all(
        click.option("--force", is_flag=True, help="Redo everything, and overwrite what ggufkit did not make."),
        click.option("--explain", is_flag=True, help="Say why each step runs or is skipped."),
    )(command)


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout, all else on stderr.")(
        command
    )
