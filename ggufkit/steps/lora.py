"""Step: a LoRA adapter of peft's -> a GGUF adapter, by llama.cpp's own converter, with the function that peft computes."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.core import extras, failures, process
from ggufkit.core.errors import CheckpointError, ToolchainError
from ggufkit.core.hashing import sha256_files
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import Notes, Params, read_manifest
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Checkpoint
from ggufkit.llama import argv, launcher, toolchain
from ggufkit.llama import source as sources
from ggufkit.llama.adapter import Adapter, require_kin
from ggufkit.llama.gguf import read_header
from ggufkit.llama.logits_file import SavedLogits
from ggufkit.models import lora, plain_lora, same_function
from ggufkit.models.checkpoint import read_config
from ggufkit.models.files import files_of, fingerprint
from ggufkit.steps import convert, function_check, offload
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.load_check import require_computes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP, VERSION = "lora", 1
OUT_TYPES = ("f32", "f16", "bf16", "q8_0", "auto")
_MOST, _OF_EFFECT = 1e-2, 0.1
"""Up to which the logits may be off: of their deviation, and of what the adapter changes."""


@dataclass(frozen=True)
class LoraOptions:
    """How an adapter is converted.

    Args:
        out_type: of its matrices, of `OUT_TYPES`.
        check_function: compare the logits with peft's; None where the model is small.
    """

    out_type: str = "f32"
    check_function: bool | None = None
    force_toolchain: bool = False


@dataclass(frozen=True)
class LoraParams(Params):
    """What decides a converted adapter besides adapter and base."""

    out_type: str = ""


@dataclass(frozen=True)
class LoraNotes(Notes):
    """What is known of a converted adapter.

    Args:
        n_matrices, ranks: how many matrices it changes, and the ranks of the changes.
        logit_difference: of base and GGUF adapter from peft's model, relative; None where it was not compared.
        logit_effect: of the base without the adapter from the same.
        kld, kld_base: mean KL divergence from peft's model, in nats: with the adapter, and without.
    """

    n_matrices: int = 0
    ranks: tuple[int, ...] = ()
    logit_difference: float | None = None
    logit_effect: float | None = None
    kld: float | None = None
    kld_base: float | None = None


@dataclass(frozen=True)
class _Work:
    """One adapter, its base, and how it is converted."""

    checkpoint: Checkpoint
    adapter: Path
    options: LoraOptions
    session: Session


def convert_lora(
    checkpoint: Checkpoint, adapter: Path, output: Path, options: LoraOptions, session: Session
) -> Result:
    """Convert an adapter to `output` unless that is done already.

    Raises:
        InputError: it is no adapter of this base, or a GGUF adapter cannot hold it.
        CheckpointError: llama.cpp computes something else with it than peft.
        ToolchainError: there is no converter of adapters.
        ToolError: the converter failed.
    """
    lora.warn_of_other_base(lora.read_adapter(adapter), checkpoint, session.reporter)
    files = sha256_files(adapter, lora.adapter_files(adapter))
    inputs = {"checkpoint": fingerprint(checkpoint.path, session.reporter), "adapter": files}
    reads = [Input(checkpoint.path, inputs["checkpoint"], files_of), Input(adapter, files, lora.adapter_files)]
    params = LoraParams(options.out_type).to_params()
    recipe = Recipe(STEP, VERSION, inputs, params, session.tools.identity, reads)
    work = _Work(checkpoint, adapter, options, session)
    made = read_manifest(output) if options.check_function else None
    unknown = made is not None and LoraNotes.from_manifest(made).logit_difference is None
    why = "its function was not compared"
    return session.ensure(recipe, output, lambda partial: _convert(work, partial), force=unknown, why=why)


def _convert(work: _Work, partial: Path) -> Made:
    session = work.session
    compared = function_check.is_wanted(work.checkpoint, work.options.check_function, session)
    if compared:
        extras.require("lora")
    script = _converter(work)
    session.workspace.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lora-", dir=session.workspace.scratch) as home:
        plain = Path(home) / work.adapter.resolve().name
        with session.reporter.step(f"Converting {work.adapter.name}"):
            made = plain_lora.make_plain(work.checkpoint.path, work.adapter, plain)
            run = _run_converter(work, script, plain, partial)
        notes = LoraNotes(made.n_matrices, tuple(made.ranks))
        if compared:
            notes = _compare(work, partial, notes, Path(home))
    return Made([run], notes.to_notes())


def _converter(work: _Work) -> Path:
    tools, reporter = work.session.tools, work.session.reporter
    source = toolchain.converter_source(tools, reporter, force=work.options.force_toolchain)
    script = sources.lora_converter(source, sources.describe_source(source).commit, reporter)
    if script is None:
        hint = "Give a whole source tree of llama.cpp, or unset GGUFKIT_LLAMA_CPP to use the pinned one."
        raise ToolchainError(f"{source} has no {sources.LORA_CONVERTER}.", hint=hint)
    return script


def _run_converter(work: _Work, script: Path, plain: Path, partial: Path) -> ToolOutput:
    command = argv.convert_lora(script, plain, work.checkpoint.path, partial, work.options.out_type)
    log = work.session.workspace.log(f"lora-{work.adapter.resolve().name}")
    run = process.run(command, surroundings=Surroundings(offload.environment()), log=log)
    if (error := launcher.error_in(run)) is not None:
        raise error
    if run.returncode != 0 or not partial.is_file():
        raise failures.explain(run, f"converting {work.adapter}", None if run.returncode else "it wrote no file")
    return run


def _compare(work: _Work, partial: Path, notes: LoraNotes, home: Path) -> LoraNotes:
    """The notes with how far llama.cpp's logits are from peft's. Raises CheckpointError where that is too far."""
    session, path = work.session, work.checkpoint.path
    with session.reporter.step(f"Comparing with {work.checkpoint.name} under peft"):
        base = _base(work, home)
        require_kin(Adapter(partial), read_header(base))
        got = require_computes(base, session, None, function_check.n_tokens(work.checkpoint), adapter=partial)
        if got is None:
            session.reporter.warn(
                f"The function of {work.adapter.name} was not compared: llama.cpp evaluates no text."
            )
            return notes
        adapted, plain = _under_peft(work, got, home)
    found, effect = (same_function.compare(wanted, got).relative for wanted in (adapted, plain))
    rounding = same_function.limit(read_config(path))
    if found > max(rounding, min(_MOST, _OF_EFFECT * effect)):
        message = (
            f"With {work.adapter} llama.cpp's logits are {found:.1%} off peft's, of which it changes {effect:.1%}."
        )
        hint = "Take --outtype f32, or merge it into its base: ggufkit convert BASE --lora ADAPTER."
        raise CheckpointError(message, hint=hint)
    kld, without = (
        same_function.divergence(adapted, logits)
        for logits in (got.log_probs, same_function.log_probs(plain.astype("float64")))
    )
    return replace(notes, logit_difference=found, logit_effect=effect, kld=kld, kld_base=without)


def _base(work: _Work, home: Path) -> Path:
    """The base as a GGUF in F32, beside other scratch."""
    quiet = replace(
        work.session, workspace=Workspace(home / "base"), reporter=SilentReporter(), force=False, explain=False
    )
    options = ConvertOptions("f32", allow_token_mismatch=True, allow_losses=True, check_function=False,
                             force_toolchain=work.options.force_toolchain)  # fmt: skip
    return convert.convert(work.checkpoint, home / "base" / "base-F32.gguf", options, quiet).path


def _under_peft(work: _Work, got: SavedLogits, home: Path) -> NDArray[np.float32]:
    """Logits under peft of the very tokens that llama.cpp had: with the adapter, and without."""
    import numpy as np

    tokens, output = home / "tokens.json", home / "peft.npy"
    tokens.write_text(json.dumps(got.tokens), encoding="utf-8")
    command: list[str | Path] = [sys.executable, "-m", "ggufkit.models.peft_logits"]
    command += [work.checkpoint.path, work.adapter, tokens, output]
    log = work.session.workspace.log(f"lora-{work.adapter.resolve().name}-peft")
    run = process.run(command, surroundings=Surroundings(offload.environment()), log=log)
    if run.returncode != 0 or not output.is_file():
        raise failures.explain(run, f"evaluating {work.adapter} under peft")
    both: NDArray[np.float32] = np.load(output)
    return both
