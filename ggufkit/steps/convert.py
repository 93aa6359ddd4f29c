"""Step: Hugging Face checkpoint -> one high-precision GGUF, by llama.cpp's own converter."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import extras, failures, process
from ggufkit.core.concurrency import run_both
from ggufkit.core.errors import CheckpointError, GgufError
from ggufkit.core.expected import timed
from ggufkit.core.inputs import Input
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import PARTIAL, Params, read_manifest
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Checkpoint, Json
from ggufkit.llama import argv, cuda, launcher, losses, pretokenizers, reference, toolchain, vocab
from ggufkit.llama.argv import Conversion, Quantization
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.llama.mmproj import AUTO
from ggufkit.llama.progress_lines import percent_written
from ggufkit.models import mtp, token_ids
from ggufkit.models.agreement import ids_of_images, require_agreement
from ggufkit.models.checkpoint import read_config, scan_weights, stored_tensors
from ggufkit.models.files import files_of, fingerprint
from ggufkit.models.token_ids import TokenComparison
from ggufkit.steps import division, function_check, load_check, offload, whole
from ggufkit.steps.function_check import Compared
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, settle

STEP, VERSION = "convert", 1
_CHECKPOINT = "checkpoint"
_F16_MAX = 65504.0
_LONG = 8 << 30
_SELDOM = (
    "quantized",
    "token_strings",
    "token_mismatches",
    "logit_difference",
    "allow_token_mismatch",
    "allow_losses",
    "check_function",
    "mmproj",
)
"""Notes that are left out where there is nothing to say."""


@dataclass(frozen=True)
class ConvertParams(Params):
    """What decides a converted file besides the checkpoint."""

    out_type: str = ""
    name: str = ""
    pre: str | None = None
    mtp: bool | None = None

    def to_params(self) -> dict[str, Json]:
        """What goes into the step's recipe; whether MTP layers are left out, where somebody wished it."""
        return {key: value for key, value in super().to_params().items() if key != "mtp" or value is not None}


@dataclass(frozen=True)
class ConvertNotes(GgufNotes):
    """What is known of a converted file.

    Args:
        source, revision: of the checkpoint: a path, or a hub's id and commit.
        token_strings, token_mismatches: strings that both tokenizers were tried on, and those where they differ; None
            where the checkpoint has no tokenizer to compare with.
        logit_difference: of the file from the checkpoint under transformers, relative; None where it was not compared.
        allow_token_mismatch, allow_losses, check_function, mmproj: as in `ConvertOptions`; None where nobody asked for it.
        quantized: what numbers the checkpoint holds, or held before it was made one of floats; None for floats.
    """

    source: str = ""
    revision: str | None = None
    token_strings: int | None = None
    token_mismatches: int | None = None
    logit_difference: float | None = None
    allow_token_mismatch: bool | None = None
    allow_losses: bool | None = None
    check_function: bool | None = None
    mmproj: str | None = None
    quantized: str | None = None

    def to_notes(self) -> dict[str, Json]:
        """Without what was not compared and not asked for."""
        notes = super().to_notes()
        return {key: value for key, value in notes.items() if value is not None or key not in _SELDOM}


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    Args:
        out_type: f32, f16 or bf16.
        pre: llama.cpp's name of the BPE pre-tokenizer, instead of what is found out.
        allow_losses: accept what the converter leaves out.
        check_function: compare the logits with those of the checkpoint; None where the model is small.
        mtp: whether the layers that predict further tokens are in the file: True if they must be, False if not; None for
            those that the checkpoint has and the converter knows.
        variant: what the checkpoint is: "plain", or "awq" when scales were folded into it.
        mmproj: the type of what reads images or sound, a file of its own: "auto" is F16 where there is such, "none" none.
    """

    out_type: str = "f16"
    pre: str | None = None
    allow_token_mismatch: bool = False
    allow_losses: bool = False
    check_function: bool | None = None
    mtp: bool | None = None
    force_toolchain: bool = False
    variant: str = "plain"
    mmproj: str = AUTO


@dataclass(frozen=True)
class _Conversion:
    """One conversion at work: what is converted by the converter in `source`, and how."""

    checkpoint: Checkpoint
    options: ConvertOptions
    session: Session
    source: Path

    @property
    def probes(self) -> Path:
        """Strings that both tokenizers are tried on."""
        return self.session.workspace.scratch / "probes.json"

    @property
    def ids(self) -> Path:
        """The original's tokens of these strings."""
        return self.session.workspace.scratch / "ids.json"

    @property
    def logits(self) -> Path:
        """What the checkpoint predicts under transformers."""
        return self.session.workspace.scratch / "reference.npy"


def convert(checkpoint: Checkpoint, output: Path, options: ConvertOptions, session: Session) -> Result:
    """Convert a checkpoint to `output` unless that is done already.

    Raises:
        CheckpointError: NaN or Inf weights, or weights beyond the range of F16.
        UnsupportedArchitecture, TokenizerError: the converter cannot, or would get the tokenizer wrong.
        ToolError: the converter failed.
    """
    output = division.there(output)
    if checkpoint.tensor_bytes >= _LONG and not output.exists():
        _rehearse(checkpoint, options, session)
    params = ConvertParams(options.out_type, checkpoint.name, options.pre, False if options.mtp is False else None)
    # Whether a result is fresh depends on the checkpoint; where there is none, that is hashed while it is converted.
    inputs = {_CHECKPOINT: fingerprint(checkpoint.path, session.reporter)} if output.exists() else {}
    recipe = Recipe(STEP, VERSION, inputs, params.to_params(), session.tools.identity)
    made = read_manifest(output) if options.check_function else None
    unknown = made is not None and ConvertNotes.from_manifest(made).logit_difference is None
    result = session.ensure(
        recipe,
        output,
        lambda partial: _convert(_begin(checkpoint, options, session), partial),
        force=unknown,
        why="its function was not compared",
        work=session.work("convert", checkpoint.n_params),
    )
    whole.require_mtp(checkpoint, read_header(result.path), options.mtp)
    return result


def _begin(checkpoint: Checkpoint, options: ConvertOptions, session: Session) -> _Conversion:
    session.workspace.scratch.mkdir(parents=True, exist_ok=True)
    return _Conversion(checkpoint, options, session, _converter_source(options, session))


def _converter_source(options: ConvertOptions, session: Session) -> Path:
    """llama.cpp's converter. Raises MissingExtra where it lacks what it imports."""
    extras.require("convert")
    return toolchain.converter_source(session.tools, session.reporter, force=options.force_toolchain)


def skeleton(checkpoint: Checkpoint, output: Path, options: ConvertOptions, session: Session) -> Path:
    """Write a GGUF with everything but the weights, which are a hole in the file: enough for a dry run."""
    source = _converter_source(options, session)
    command = argv.convert(source, checkpoint.path, output, _how(checkpoint, options))
    with timed(session.reporter, f"Planning {checkpoint.name}", session.work("plan", checkpoint.n_params)):
        require_converted(
            process.run([*_with_shapes(command, checkpoint, options, output.parent), "--skeleton"]), output
        )
    whole.require_mtp(checkpoint, read_header(output), options.mtp)
    return output


def _rehearse(checkpoint: Checkpoint, options: ConvertOptions, session: Session) -> None:
    """Find out in seconds, and not after an hour, that the converter or the tokenizer is not up to it."""
    trial = _begin(checkpoint, options, replace(session, reporter=SilentReporter()))
    with (
        timed(
            session.reporter,
            f"Trying the conversion of {checkpoint.name} without its weights",
            session.work("try", checkpoint.n_params),
        ),
        tempfile.TemporaryDirectory(prefix="ggufkit-try-") as temporary,
    ):
        empty = Path(temporary) / "empty.gguf"
        require_converted(process.run([*_command(trial, empty), "--skeleton"]), empty)
        _compare_tokens(trial, empty)


def _convert(work: _Conversion, partial: Path) -> Made:
    checkpoint, options, session = work.checkpoint, work.options, work.session
    compared = function_check.is_wanted(checkpoint, options.check_function, session)
    run, sha256 = _read_and_convert(work, partial, [f"--logits={work.logits}"] if compared else [])
    made = read_gguf(partial)
    if made.type != options.out_type.upper():
        raise GgufError(f"The converter wrote {made.type} where {options.out_type.upper()} was asked for.")
    whole.require_layers(checkpoint, read_header(partial))
    whole.require_mtp(checkpoint, read_header(partial), options.mtp)
    whole.tell_of_mtp(checkpoint, read_header(partial), session.reporter, wanted=options.mtp is not False)
    said = losses.losses(run.stderr, unneeded=ids_of_images(checkpoint.path))
    whole.refuse_losses(checkpoint, read_header(partial), said, session.reporter, accepted=options.allow_losses)
    difference, tokens = run_both(
        lambda stop: _check(work, partial, stop, compared=compared), lambda stop: _settle(work, partial, stop)
    )
    notes = ConvertNotes(
        checkpoint.name,
        options.variant,
        made.type,
        checkpoint.source,
        checkpoint.revision,
        quantized=checkpoint.quantized,
        logit_difference=difference,
        allow_token_mismatch=options.allow_token_mismatch or None,
        allow_losses=options.allow_losses or None,
        check_function=options.check_function,
        mmproj=None if options.mmproj == AUTO else options.mmproj,
    )
    if tokens is not None:
        notes = replace(notes, token_strings=tokens.n_strings, token_mismatches=tokens.n_mismatches)
    return Made([run], notes.to_notes(), {_CHECKPOINT: sha256})


def _settle(work: _Conversion, partial: Path, stop: threading.Event) -> TokenComparison | None:
    tokens = _compare_tokens(work, partial)
    settle(partial, stop)
    return tokens


def _check(work: _Conversion, partial: Path, stop: threading.Event, *, compared: bool) -> float | None:
    """Require that llama.cpp computes with the file, and what the checkpoint computes; return how far it is off."""
    if not compared:
        load_check.require_computes(partial, work.session, stop)
        return None
    pair = Compared(work.checkpoint, partial, work.logits, lambda file, end: _widen(work, partial, file, end))
    try:
        found = function_check.compare(pair, work.session, stop)
    finally:
        reference.remove(work.logits)
    if found.why_not is not None:
        work.session.reporter.warn(
            f"The function of {work.checkpoint.name} was not compared with transformers': {found.why_not}."
        )
    return found.difference


def _widen(work: _Conversion, converted: Path, output: Path, stop: threading.Event) -> None:
    """Write what was converted in F32: from the file where that holds the weights as they are, else once more."""
    held = {"f16": {"F16", "BF16"}, "bf16": {"BF16"}, "f32": {"F32", "F16", "BF16"}}[work.options.out_type]
    doing, session = f"writing {output.name}", work.session
    if {t.dtype for t in stored_tensors(work.checkpoint.path)} <= held:
        wide = argv.quantize(session.tools, Quantization(converted, "F32"), output, session.threads)
        failures.require_success(process.run(wide, surroundings=cuda.HIDDEN, cancel=stop), doing)
        return
    anew = replace(work, options=replace(work.options, out_type="f32"))
    require_converted(process.run(_converter(anew, output), cancel=stop), output)


def _read_and_convert(work: _Conversion, partial: Path, more: Sequence[str]) -> tuple[ToolOutput, str]:
    """Run the converter; the weights are checked and hashed beside it.

    Returns:
        What the converter printed, and the checkpoint's hash.

    Raises:
        CheckpointError: the checkpoint cannot be read, or somebody changed it meanwhile.
    """
    before, reporter = Input(work.checkpoint.path, "", files_of).state, work.session.reporter

    def read(stop: threading.Event) -> str:
        try:
            _check_weights(work.checkpoint, work.options.out_type, reporter, stop)
            return fingerprint(work.checkpoint.path, reporter, stop)
        except OSError as error:
            raise CheckpointError(
                f"{work.checkpoint.path} cannot be read: {error}.", hint="Is it complete?"
            ) from error

    run, sha256 = run_both(lambda stop: _run_converter(work, partial, more, stop), read)
    if not Input(work.checkpoint.path, sha256, files_of).is_as(before):
        message = f"{work.checkpoint.path} changed while it was converted."
        raise CheckpointError(message, hint="Repeat the command.")
    return run, sha256


def _check_weights(checkpoint: Checkpoint, out_type: str, reporter: Reporter, stop: threading.Event) -> None:
    with reporter.step(f"Checking the weights of {checkpoint.name}") as progress:
        widest = scan_weights(checkpoint.path, progress, stop)
    if out_type == "f16" and widest.largest > _F16_MAX:
        raise CheckpointError(
            f"{widest.tensor} holds {widest.largest:.3g}, which F16 cannot: it would become infinite.",
            hint="Use BF16: --base-type bf16 of `build`, --type bf16 of `convert`.",
        )


def _run_converter(work: _Conversion, partial: Path, more: Sequence[str], cancel: threading.Event) -> ToolOutput:
    what = f"Converting {work.checkpoint.name} to {work.options.out_type.upper()}"
    with work.session.reporter.step(what, 100) as progress:

        def watch(_stream: str, text: str) -> None:
            if (percent := percent_written(text)) is not None:
                progress.update(percent, 100, "% written")

        log = work.session.workspace.log(f"convert-{partial.name.removesuffix('.gguf' + PARTIAL)}")
        patient = Surroundings(offload.environment())
        command = [*_command(work, partial), *more]
        output = process.run(command, surroundings=patient, log=log, on_text=watch, cancel=cancel)
        require_converted(output, partial)
    return output


def _command(work: _Conversion, output: Path) -> list[str]:
    """The converter's command, which leaves the original's tokens of some strings beside the file."""
    work.probes.write_text(json.dumps(token_ids.probes_for(work.checkpoint.path)), encoding="utf-8")
    told = token_ids.has_tokenizer(work.checkpoint.path)
    more = ["--probes", str(work.probes), "--ids", str(work.ids)] if told else []
    return _with_shapes([*_converter(work, output), *more], work.checkpoint, work.options, work.probes.parent)


def _converter(work: _Conversion, output: Path) -> list[str]:
    return argv.convert(work.source, work.checkpoint.path, output, _how(work.checkpoint, work.options))


def _how(checkpoint: Checkpoint, options: ConvertOptions) -> Conversion:
    """What the converter is told. Where there are no MTP layers, config.json may still say so: then it must not look."""
    names = (tensor.name for tensor in stored_tensors(checkpoint.path))
    keeps = options.mtp is not False and mtp.are_stored(names, read_config(checkpoint.path))
    return Conversion(options.out_type, checkpoint.name, options.pre, keeps)


def _with_shapes(
    command: list[str], checkpoint: Checkpoint, options: ConvertOptions, directory: Path
) -> list[str]:
    """A command that is given the tensors' shapes, once config.json, tokenizer and weights agree as far as they tell."""
    shapes = directory / "shapes.json"
    agreed = require_agreement(checkpoint.path, allow_losses=options.allow_losses)
    shapes.write_text(json.dumps(agreed), encoding="utf-8")
    return [*command, "--shapes", str(shapes)]


def require_converted(output: ToolOutput, result: Path) -> None:
    """Judge the converter by what it left behind; errors that the launcher explained are raised as they are."""
    if (error := launcher.error_in(output)) is not None:
        raise error
    if output.returncode != 0 or not result.is_file():
        raise failures.explain(output, "converting", None if output.returncode else "it wrote no file")


def _compare_tokens(work: _Conversion, partial: Path) -> TokenComparison | None:
    checkpoint, session, probes, ids = work.checkpoint, work.session, work.probes, work.ids
    if not ids.is_file():
        session.reporter.warn(f"{checkpoint.name} has no tokenizer file to compare the converted one with.")
        return None
    texts, original = read_json(probes, list[str]), read_json(ids, list[list[int]])
    wordpiece = pretokenizers.is_wordpiece(checkpoint.path)
    log = session.workspace.log("tokens")
    converted = vocab.tokenize(session.tools.dir, work.source, partial, texts, log, special=wordpiece)
    result = token_ids.compare(texts, original, converted, wordpiece=wordpiece)
    if result.unnormalized:
        what = (
            "takes no syllables of Hangul and no vowel signs apart"
            if wordpiece
            else "does no Unicode normalization"
        )
        session.reporter.warn(
            f"llama.cpp {what}: {len(result.unnormalized)} of {result.n_strings} test "
            "strings that are not normalized get other tokens than in the original."
        )
    if not work.options.allow_token_mismatch:
        token_ids.require_equal(result, checkpoint.path, wordpiece=wordpiece)
    for file in (probes, ids):
        file.unlink()
    return result
