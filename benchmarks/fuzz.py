"""Every reader and parser on broken and hostile input: each input is read right, or refused by an error of ggufkit's.

    python -m benchmarks.fuzz --inputs 200000

Inputs are valid samples of `fuzzing`, changed at random by a seed. An input may take a second of CPU time and 300 MB.
Each reader runs in a process of its own, so that a crash costs that reader's rest and is told.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

from benchmarks.fuzzing import readers as all_readers
from benchmarks.fuzzing.mutate import choose
from benchmarks.fuzzing.reader import Reader
from benchmarks.record import RESULTS, commit
from ggufkit.core import machine
from ggufkit.core.errors import GgufkitError

MOST_S, MOST_MB = 1.0, 300.0
_HANG_S = 20.0
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass
class Count:
    """What became of a reader's inputs; `faults` by what went wrong and where, each with the first input's number."""

    reader: str
    right: int = 0
    refused: int = 0
    all_s: float = 0.0
    slowest_s: float = 0.0
    most_mb: float = 0.0
    faults: dict[str, list[int]] = field(default_factory=dict)

    @property
    def n_faults(self) -> int:
        """Inputs that ended in neither way."""
        return sum(len(numbers) for numbers in self.faults.values())


class Hang(BaseException):
    """An input that does not end."""


def input_of(reader: Reader, seed: int, number: int) -> bytes:
    """The input of a number: always the same."""
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    return reader.mutator(rng, choose(rng, reader.samples))


def run(reader: Reader, numbers: range, seed: int, place: Path, *, memory: bool = True) -> Count:
    """Read all inputs of some numbers with files below `place`.

    Args:
        memory: measure the peak of each, where Linux tells it.
    """
    count, watches = Count(reader.name), memory and _RESET.exists()
    with _alarm():
        for number in numbers:
            _one(reader, input_of(reader, seed, number), number, place, count, watches)
    return count


def _one(reader: Reader, data: bytes, number: int, place: Path, count: Count, watches: bool) -> None:
    before, begun = _reset_peak() if watches else 0.0, time.thread_time()
    signal.setitimer(signal.ITIMER_REAL, _HANG_S)
    try:
        reader.read(data, place)
        count.right += 1
    except (GgufkitError, click.ClickException):
        count.refused += 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        count.faults.setdefault(_where(error), []).append(number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, mb = time.thread_time() - begun, _peak_mb() - before if watches else 0.0
    count.all_s += seconds
    count.slowest_s, count.most_mb = max(count.slowest_s, seconds), max(count.most_mb, mb)
    if seconds > MOST_S:
        count.faults.setdefault("more than a second", []).append(number)
    if mb > MOST_MB:
        count.faults.setdefault("more than 300 MB", []).append(number)


def _where(error: BaseException) -> str:
    """The kind of a fault, and the line of ggufkit that let it through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/ggufkit/" in f.filename] or list(frames)
    last = ours[-1]
    return f"{type(error).__name__}: {str(error)[:80]!r} at {Path(last.filename).name}:{last.lineno}"


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"no end after {_HANG_S:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> float:
    """Let the peak of resident memory begin anew; what is resident now, in MB."""
    _RESET.write_text("5", encoding="ascii")
    return _peak_mb()


def _peak_mb() -> float:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def _apart(reader: Reader, numbers: range, seed: int) -> Count:
    """`run` in a process of its own; one that dies is a fault of the input that it had come to."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_serve, args=(reader, numbers, seed, there))
    child.start()
    there.close()
    counts, reached = Count(reader.name), numbers.start
    with suppress(EOFError):
        while True:
            part, reached = here.recv()
            _add(counts, part)
    child.join()
    if child.exitcode:
        counts.faults.setdefault(f"the process ended with {child.exitcode}", []).append(reached)
    return counts


def _serve(reader: Reader, numbers: range, seed: int, out: Connection) -> None:
    with tempfile.TemporaryDirectory(prefix="ggufkit-fuzz-") as place:
        for start in range(numbers.start, numbers.stop, 250):
            part = range(start, min(start + 250, numbers.stop))
            out.send((run(reader, part, seed, Path(place)), part.stop))
    out.close()


def _add(count: Count, part: Count) -> None:
    count.right += part.right
    count.refused += part.refused
    count.all_s += part.all_s
    count.slowest_s = max(count.slowest_s, part.slowest_s)
    count.most_mb = max(count.most_mb, part.most_mb)
    for what, numbers in part.faults.items():
        count.faults.setdefault(what, []).extend(numbers)


def shares(inputs: int, readers: list[Reader]) -> dict[str, int]:
    """How many of the inputs each reader gets, by its weight."""
    total = sum(reader.weight for reader in readers)
    return {reader.name: max(1, round(inputs * reader.weight / total)) for reader in readers}


@click.command()
@click.option("--inputs", default=200_000, show_default=True, help="Of all readers together.")
@click.option("--seed", default=0, show_default=True)
@click.option("--reader", "only", multiple=True, help="Only this one; may be given several times.")
@click.option("--show", type=int, help="Print the input of this number of the one --reader, and end.")
@click.option(
    "--save/--no-save", "keep", default=True, show_default=True, help="Write benchmarks/results/fuzz-….json."
)
def main(inputs: int, seed: int, only: tuple[str, ...], show: int | None, keep: bool) -> None:
    """Count what becomes of broken input."""
    with tempfile.TemporaryDirectory(prefix="ggufkit-fuzz-") as home:
        readers = [r for r in all_readers(Path(home)) if not only or r.name in only]
        if show is not None:
            sys.stdout.buffer.write(input_of(readers[0], seed, show))
            return
        wanted = shares(inputs, readers)
        counts = [_tell(_apart(reader, range(wanted[reader.name]), seed)) for reader in readers]
    total = {key: sum(getattr(c, key) for c in counts) for key in ("right", "refused", "n_faults")}
    click.echo(
        f"{'all':<14} {total['right']:>7} right {total['refused']:>7} refused {total['n_faults']:>5} faults"
    )
    if keep:
        click.echo(_save(counts, seed, {"inputs": sum(wanted.values()), **total}))
    sys.exit(1 if total["n_faults"] else 0)


def _tell(count: Count) -> Count:
    click.echo(f"{count.reader:<14} {count.right:>7} right {count.refused:>7} refused {count.n_faults:>5} faults "
               f"{count.all_s:7.1f} s {count.slowest_s:6.2f} s {count.most_mb:6.0f} MB")  # fmt: skip
    for what, numbers in count.faults.items():
        click.echo(f"    {len(numbers)}x {what}, first {numbers[0]}")
    return count


def _save(counts: list[Count], seed: int, total: dict[str, Any]) -> Path:
    rows = [{**asdict(c), "faults": {what: len(n) for what, n in c.faults.items()}} for c in counts]
    record = {
        "what": "fuzz", "machine": machine.describe(), "commit": commit(), "seed": seed, **total,
        "slowest_s": max(c.slowest_s for c in counts), "most_mb": max(c.most_mb for c in counts), "rows": rows,
    }  # fmt: skip
    path = RESULTS / f"fuzz-{date.today().isoformat()}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
