"""Is anything lost when a sweep's hosts die? Workers and the scheduler are killed at random moments, on hosts of their own.

    sudo python -m benchmarks.sweep_hosts --kills 10 --scheduler-kills 2 --faults

Four hosts in network namespaces with disks of their own: a scheduler, two workers, and the driver, which alone has the
models. What is killed is started again by a loop, as Slurm and Kubernetes do. The sweep's results must be those of `build`,
one model after the other, in every value but times and speeds; no result may be lost, and nothing done twice but what was
cut.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks import hosts
from benchmarks.hosts import HOME, Host
from benchmarks.record import ROOT, commit, write
from ggufkit.core import machine
from ggufkit.core.paths import cache_dir
from ggufkit.sweep import journal
from ggufkit.sweep.records import Event
from ggufkit.sweep.stores import MARK

SCHEDULER, WORKERS, DRIVER = "scheduler", ("one", "two"), "driver"
NAME = "hosts"
"""What the store is called: so results of `build` can be made at the very paths where the workers' were."""
TYPES, VARIANTS = ("q8_0", "q5_0", "q4_k", "q4_0"), ("plain", "imatrix")
FAULTS = ("full-disk", "slow", "clocks", "version")
_PASSING = ("_tps", "_stddev", "seconds", "duration", "eval_tps")
"""Parts of the names of columns that tell times and speeds."""
_OUT = HOME / "out"
_BUILT = HOME / "cache" / "sweeps" / NAME
_SWEEP_S = 1500.0
_FILE = """# A sweep of tiny models on hosts that share nothing.
out: {out}
models:
{models}
types: [{types}]
variants: [{variants}]
calibration: {home}/calibration.txt
corpora: {home}/text.txt
options: {{ctx: 64, chunks: 4, bench: false, calibration-samples: 8}}
"""


@dataclass(frozen=True)
class Asked:
    """What is swept, and how much of it is killed."""

    models: int = 3
    types: Sequence[str] = TYPES
    variants: Sequence[str] = VARIANTS
    kills: int = 10
    scheduler_kills: int = 2
    faults: bool = False
    seed: int = 7


@dataclass(frozen=True)
class Kill:
    """Who was killed, and when by this machine's clock."""

    host: str
    at: float


@dataclass(frozen=True)
class Found:
    """What became of a sweep.

    Args:
        jobs: that ended, by how they ended.
        again: jobs that began more than once.
        unexplained: those of them whose worker, and the scheduler, lived between two beginnings.
        differ: values that are not those of `build`.
        tail: what the driver said last, where something is not right.
    """

    seconds: float
    jobs: Mapping[str, int]
    kills: Sequence[Kill] = ()
    again: Sequence[str] = ()
    unexplained: Sequence[str] = ()
    differ: Sequence[str] = ()
    exit_code: int = 0
    tail: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it ended as it should."""
        return not (self.exit_code or self.unexplained or self.differ or set(self.jobs) - {"done", "fresh"})


@click.command()
@click.option("--kills", default=10, show_default=True, help="Of workers.")
@click.option("--scheduler-kills", default=2, show_default=True)
@click.option("--faults", is_flag=True, help="Also a full disk, a slow host, clocks that differ, another version.")
@click.option("--models", default=3, show_default=True)
@click.option("--seed", default=7, show_default=True)
@click.option("--save/--no-save", "keep", default=True, show_default=True)
def main(kills: int, scheduler_kills: int, faults: bool, models: int, seed: int, keep: bool) -> None:
    """Sweep undisturbed, sweep with kills, and compare both with builds."""
    if (reason := hosts.missing()) is not None:
        raise click.ClickException(f"No hosts can be made here: {reason}.")
    asked = Asked(models, kills=kills, scheduler_kills=scheduler_kills, faults=faults, seed=seed)
    rows = run(asked, click.echo)
    if keep:
        record = {"what": "sweep-hosts", "machine": machine.describe(), "commit": commit(), "asked": asdict(asked),
                  "rows": {name: asdict(found) for name, found in rows.items()}}  # fmt: skip
        click.echo(write("sweep-hosts", record))
    if not all(found.is_right for found in rows.values()):
        sys.exit(1)


def run(asked: Asked, say: Any = lambda _text: None, *, calm: bool = True) -> dict[str, Found]:
    """Sweep on hosts of their own, undisturbed first if `calm`; what became of each sweep, by its name."""
    with tempfile.TemporaryDirectory(prefix="ggufkit-hosts-") as logs, _cluster(Path(logs)) as cluster:
        cluster.prepare(asked)
        expected = cluster.build(asked)
        say(f"builds, one after the other: {cluster.build_s:.1f} s")
        rows: dict[str, Found] = {}
        plan = asked.kills * ["worker"] + asked.scheduler_kills * [SCHEDULER]
        for name, kills in [*([("calm", [])] if calm else []), ("killed", plan)]:
            usual_s = rows["calm"].seconds if "calm" in rows else cluster.build_s
            rows[name] = cluster.sweep(kills, random.Random(asked.seed), usual_s, expected)
            say(_told(name, rows[name]))
            cluster.forget()
        for name in FAULTS if asked.faults else ():
            with cluster.faulty(name):
                rows[name] = cluster.sweep([], random.Random(), 0, expected)
            say(_told(name, rows[name]))
            cluster.forget()
        return rows


def _told(name: str, found: Found) -> str:
    who = [kill.host for kill in found.kills]
    lines = [
        f"{name}: {found.seconds:.1f} s, exit code {found.exit_code}, jobs {dict(found.jobs)}",
        f"  kills: {sum(host != SCHEDULER for host in who)} of workers, {who.count(SCHEDULER)} of the scheduler",
        f"  begun more than once: {len(found.again)}, without a reason: {list(found.unexplained)}",
        f"  values that differ: {list(found.differ)}",
    ]
    return "\n".join([*lines, *([] if found.is_right else [found.tail])])


@contextlib.contextmanager
def _cluster(logs: Path) -> Iterator[_Cluster]:
    with hosts.network([SCHEDULER, *WORKERS, DRIVER]) as network:
        cluster = _Cluster(network, logs)
        cluster.start()
        yield cluster


@dataclass
class _Cluster:
    """The hosts at work."""

    hosts: Mapping[str, Host]
    logs: Path
    build_s: float = 0.0
    models: list[str] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """What all processes get: nothing of a host's is elsewhere than on its own disk."""
        own = {
            "GGUFKIT_CACHE": str(HOME / "cache"),
            "TMPDIR": str(HOME),
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
        }
        return {
            **{k: v for k, v in os.environ.items() if k not in ("GGUFKIT_LLAMA_CPP", "CUDA_VISIBLE_DEVICES")},
            **own,
        }

    @property
    def address(self) -> str:
        """The scheduler's."""
        return f"tcp://{self.hosts[SCHEDULER].ip}:8786"

    def start(self) -> None:
        """Loops that start again what was killed."""
        host = self.hosts[SCHEDULER]
        dask = [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            host.ip,
            "--port",
            "8786",
            "--no-dashboard",
        ]
        host.start(_loop(dask), self.env, self.logs / "scheduler.log")
        for name in WORKERS:
            self.start_worker(name)

    def start_worker(self, name: str, before: Sequence[str] = (), **env: str) -> None:
        """A worker that is started again whenever it ends; `before` stands before its command."""
        options = ["--nworkers", "1", "--nthreads", "4", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        dask = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, *options]
        self.hosts[name].start(_loop([*before, *dask]), {**self.env, **env}, self.logs / f"{name}.log")

    def end_worker(self, name: str) -> None:
        """End the loop of a worker, and the worker."""
        for what in ("while", "distributed.cli.dask_worker"):
            while (found := _process(self.hosts[name], what)) is not None:
                hosts.kill_tree(found)
                time.sleep(0.1)

    @contextlib.contextmanager
    def faulty(self, fault: str) -> Iterator[None]:
        """Hosts with a fault, for the length of a context."""
        one, two = WORKERS
        self.end_worker(one)
        over = threading.Event()
        beside = threading.Thread(target=self._slow_down, args=(one, over))
        if fault == "full-disk":
            free = int(
                self._require(self.hosts[one].run(["df", "--output=avail", "-k", HOME], self.env, 9)).split()[-1]
            )
            self._require(self.hosts[one].run(["fallocate", "-l", f"{free - 2000}k", HOME / "full"], self.env, 9))
            self.start_worker(one)
        elif fault == "slow":
            self.start_worker(one)
            beside.start()
        elif fault == "clocks":
            self.end_worker(two)
            self.start_worker(one, ["faketime", "-f", "+3d"])
            self.start_worker(two, ["faketime", "-f", "-2h"])
        else:
            self._require(self.hosts[one].run(["cp", "-r", ROOT / "ggufkit", HOME / "ggufkit"], self.env, 9))
            old = f"open('{HOME}/ggufkit/version.py', 'w').write('__version__ = \"0.0.1\"')"
            self._require(self.hosts[one].run([sys.executable, "-c", old], self.env, 9))
            self.start_worker(one, PYTHONPATH=str(HOME))
        try:
            yield
        finally:
            over.set()
            if beside.is_alive():
                beside.join()
            for name in WORKERS:
                self.end_worker(name)
                self._require(self.hosts[name].run(["rm", "-rf", HOME / "full", HOME / "ggufkit"], self.env, 9))
                self.start_worker(name)

    def _slow_down(self, name: str, over: threading.Event) -> None:
        """Let a host work for a fifth of the time."""
        while not over.is_set():
            for stop, seconds in ((True, 0.8), (False, 0.2)):
                for process in hosts.processes(self.hosts[name]):
                    with contextlib.suppress(psutil.Error):
                        process.suspend() if stop else process.resume()
                over.wait(seconds)

    def prepare(self, asked: Asked) -> None:
        """Give the driver's host models, texts, and the toolchain: the others have nothing."""
        driver = self.hosts[DRIVER]
        code = f"from benchmarks.sweep_hosts import write_inputs; write_inputs({asked.models})"
        self._require(driver.run([sys.executable, "-c", code], self.env, 60))
        for part in ("toolchains", "llama.cpp"):
            self._require(driver.run(["mkdir", "-p", HOME / "cache"], self.env, 60))
            self._require(driver.run(["cp", "-r", cache_dir() / part, HOME / "cache" / part], self.env, 60))
        self.models = [f"tiny-{number}" for number in range(asked.models)]
        text = _FILE.format(
            out=_OUT, home=HOME, models="\n".join(f"  - {HOME}/models/{m}" for m in self.models),
            types=", ".join(asked.types), variants=", ".join(asked.variants),
        )  # fmt: skip
        self._require(driver.run([sys.executable, "-c", f"open('sweep.yaml', 'w').write({text!r})"], self.env, 60))

    def build(self, asked: Asked) -> dict[str, list[dict[str, Any]]]:
        """What `ggufkit build` makes of the models, one after the other: rows by model."""
        started = time.monotonic()
        for model in self.models:
            argv: list[str | Path] = [
                sys.executable, "-m", "ggufkit", "build", HOME / "models" / model, "--out", _BUILT / model,
                "--types", ",".join(asked.types), "--variants", ",".join(asked.variants), "--corpus", HOME / "text.txt",
                "--calibration", HOME / "calibration.txt", "--ctx", "64", "--chunks", "4", "--no-bench",
                "--calibration-samples", "8",
            ]  # fmt: skip
            self._require(self.hosts[DRIVER].run(argv, self.env, 600))
        self.build_s = time.monotonic() - started
        found = self._rows(_BUILT)
        self._require(self.hosts[DRIVER].run(["mv", _BUILT, HOME / "built"], self.env, 60))
        return found

    def sweep(
        self, kills: Sequence[str], chance: random.Random, usual_s: float, expected: Mapping[str, Any]
    ) -> Found:
        """Sweep, and kill at random moments; compare what came of it."""
        driver = self.hosts[DRIVER]
        self._require(driver.run(["mkdir", "-p", (_OUT / MARK).parent], self.env, 60))
        self._require(
            driver.run([sys.executable, "-c", f"open('{_OUT / MARK}', 'w').write('{NAME}')"], self.env, 60)
        )
        log, killed, over = self.logs / "driver.log", list[Kill](), threading.Event()
        argv = [sys.executable, "-m", "ggufkit", "sweep", "sweep.yaml", "--scheduler", self.address]
        started = time.monotonic()
        with driver.start(argv, self.env, log) as running:
            killer = threading.Thread(target=self._kill_all, args=(kills, chance, usual_s, killed, over))
            killer.start()
            try:
                code = running.wait(_SWEEP_S)
            finally:
                over.set()
                killer.join()
        seconds = time.monotonic() - started
        copied = self._fetch(_OUT / ".ggufkit" / "sweep" / journal.JOURNAL)
        events = list(journal.read(copied))
        again, unexplained = repeated(events, killed, {f"{h.ip}:": name for name, h in self.hosts.items()})
        differ = differences(expected, self._rows(_OUT)) if code == 0 else ["the sweep failed"]
        found = Found(round(seconds, 1), _ends(events), killed, again, unexplained, differ, code)
        return found if found.is_right else replace(found, tail=log.read_text()[-3000:])

    def forget(self) -> None:
        """Remove what a sweep left on all hosts, and begin with workers that remember nothing."""
        for name in WORKERS:
            self.end_worker(name)
            self.start_worker(name)
        self._require(self.hosts[DRIVER].run(["rm", "-rf", _OUT], self.env, 60))
        for name in (*WORKERS, DRIVER):
            self._require(self.hosts[name].run(["rm", "-rf", HOME / "cache" / "sweeps"], self.env, 60))

    def _kill_all(
        self,
        kills: Sequence[str],
        chance: random.Random,
        usual_s: float,
        killed: list[Kill],
        over: threading.Event,
    ) -> None:
        order = chance.sample(list(kills), len(kills))
        for who in order:
            if over.wait(chance.uniform(0.3, 1.7) * max(2.0, usual_s / (len(order) + 1))):
                return
            name = SCHEDULER if who == SCHEDULER else chance.choice(WORKERS)
            while (
                found := _process(self.hosts[name], "distributed.cli.dask_" + who)
            ) is None and not over.is_set():
                time.sleep(0.1)  # it is being started
            if found is not None and not over.is_set():
                killed.append(Kill(name, time.time()))
                hosts.kill_tree(found)

    def _rows(self, out: Path) -> dict[str, list[dict[str, Any]]]:
        return {m: json.loads(self._fetch(out / m / "results.json").read_text()) for m in self.models}

    def _fetch(self, file: Path) -> Path:
        """A file of the driver's, as this process sees it."""
        copy = self.logs / file.name
        copy.write_bytes(Path(f"/proc/{self.hosts[DRIVER].keeper.pid}/root{file}").read_bytes())
        return copy

    def _require(self, done: Any) -> str:
        if done.returncode:
            raise click.ClickException(f"{done.args[7:]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return str(done.stdout)


def _loop(command: Sequence[str]) -> list[str]:
    return ["sh", "-c", f"while :; do {' '.join(command)}; sleep 0.5; done"]


def write_inputs(n_models: int) -> None:
    """Models that differ, and texts, in this host's home."""
    from tests import tiny

    for number in range(n_models):
        tiny.write_llama(HOME / "models" / f"tiny-{number}", layers=2 + number)
    tiny.text_file(HOME / "text.txt", 1500)
    tiny.text_file(HOME / "calibration.txt", 3000)


def _process(host: Host, program: str) -> psutil.Process | None:
    """A program that runs on a host, by a word of its command, or the first one of a script."""
    for process in hosts.processes(host):
        with contextlib.suppress(psutil.Error):
            if any(word == program or word.startswith(program + " ") for word in process.cmdline()):
                return process
    return None


def repeated(
    events: Sequence[Event], kills: Sequence[Kill], hosts_by_address: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Jobs that began more than once; those of them that had ended before, or that nobody had cut."""
    begun: dict[str, list[Event]] = defaultdict(list)
    ended = {event.job: event.at for event in events if event.kind == "ended"}
    for event in events:
        if event.kind == "started":
            begun[event.job].append(event)
    again = {job: starts for job, starts in begun.items() if len(starts) > 1}
    wrong = []
    for job, starts in again.items():
        for first, second in itertools.pairwise(starts):
            host = next((name for part, name in hosts_by_address.items() if part in first.text), "")
            times = [kill.at for kill in kills if kill.host in (host, SCHEDULER)]
            times += [event.at for event in events if event.kind == "paused"]
            cut = any(first.at - 1 <= at <= second.at for at in times)
            if not cut or ended.get(job, second.at + 1) < second.at:
                wrong.append(job)
    return sorted(again), sorted(set(wrong))


def _ends(events: Sequence[Event]) -> dict[str, int]:
    """How many jobs ended how, the last word on each; and those that were planned and never heard of."""
    last = {event.job: event.outcome.state for event in events if event.kind == "ended" and event.outcome}
    states = list(last.values())
    return {state: states.count(state) for state in sorted(set(states))}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Values of results that differ, but for times and speeds."""
    wrong = []
    for model, rows in expected.items():
        others = {row["file"]: row for row in found[model]}
        if {row["file"] for row in rows} != set(others):
            wrong.append(f"{model}: {sorted({row['file'] for row in rows} ^ set(others))}")
            continue
        for row in rows:
            for name, value in row.items():
                if not any(part in name for part in _PASSING) and others[row["file"]].get(name) != value:
                    wrong.append(f"{row['file']} {name}: {others[row['file']].get(name)} instead of {value}")
    return wrong


if __name__ == "__main__":
    main()
