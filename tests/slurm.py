"""A real Slurm on this machine: a controller and nodes of its own, in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "sinfo")
_PATIENCE_S = 30.0
_CONFIG = """
ClusterName=ggufkit
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
InactiveLimit=0
KillWait=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=16000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=16000
PartitionName=all Nodes=one,two Default=YES MaxTime=1:00:00 State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None if one can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "starting Slurm needs root"
    lacking = [program for program in _PROGRAMS if _find(program) is None]
    return f"Slurm is not installed: no {lacking[0]} (apt install slurm-wlm munge)" if lacking else None


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs: `env` is what its commands need."""

    home: Path
    env: dict[str, str]

    def ask(self, *command: str) -> str:
        """What a command of Slurm's says."""
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True, timeout=30).stdout


@contextlib.contextmanager
def running(home: Path) -> Iterator[Slurm]:
    """Start Slurm with two nodes, `one` and `two`, and end all of it with the context."""
    (home / "state").mkdir(parents=True)
    home.chmod(0o755)
    for parent in home.parents:  # munged refuses a socket that others could not reach
        if parent.stat().st_uid == 0 and parent != parent.parent and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    config = home / "slurm.conf"
    config.write_text(_CONFIG.format(host=socket.gethostname(), home=home, ports=[_free_port() for _ in range(3)]))
    slurm = Slurm(home, {**os.environ, "SLURM_CONF": str(config)})
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_munge(home))
        started.append(_start(slurm, "slurmctld", "-D"))
        started += [_start(slurm, "slurmd", "-D", "-N", node) for node in ("one", "two")]
        _wait_until_idle(slurm)
        yield slurm
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            slurm.ask("scancel", "--user=root", "--signal=KILL", "--full")
            slurm.ask("scancel", "--user=root")
            time.sleep(1)
        for process in reversed(started):
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _munge(home: Path) -> subprocess.Popen[bytes]:
    """Credentials of this cluster alone. munged wants to own its files."""
    key, owner = home / "munge.key", pwd.getpwnam("munge")
    key.write_bytes(os.urandom(128))
    own = home / "munge"
    own.mkdir(mode=0o711)
    for path, mode in ((key, 0o400), (own, 0o711)):
        path.chmod(mode)
        os.chown(path, owner.pw_uid, owner.pw_gid)
    argv = [
        str(_find("munged")), "--foreground", "--force", f"--socket={home}/munge.socket", f"--key-file={key}",
        f"--pid-file={own}/pid", f"--log-file={own}/log", f"--seed-file={own}/seed",
    ]  # fmt: skip
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(home / "munged.err").open("wb")
    )
    _wait((home / "munge.socket").exists, "munged", home)
    return process


def _start(slurm: Slurm, program: str, *options: str) -> subprocess.Popen[bytes]:
    with (slurm.home / f"{program}.err").open("ab") as log:
        return subprocess.Popen(
            [str(_find(program)), *options], env=slurm.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _wait_until_idle(slurm: Slurm) -> None:
    def are_idle() -> bool:
        with contextlib.suppress(subprocess.SubprocessError):
            return slurm.ask("sinfo", "-h", "-N", "-o", "%N %t").split() == ["one", "idle", "two", "idle"]
        return False

    _wait(are_idle, "Slurm", slurm.home)


def _wait(there: Callable[[], bool], what: str, home: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not there():
        if time.monotonic() > until:
            said = "\n".join(
                f"{f.name}: {f.read_text(errors='replace')[-800:]}" for f in home.glob("*.[el][ro][rg]")
            )
            raise RuntimeError(f"{what} does not come up.\n{said}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
