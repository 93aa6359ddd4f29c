"""Functions that measure, or read what was measured: perplexity, tasks, bench, compare."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.api import options
from ggufkit.api.call import Options, listening
from ggufkit.api.options import Path_
from ggufkit.api.result import Compared, Result
from ggufkit.commands import compare as comparing_files
from ggufkit.commands import measure
from ggufkit.commands import tasks as asking
from ggufkit.commands.measure import Evaluated, Measured
from ggufkit.commands.tasks import Scored, Tasks
from ggufkit.core import values
from ggufkit.core.errors import UsageError
from ggufkit.core.progress import Reporter
from ggufkit.request import EvaluationOptions
from ggufkit.steps.step import Workspace
from ggufkit.texts.tasks.questions import Drawn

if TYPE_CHECKING:
    from typing_extensions import Unpack

Paths = Path_ | Iterable[Path_]


def perplexity(
    ggufs: Paths,
    base: Path_ | None = None,
    *,
    model: str | None = None,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.PerplexityOptions],
) -> Result:
    """Measure the perplexity of GGUFs on a text, and with a base their KL divergence, as `ggufkit perplexity` does.

        >>> found = perplexity("quantized/tiny-llama-Q4_0.gguf", "tiny-llama-F16.gguf", corpus="text.txt", chunks=2)
        >>> bool((found.df["ppl"] > 1).all())
        True

    Args:
        ggufs: a file or several; with a base also checkpoints: a directory, "hf:MODEL", "hf:nf4" and "hf:int8".
        base: the F16 that they come from; its row comes first.
        model: the checkpoint that "hf:nf4" and "hf:int8" are made of, default what the base was converted from.
        out: directory for what is measured, default beside the first file.
        more: every other option, see `PerplexityOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("perplexity", options.PerplexityOptions, more)
    how = given.group(EvaluationOptions)
    files = [values.read("ggufs", values.EVALUATED, one) for one in _some("ggufs", ggufs)]
    compared = None if base is None else values.read("base", values.FILE, base)
    where = None if out is None else values.read("out", values.PATH, out)
    with listening(reporter, quiet) as listener:
        target = Evaluated(tuple(files), compared, model, where)
        return _measured(measure.perplexity(target, how, given.run, listener), listener.warnings)


def tasks(
    ggufs: Paths,
    base: Path_ | None = None,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.TasksOptions],
) -> Result:
    """Ask GGUFs questions, and with a base compare their answers with its, as `ggufkit tasks` does.

        >>> found = tasks("quantized/tiny-llama-Q4_0.gguf", "tiny-llama-F16.gguf", tasks="mine=questions.jsonl")
        >>> [name for name in found.df.columns if name.startswith("mine")]
        ['mine_acc', 'mine_acc_stderr', 'mine_flips']

    Args:
        ggufs: a file or several.
        base: the F16 that they come from; its row comes first.
        out: directory for what is measured, default beside the first file.
        more: every other option, see `TasksOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("tasks", options.TasksOptions, more)
    files, usual = _paths("ggufs", ggufs), Tasks()
    drawn = Drawn(given.read("tasks_samples", Drawn.n), given.read("seed", Drawn.seed))
    wanted = Tasks(given.read("tasks", usual.names) or usual.names, drawn)
    compared = None if base is None else values.read("base", values.FILE, base)
    where = None if out is None else values.read("out", values.PATH, out)
    with listening(reporter, quiet) as listener:
        return _measured(asking.tasks(files, compared, wanted, where, given.run, listener), listener.warnings)


def bench(
    ggufs: Paths,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.BenchOptions],
) -> Result:
    """Measure prompt-processing and generation speed of GGUFs, as `ggufkit bench` does.

        >>> found = bench("quantized/tiny-llama-Q4_0.gguf", bench_reps=1)
        >>> bool((found.df["tg_tps"] > 0).all())
        True

    Args:
        ggufs: a file or several.
        out: directory for what is measured, default beside the first file.
        more: every other option, see `BenchOptions`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("bench", options.BenchOptions, more)
    files, how = _paths("ggufs", ggufs), given.group(EvaluationOptions)
    where = None if out is None else values.read("out", values.PATH, out)
    with listening(reporter, quiet) as listener:
        return _measured(measure.bench(files, how, where, given.run, listener), listener.warnings)


def _measured(done: Measured | Scored, warnings: Iterable[str]) -> Result:
    from ggufkit.report.results import rows_of, rows_of_checkpoints

    paths = tuple(file.path for file in done.files)
    others = done.others if isinstance(done, Measured) else ()
    rows = (*rows_of(paths, Workspace(done.out)), *rows_of_checkpoints(others))
    made = sum(not one.fresh for one in (*done.results, *others))
    return Result(done.out, paths, rows, tuple(warnings), made)


def compare(
    given: Paths,
    *,
    out: Path_ | None = None,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.PerplexityOptions],
) -> Compared:
    """Lay result directories side by side, or GGUFs of one model, as `ggufkit compare` does.

        >>> compare(["built", "built"]).groups.comparable
        False
        >>> found = compare(["tiny-llama-F16.gguf", "quantized/tiny-llama-Q4_0.gguf"], corpus="text.txt", chunks=2)
        >>> [rival.row.type for rival in found.rivals.all]
        ['F16', 'Q4_0']

    Args:
        given: directories, as `build` leaves them; or files, of which the first is the base of the others: each a path,
            `"hub:OWNER/NAME/FILE"` or `"ms:OWNER/NAME/FILE"`.
        out: of files: directory of the results, default `./<name>-compared`.
        more: of files: every other option, see `PerplexityOptions`.

    Returns:
        All rows. Of directories, which of them may be compared: `groups.comparable` is whether any two may. Of files, how
        they differ: `rivals`.

    Raises:
        InputError: a directory holds no results, or a file another model.
        UsageError: there are directories and files.
    """
    options_given, words = Options("compare", options.PerplexityOptions, more), _words(given)
    if comparing_files.are_files(words):
        how, where = (
            options_given.group(EvaluationOptions),
            None if out is None else values.read("out", values.PATH, out),
        )
        with listening(reporter, quiet) as listener:
            done = comparing_files.compare(words, how, where, options_given.run, listener)
        rows = tuple(rival.row for rival in done.rivals.all)
        return Compared(done.out, done.paths, rows, listener.warnings, done.made, rivals=done.rivals)
    if named := [name for name, value in ({"out": out} | dict(more)).items() if value is not None]:
        raise UsageError(
            f"{named[0]} is about GGUF files; what a directory holds was measured before.", hint="Leave it out."
        )
    return _directories(words, reporter, quiet)


def _directories(words: Sequence[str], reporter: Reporter | None, quiet: bool) -> Compared:
    from ggufkit.report import compare as comparing

    found = [values.read("given", values.DIRECTORY, one) for one in words]
    with listening(reporter, quiet) as listener:
        samples = comparing.load(found, listener)
    rows = tuple(sample.entry.row for sample in samples)
    paths = tuple(dict.fromkeys(found))
    origins = tuple(sample.origin for sample in samples)
    return Compared(found[0], paths, rows, listener.warnings, groups=comparing.compare(samples), origins=origins)


def _words(given: Paths) -> list[str]:
    return [values.read("given", values.TEXT, one) for one in values.read("given", values.Some(), _several(given))]


def _several(given: Paths) -> list[Path_]:
    return [given] if isinstance(given, (str, os.PathLike)) else list(given)


def _paths(name: str, given: Paths) -> list[Path]:
    """Files, of which there is one at least. Raises UsageError."""
    return [values.read(name, values.FILE, one) for one in _some(name, given)]


def _some(name: str, given: Paths) -> list[Path_]:
    return list(values.read(name, values.Some(), _several(given)))
