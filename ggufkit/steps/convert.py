"""Step: Hugging Face checkpoint -> one high-precision GGUF, by llama.cpp's own converter."""

from __future__ import annotations

import json
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core import extras, failures, process
from ggufkit.core.concurrency import run_both
from ggufkit.core.errors import CheckpointError, GgufError
from ggufkit.core.inputs import Input
from ggufkit.core.jsonfile import read_json
from ggufkit.core.manifest import PARTIAL, Params
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import Checkpoint, Json
from ggufkit.llama import argv, launcher, toolchain, vocab
from ggufkit.llama.gguf import GgufHeader, read_gguf, read_header
from ggufkit.llama.progress_lines import percent_written
from ggufkit.models import token_ids
from ggufkit.models.checkpoint import files_of, fingerprint, scan_weights
from ggufkit.models.token_ids import TokenComparison
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result, settle

STEP, VERSION = "convert", 1
_CHECKPOINT = "checkpoint"
_F16_MAX = 65504.0
_LONG = 8 << 30


@dataclass(frozen=True)
class ConvertParams(Params):
    """What decides a converted file besides the checkpoint."""

    out_type: str = ""
    name: str = ""
    pre: str | None = None


@dataclass(frozen=True)
class ConvertNotes(GgufNotes):
    """What is known of a converted file.

    Args:
        source, revision: of the checkpoint: a path, or a hub's id and commit.
        token_strings, token_mismatches: strings that both tokenizers were tried on, and those where they differ; None
            where the checkpoint has no tokenizer to compare with.
    """

    source: str = ""
    revision: str | None = None
    token_strings: int | None = None
    token_mismatches: int | None = None

    def to_notes(self) -> dict[str, Json]:
        """Without what was not compared."""
        notes = super().to_notes()
        return {key: value for key, value in notes.items() if value is not None or not key.startswith("token_")}


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    Args:
        out_type: f32, f16 or bf16.
        pre: llama.cpp's name of the BPE pre-tokenizer, instead of what is found out.
        variant: what the checkpoint is: "plain", or "awq" when scales were folded into it.
    """

    out_type: str = "f16"
    pre: str | None = None
    allow_token_mismatch: bool = False
    force_toolchain: bool = False
    variant: str = "plain"


def convert(checkpoint: Checkpoint, output: Path, options: ConvertOptions, session: Session) -> Result:
    """Convert a checkpoint to `output` unless that is done already.

    Raises:
        CheckpointError: NaN or Inf weights, or weights beyond the range of F16.
        UnsupportedArchitecture, TokenizerError: the converter cannot, or would get the tokenizer wrong.
        ToolError: the converter failed.
    """
    if checkpoint.tensor_bytes >= _LONG and not output.exists():
        _rehearse(checkpoint, options, session)
    params = ConvertParams(options.out_type, checkpoint.name, options.pre)
    # Whether a result is fresh depends on the checkpoint; where there is none, that is hashed while it is converted.
    inputs = {_CHECKPOINT: fingerprint(checkpoint.path, session.reporter)} if output.exists() else {}
    recipe = Recipe(STEP, VERSION, inputs, params.to_params(), session.tools.identity)
    return session.ensure(recipe, output, lambda partial: _convert(checkpoint, partial, options, session))


def _converter(options: ConvertOptions, session: Session) -> Path:
    """llama.cpp's converter. Raises MissingExtra where it lacks what it imports."""
    extras.require("convert")
    return toolchain.converter_source(session.tools, session.reporter, force=options.force_toolchain)


def skeleton(checkpoint: Checkpoint, output: Path, options: ConvertOptions, session: Session) -> Path:
    """Write a GGUF with everything but the weights, which are a hole in the file: enough for a dry run."""
    source = _converter(options, session)
    command = argv.convert(source, checkpoint.path, output, options.out_type, checkpoint.name, pre=options.pre)
    with session.reporter.step(f"Planning {checkpoint.name}"):
        require_converted(process.run([*command, "--skeleton"]), output)
    return output


def _rehearse(checkpoint: Checkpoint, options: ConvertOptions, session: Session) -> None:
    """Find out in seconds, and not after an hour, that the converter or the tokenizer is not up to it."""
    source = _converter(options, session)
    quiet = replace(session, reporter=SilentReporter())
    with (
        session.reporter.step(f"Trying the conversion of {checkpoint.name} without its weights"),
        tempfile.TemporaryDirectory(prefix="ggufkit-try-") as temporary,
    ):
        empty = Path(temporary) / "empty.gguf"
        require_converted(process.run([*_command(checkpoint, empty, options, quiet, source), "--skeleton"]), empty)
        _compare_tokens(checkpoint, empty, options, quiet, source)


def _convert(checkpoint: Checkpoint, partial: Path, options: ConvertOptions, session: Session) -> Made:
    source = _converter(options, session)
    run, sha256 = _read_and_convert(checkpoint, partial, options, session, source)
    made = read_gguf(partial)
    if made.type != options.out_type.upper():
        raise GgufError(f"The converter wrote {made.type} where {options.out_type.upper()} was asked for.")
    _require_layers(checkpoint, read_header(partial))
    tokens, _ = run_both(
        lambda _: _compare_tokens(checkpoint, partial, options, session, source),
        lambda stop: settle(partial, stop),
    )
    notes = ConvertNotes(checkpoint.name, options.variant, made.type, checkpoint.source, checkpoint.revision)
    if tokens is not None:
        notes = replace(notes, token_strings=tokens.n_strings, token_mismatches=tokens.n_mismatches)
    return Made([run], notes.to_notes(), {_CHECKPOINT: sha256})


def _require_layers(checkpoint: Checkpoint, made: GgufHeader) -> None:
    """The converter takes what there is. Only where layers differ from each other may one be without tensors.

    Raises:
        CheckpointError: a layer that the configuration has is not there.
    """
    if isinstance(made.metadata.get(f"{made.architecture}.attention.head_count"), list):
        return
    there = {tensor.name.split(".")[1] for tensor in made.tensors if tensor.name.startswith("blk.")}
    missing = [i for i in range(made.hparam("block_count")) if str(i) not in there]
    if missing:
        shown = ", ".join(map(str, missing[:4])) + (" …" if len(missing) > 4 else "")
        message = f"{checkpoint.path} has no weights for layers that its config.json has: {shown}."
        raise CheckpointError(
            message, hint="A shard is missing, or config.json is another model's: download it again."
        )


def _read_and_convert(
    checkpoint: Checkpoint,
    partial: Path,
    options: ConvertOptions,
    session: Session,
    source: Path,
) -> tuple[ToolOutput, str]:
    """Run the converter; the weights are checked and hashed beside it.

    Returns:
        What the converter printed, and the checkpoint's hash.

    Raises:
        CheckpointError: the checkpoint cannot be read, or somebody changed it meanwhile.
    """
    before = Input(checkpoint.path, "", files_of).state

    def read(stop: threading.Event) -> str:
        try:
            _check_weights(checkpoint, options.out_type, session.reporter, stop)
            return fingerprint(checkpoint.path, session.reporter, stop)
        except OSError as error:
            raise CheckpointError(f"{checkpoint.path} cannot be read: {error}.", hint="Is it complete?") from error

    run, sha256 = run_both(lambda stop: _run_converter(checkpoint, partial, options, session, source, stop), read)
    if not Input(checkpoint.path, sha256, files_of).is_as(before):
        raise CheckpointError(f"{checkpoint.path} changed while it was converted.", hint="Repeat the command.")
    return run, sha256


def _check_weights(checkpoint: Checkpoint, out_type: str, reporter: Reporter, stop: threading.Event) -> None:
    with reporter.step(f"Checking the weights of {checkpoint.name}") as progress:
        widest = scan_weights(checkpoint.path, progress, stop)
    if out_type == "f16" and widest.largest > _F16_MAX:
        raise CheckpointError(
            f"{widest.tensor} holds {widest.largest:.3g}, which F16 cannot: it would become infinite.",
            hint="Use --base-type bf16.",
        )


def _run_converter(
    checkpoint: Checkpoint,
    partial: Path,
    options: ConvertOptions,
    session: Session,
    source: Path,
    cancel: threading.Event,
) -> ToolOutput:
    command = _command(checkpoint, partial, options, session, source)
    with session.reporter.step(f"Converting {checkpoint.name} to {options.out_type.upper()}", 100) as progress:

        def watch(_stream: str, text: str) -> None:
            if (percent := percent_written(text)) is not None:
                progress.update(percent, 100, "% written")

        log = session.workspace.log(f"convert-{partial.name.removesuffix('.gguf' + PARTIAL)}")
        output = process.run(command, log=log, on_text=watch, cancel=cancel)
        require_converted(output, partial)
    return output


def _command(
    checkpoint: Checkpoint, output: Path, options: ConvertOptions, session: Session, source: Path
) -> list[str]:
    """The converter's command, which leaves the original's tokens of some strings beside the file."""
    probes, ids = _probe_files(session)
    probes.parent.mkdir(parents=True, exist_ok=True)
    probes.write_text(json.dumps(token_ids.probes_for(checkpoint.path)), encoding="utf-8")
    command = argv.convert(source, checkpoint.path, output, options.out_type, checkpoint.name, pre=options.pre)
    if token_ids.has_tokenizer(checkpoint.path):
        command += ["--probes", str(probes), "--ids", str(ids)]
    return command


def require_converted(output: ToolOutput, result: Path) -> None:
    """Judge the converter by what it left behind; errors that the launcher explained are raised as they are."""
    if (error := launcher.error_in(output)) is not None:
        raise error
    if output.returncode != 0 or not result.is_file():
        raise failures.explain(output, "converting", None if output.returncode else "it wrote no file")


def _probe_files(session: Session) -> tuple[Path, Path]:
    return session.workspace.scratch / "probes.json", session.workspace.scratch / "ids.json"


def _compare_tokens(
    checkpoint: Checkpoint, partial: Path, options: ConvertOptions, session: Session, source: Path
) -> TokenComparison | None:
    probes, ids = _probe_files(session)
    if not ids.is_file():
        session.reporter.warn(f"{checkpoint.name} has no tokenizer file to compare the converted one with.")
        return None
    texts, original = read_json(probes, list[str]), read_json(ids, list[list[int]])
    converted = vocab.tokenize(session.tools.dir, source, partial, texts, session.workspace.log("tokens"))
    result = token_ids.compare(texts, original, converted)
    if result.unnormalized:
        session.reporter.warn(
            f"llama.cpp does no Unicode normalization: {len(result.unnormalized)} of {result.n_strings} test "
            "strings that are not normalized get other tokens than in the original."
        )
    if not options.allow_token_mismatch:
        token_ids.require_equal(result, checkpoint.path)
    for file in (probes, ids):
        file.unlink()
    return result
