"""Is anything lost when a build is killed? SIGKILL at random moments while AWQ searches and while weights are refined.

    python -m benchmarks.kills --kills 20

The same build is killed several times in one directory, goes on each time, and ends; its files and its table must be
those of a build that nobody disturbed, and no file may ever have its final name before it is whole.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.record import commit, write
from ggufkit import load_results
from ggufkit.core import machine
from ggufkit.core.errors import GgufError
from ggufkit.llama.gguf import read_gguf
from tests import tiny

STAGES = ("… AWQ: searching scales", "… Refining")
_OPTIONS = (
    "--types", "q4_0", "--variants", "plain,awq,gptq,awq+gptq", "--calibration-samples", "8", "--ctx", "64", "--chunks", "4",
    "--no-bench",
)  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """One kill: the directory, what the build was at, seconds after that began, and whether it was still running."""

    directory: int
    stage: str
    after_s: float
    running: bool


@click.command()
@click.option("--kills", default=20, show_default=True)
@click.option("--each", default=4, show_default=True, help="Kills of one build before it may end.")
@click.option("--seed", default=7, show_default=True)
@click.option("--save/--no-save", "keep", default=True, show_default=True)
def main(kills: int, each: int, seed: int, keep: bool) -> None:
    """Kill builds, let them end, and compare what they left."""
    chance, log = random.Random(seed), list[Kill]()
    with tempfile.TemporaryDirectory(prefix="ggufkit-kills-") as home:
        place = Path(home)
        tiny.write_llama(place / "model")
        tiny.text_file(place / "text.txt", 1500)
        tiny.text_file(place / "calibration.txt", 3000)
        lengths = _undisturbed(place)
        out = place / "out"  # always the same: llama-quantize writes the importance matrix's path into the file
        expected, differ, broken = _contents(out), list[str](), list[str]()
        for number in range(-(-kills // each)):
            shutil.rmtree(out)
            with _watching(out, broken):
                for kill in range(min(each, kills - number * each)):
                    stage = STAGES[kill % len(STAGES)]
                    log.append(_kill(place, out, number, stage, chance.uniform(0.02, 0.95) * lengths[stage]))
                    click.echo(f"directory {number}: {stage[2:]}, after {log[-1].after_s:.2f} s"
                               f"{'' if log[-1].running else ', which had ended'}")  # fmt: skip
                _finish(_argv(place, out))
            left = _contents(out)
            differ += [f"{number}/{name}" for name in expected if left.get(name) != expected[name]]
            differ += [f"{number}/{file.name}" for file in out.glob("*.partial")]
    told = sum(kill.running for kill in log)
    click.echo(f"{len(log)} kills, {told} of a build at work")
    click.echo(f"{len(differ)} files differ {differ}, {len(broken)} were seen unfinished {broken}")
    if keep:
        record = {"what": "kills", "machine": machine.describe(), "commit": commit(), "differ": differ, "broken": broken,
                  "rows": [asdict(kill) for kill in log]}  # fmt: skip
        click.echo(write("kills", record))
    if differ or broken:
        sys.exit(1)


def _argv(place: Path, out: Path) -> list[str]:
    texts = ["--corpus", str(place / "text.txt"), "--calibration", str(place / "calibration.txt")]
    return [sys.executable, "-m", "ggufkit", "build", str(place / "model"), *texts, *_OPTIONS, "--out", str(out)]


def _undisturbed(place: Path) -> dict[str, float]:
    """Build once, and return how many seconds each stage takes."""
    lengths, begun = dict[str, float](), dict[str, float]()
    argv = _argv(place, place / "out")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            for stage in STAGES:
                if line.startswith(stage):
                    begun[stage] = time.monotonic()
                elif line.startswith("✓" + stage[1:]) and stage in begun:
                    lengths.setdefault(stage, time.monotonic() - begun[stage])
    if running.returncode or set(lengths) != set(STAGES):
        raise click.ClickException(f"The undisturbed build ended with {running.returncode}, stages {lengths}.")
    return lengths


def _kill(place: Path, out: Path, number: int, stage: str, after_s: float) -> Kill:
    """Start the build, and kill it some time after a stage has begun."""
    argv = _argv(place, out)
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        if any(line.startswith(stage) for line in running.stderr):
            time.sleep(after_s)
        was_running = running.poll() is None
        running.kill()
    return Kill(number, stage[2:], round(after_s, 3), was_running)


def _finish(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"What was killed does not go on: {done.stderr}")


def _contents(out: Path) -> dict[str, bytes]:
    """What a build leaves that depends neither on when nor on how fast it ran."""
    table = load_results(out).drop(columns=["eval_tps"])
    return {f.name: f.read_bytes() for f in out.glob("*.gguf")} | {"results": table.to_csv(index=False).encode()}


@contextmanager
def _watching(out: Path, broken: list[str]) -> Iterator[None]:
    """Look at every final name all the time: what is there must be whole."""
    done, seen = threading.Event(), set[tuple[str, int, int]]()

    def look() -> None:
        while not done.wait(0.01):
            for file in out.glob("*.gguf"):
                try:
                    state = (file.name, file.stat().st_ino, file.stat().st_mtime_ns)
                    if state not in seen:
                        read_gguf(file)
                        seen.add(state)
                except FileNotFoundError:
                    continue
                except GgufError as error:
                    broken.append(error.message)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
