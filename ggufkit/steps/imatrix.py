"""Step: importance matrix of a GGUF from calibration text, by llama-imatrix; and a check of a user's own."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from ggufkit.core import failures, process
from ggufkit.core.errors import CorpusError, GgufError, InputError, ToolOutputError
from ggufkit.core.manifest import Notes, Params
from ggufkit.core.part_names import stem_of
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.progress import OneOfMany, Reporter
from ggufkit.core.records import GgufFile, Json
from ggufkit.llama import argv, evaluates, logs, mtp
from ggufkit.llama.argv import Compute, EarlierRun, Excerpt
from ggufkit.llama.gguf import GgufHeader, read_header
from ggufkit.llama.progress_lines import chunks_collected, chunks_found, ended_tokenizing, is_computing
from ggufkit.steps import expert_coverage, imatrix_output, imatrix_parts, offload
from ggufkit.steps.imatrix_parts import Pace, Part, Sums
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result
from ggufkit.texts.calibration import Sampling
from ggufkit.texts.corpus import Corpus

STEP, VERSION = "imatrix", 1
VAIN, WITHOUT = "llama-imatrix computes no importance matrix of it", "Quantize it without a matrix."
"""What is said of encoders."""
_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_EXPERTS, _MAX_NAME, _MAX_VALUES = 1 << 16, 1 << 12, 1 << 26
_BLOCK = 1 << 18
"""Values that are looked at at once."""
_ANEW = "Compute it again with `ggufkit imatrix`, on other text, or quantize without a matrix."
# llama-quantize leaves convolutions as they are, and no matrix can have data for them.
_COLLECTED = re.compile(r"blk\.\d+\.(?!ssm_conv1d)\w+\.weight$")


@dataclass(frozen=True)
class ImatrixParams(Params):
    """What decides an importance matrix besides its inputs; `text` is the name of the calibration text's file.

    `special` is missing where the text is plain: see `Corpus`; `process_output` where the output matrix is left out.
    """

    n_ctx: int = 512
    n_chunks: int | None = None
    text: str = ""
    backend: str = "cpu"
    special: bool = False
    process_output: bool = False

    def to_params(self) -> dict[str, Json]:
        """What is there of it."""
        rare = ("special", "process_output")
        return {key: value for key, value in super().to_params().items() if key not in rare or value}


@dataclass(frozen=True)
class ImatrixNotes(Notes):
    """What is known of an importance matrix: tensors without data, its text as the user named it, what experts saw."""

    missing: Sequence[str] = ()
    calibration_source: str = ""
    experts: str | None = None

    def to_notes(self) -> dict[str, Json]:
        """What is there of it."""
        return {key: value for key, value in super().to_notes().items() if value is not None}


@dataclass(frozen=True)
class ImatrixOptions:
    """How much text: chunks of `n_ctx` tokens from its start.

    Args:
        process_output: the output matrix has data, too. llama-imatrix knows it by its own name alone; for an embedding
            that is the output as well, it is given a copy of the model in which that is there twice.
    """

    n_ctx: int = 512
    n_chunks: int = Sampling.samples
    ngl: int | None = None
    process_output: bool = False


@dataclass(frozen=True)
class Entry:
    """What an importance matrix knows of one tensor: its columns, and how many tokens each matrix of it saw."""

    n_columns: int
    counts: tuple[float, ...]

    @property
    def unseen(self) -> int:
        """Matrices (experts) that no token reached; llama-quantize weighs their columns evenly."""
        return sum(count == 0 for count in self.counts)


def make_imatrix(base: GgufFile, text: Corpus, output: Path, options: ImatrixOptions, session: Session) -> Result:
    """Compute the importance matrix of `base` on `text` unless that is done already.

    Raises:
        CorpusError: the text has too few tokens.
        ToolError: llama-imatrix failed.
    """
    evaluates.require_generates(base.path, VAIN, WITHOUT)
    params = ImatrixParams(
        options.n_ctx,
        options.n_chunks,
        text.path.name,
        session.tools.backend,
        text.special,
        options.process_output,
    )
    inputs = {"base": str(base.sha256), "calibration": text.sha256}
    reads = (base.as_input(), text.as_input())
    recipe = Recipe(STEP, VERSION, inputs, params.to_params(), session.tools.identity, reads)
    sums = Sums(session.workspace.private, output.name, recipe.key)
    if session.force:
        sums.remove()
    made = session.ensure(
        recipe,
        output,
        lambda partial: _make(base, text, partial, options, session, sums),
        work=session.work("imatrix", base.n_params * options.n_ctx * options.n_chunks),
    )
    sums.remove()
    return made


def _make(
    base: GgufFile, text: Corpus, partial: Path, options: ImatrixOptions, session: Session, sums: Sums
) -> Made:
    with imatrix_output.named(base, session) if options.process_output else nullcontext(base) as source:
        runs = _collect(source, text, partial, options, session, sums)
    if partial.is_file() and options.process_output:
        imatrix_output.rename(partial, base)
    if not partial.is_file():
        raise failures.explain(
            runs[-1], f"computing the importance matrix of {base.path.name}", "it wrote no file"
        )
    missing = require_fits(partial, read_header(base.path))
    experts = expert_coverage.told({n: e.counts for n, e in read_imatrix(partial).items()}, session.reporter)
    name_missing([name for name in missing if not experts or not name.endswith("experts)")], session.reporter)
    return Made(runs, ImatrixNotes(missing, text.name, experts).to_notes())


def _collect(
    base: GgufFile, text: Corpus, partial: Path, options: ImatrixOptions, session: Session, sums: Sums
) -> list[ToolOutput]:
    """Write the matrix of the text's first chunks, part by part where that takes long."""
    total, (done, _) = options.n_chunks, sums.latest()
    if done:
        session.reporter.info(f"{base.path.name}: {done} of {total} chunks are done already.")
    gpu = session.tools.backend != "cpu"
    pace: Pace | None = imatrix_parts.guess(read_header(base.path), options.n_ctx, session.threads, gpu=gpu)
    runs: list[ToolOutput] = []
    while True:
        done, before = sums.latest()
        n_chunks = imatrix_parts.next_part(done, total, options.n_ctx, pace) if pace is not None else total - done
        run, measured = _run_part(base, text, partial, options, session, Part(done, n_chunks, before))
        runs.append(run)
        if _found_too_little(run):
            sums.step_back()  # the one or two chunks that are left of the text go with the part before
            pace = None
            continue
        done += n_chunks
        if done >= total or _counted(run) < n_chunks:
            return runs
        sums.keep(partial, done)
        pace = measured


def _found_too_little(run: ToolOutput) -> bool:
    """Whether the tool ended because (what is left of) the text has less than two chunks.

    Between tokenizing and computing there is no other reason, and under load the line that says so gets lost.
    """
    return run.returncode > 0 and ended_tokenizing(run.text)


def _counted(run: ToolOutput) -> int:
    """How many chunks the tool found in the text, of those it was asked for."""
    found = chunks_found(run.text)
    if found is None:
        raise ToolOutputError("llama-imatrix did not say how many chunks it took.", log=run.log)
    return found


def _run_part(
    base: GgufFile, text: Corpus, partial: Path, options: ImatrixOptions, session: Session, part: Part
) -> tuple[ToolOutput, Pace]:
    # The tool writes the text's path into its result, and llama-quantize copies it: a bare name is enough.
    excerpt = Excerpt(Path(text.path.name), options.n_ctx, part.n_chunks, text.special)
    earlier = None
    if part.sums is not None:
        session.workspace.scratch.mkdir(parents=True, exist_ok=True)
        sums = imatrix_parts.nameless(part.sums, session.workspace.scratch.resolve() / "imatrix.sums")
        earlier = EarlierRun(part.after, sums)

    def run_with(ngl: int | None) -> tuple[ToolOutput, Pace]:
        compute = Compute(session.tools.backend, ngl, session.threads)
        files = (base.path.resolve(), partial.resolve())
        command = argv.imatrix(session.tools, *files, excerpt, compute, earlier)
        command += [*evaluates.overrides(base.path), *(["--process-output"] if options.process_output else [])]
        return _run(command, base, text, options, session, part)

    try:
        return offload.with_fewer(run_with, options.ngl, base, session)
    finally:
        if earlier is not None:
            earlier.sums.unlink()


def _run(
    command: Sequence[str], base: GgufFile, text: Corpus, options: ImatrixOptions, session: Session, part: Part
) -> tuple[ToolOutput, Pace]:
    title, log = f"Importance matrix of {base.path.name}", f"imatrix-{stem_of(base.path)}"
    if part.n_chunks < options.n_chunks:
        title += f", chunks {part.after + 1} to {part.after + part.n_chunks} of {options.n_chunks}"
        log += f"-{part.after + 1}"
    begun = time.monotonic()
    computing = list[float]()
    with session.reporter.step(title) as progress:

        def watch(_stream: str, printed: str) -> None:
            if is_computing(printed):
                computing.append(time.monotonic())
            if (collected := chunks_collected(printed)) is not None:
                progress.update(collected, options.n_chunks, "chunks")

        beside_text = Surroundings(offload.environment(), text.path.resolve().parent)
        run = process.run(command, surroundings=beside_text, log=session.workspace.log(log), on_text=watch)
        if _found_too_little(run) and part.sums is None:
            reason = logs.explain_missing(run.text)
            hint = "Give a longer text with --calibration."
            raise CorpusError(f"The calibration text {text.path} is too short: {reason}", hint=hint, log=run.log)
        if not _found_too_little(run):
            failures.require_success(run, f"computing the importance matrix of {base.path.name}")
    load_s = min(computing[0] - begun, run.duration_s) if computing else 0.0
    return run, Pace((run.duration_s - load_s) / part.n_chunks, load_s)


def name_missing(missing: Sequence[str], reporter: Reporter) -> None:
    """Say which tensors a matrix has no data for."""
    if missing:
        shown = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        about = f"{len(missing)} tensors: {shown}"
        reporter.warn(OneOfMany("The importance matrix has no data for {}.", about))


def require_fits(path: Path, base: GgufHeader) -> tuple[str, ...]:
    """Check that an importance matrix belongs to a model.

    Returns:
        The tensors without data: those it lacks, and those with experts that no token reached. Layers that no text runs
        through are none of them.

    Raises:
        InputError: it is not an importance matrix, or names or sizes do not fit.
    """
    entries = read_imatrix(path)
    hint = "It was made from another model: compute it again with `ggufkit imatrix`."
    for name, entry in entries.items():
        tensor = base.by_name.get(name)
        if tensor is None:
            raise InputError(f"The importance matrix {path} has {name}, which {base.path} lacks.", hint=hint)
        all_experts = tensor.shape[0] * prod(tensor.shape[2:])  # the older format has them in one row
        if entry.n_columns not in (tensor.shape[0], all_experts):
            sizes = f"{entry.n_columns} columns where the model has {tensor.shape[0]}"
            raise InputError(
                f"The importance matrix {path} does not fit {base.path}: {name} has {sizes}.", hint=hint
            )
    never = mtp.tensors(base)
    wanted = [t for t in base.tensors if len(t.shape) > 1 and _COLLECTED.match(t.name)]
    lacking = [t.name for t in wanted if t.name not in entries and t.name not in never]
    return tuple(
        lacking + [f"{n} ({e.unseen} of {len(e.counts)} experts)" for n, e in entries.items() if e.unseen]
    )


def read_imatrix(path: Path) -> Mapping[str, Entry]:
    """Read what an importance matrix covers, in llama.cpp's GGUF format or its older one.

    Raises:
        InputError: it is neither.
    """
    if not path.is_file():
        raise InputError(f"The importance matrix {path} is not there.", hint="Compute it with `ggufkit imatrix`.")
    with path.open("rb") as file:
        magic = file.read(4)
    try:
        entries = dict(_gguf_entries(path) if magic == b"GGUF" else _legacy_entries(path))
    except (GgufError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} is not an importance matrix: {str(error).rstrip('.')}.", hint=_ANEW) from error
    if not entries:
        raise InputError(f"{path} is not an importance matrix: it holds no sums of squares.", hint=_ANEW)
    return entries


def _gguf_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    header = read_header(path)
    with path.open("rb") as file:
        for tensor in header.tensors:
            if tensor.name.endswith(_SUMS):
                name = tensor.name.removesuffix(_SUMS)
                counts = header.by_name.get(name + _COUNTS)
                if counts is None or {tensor.type, counts.type} != {"F32"} or counts.n_elements > _MAX_EXPERTS:
                    raise ValueError(f"{name} has no counts")
                file.seek(counts.offset)
                values = struct.unpack(f"<{counts.n_elements}f", file.read(4 * counts.n_elements))
                file.seek(tensor.offset)
                _require_sums(name, file, tensor.n_elements, values)
                yield name, Entry(next(iter(tensor.shape), 1), values)


def _legacy_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """The format before GGUF: counted entries of name, number of calls and values; several experts in one row."""
    size = path.stat().st_size
    with path.open("rb") as file:
        count = _int(file)
        if not 0 < count < 100_000:
            raise ValueError(f"it claims {count} entries")
        for _ in range(count):
            name = file.read(_length(file, _MAX_NAME)).decode()
            n_calls, n_values = _int(file), _length(file, size // 4)
            if file.tell() + 4 * n_values > size:
                raise ValueError("it is truncated")
            counts = (float(n_calls),)
            _require_sums(name, file, n_values, counts)
            yield name, Entry(n_values, counts)


def _require_sums(name: str, file: BinaryIO, n_values: int, counts: Sequence[float]) -> None:
    """Raise ValueError where one of the next values is no sum of squares: llama-quantize takes a negative one as it is.

    The values are a row for each count. By a row of zeros that tokens were counted for, llama-quantize makes zeros of
    all weights, and says nothing.
    """
    import numpy as np

    if n_values > _MAX_VALUES:
        raise ValueError(f"{name} claims {n_values:,} values")
    n_rows = len(counts) if counts and n_values % len(counts) == 0 else 1
    for used in [count > 0 for count in counts] if n_rows == len(counts) else [False]:
        is_zero = True
        for n_before in range(0, n_values // n_rows, _BLOCK):
            n_more = min(_BLOCK, n_values // n_rows - n_before)
            values = np.frombuffer(file.read(4 * n_more), "<f4")
            if not ((values >= 0) & np.isfinite(values)).all():
                raise ValueError(f"{name} holds values that are negative, NaN or infinite")
            is_zero &= not values.any()
        if used and is_zero:
            raise ValueError(f"{name} holds zeros alone, which would make zeros of its weights")


def _int(file: BinaryIO) -> int:
    (value,) = struct.unpack("<i", file.read(4))
    return int(value)


def _length(file: BinaryIO, most: int) -> int:
    value = _int(file)
    if not 0 < value <= most:
        raise ValueError(f"it claims a length of {value}")
    return value
