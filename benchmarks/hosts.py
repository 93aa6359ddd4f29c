"""Hosts of a cluster on one machine: each a network namespace with disks of its own. Linux, root, `ip` and `unshare`.

Nothing that one host writes below `HOME` is seen by another: each has a memory file system there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

HOME = Path("/mnt/ggufkit-hosts")
"""Where a host's own disk is, on each of them."""
_SWITCH = "ggufkit-net"
_SIZE = "6g"


def missing() -> str | None:
    """Why there can be no such hosts here; None if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    lacking = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if lacking:
        return f"{lacking[0]} is not installed"
    try:
        with network(["trial"], "1m"):
            return None
    except (subprocess.CalledProcessError, RuntimeError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        return f"this system allows no such network: {said.decode(errors='replace').strip()}"


@dataclass(frozen=True)
class Host:
    """One host: its name, its address, and the process that keeps its namespaces."""

    name: str
    ip: str
    keeper: subprocess.Popen[bytes]

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """A command as it is run there."""
        inside = ["nsenter", "-t", str(self.keeper.pid), "-n", "-m", "-u", "--"]
        return [*inside, *map(str, command)]

    def run(
        self, command: Sequence[str | Path], env: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end, in the host's home."""
        return subprocess.run(
            self.argv(["env", "-C", HOME, *command]), env=dict(env), text=True, capture_output=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip

    def start(self, command: Sequence[str | Path], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command there; all that it says goes into a file that is seen from outside."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self.argv(["env", "-C", HOME, *command]), env=dict(env), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip


@contextlib.contextmanager
def network(names: Sequence[str], size: str = _SIZE) -> Iterator[dict[str, Host]]:
    """Hosts by their names, wired to one switch; all that runs on them ends with the context."""
    prefix = f"{_SWITCH}-{os.getpid()}"
    _ip("netns", "add", prefix)
    hosts: dict[str, Host] = {}
    try:
        _ip("-n", prefix, "link", "add", "br0", "type", "bridge")
        _ip("-n", prefix, "link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            hosts[name] = _host(prefix, name, number, size)
        yield hosts
    finally:
        for host in hosts.values():
            _end_all(host)
        for name in [*(f"{prefix}-{n}" for n in range(1, len(names) + 1)), prefix]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _host(prefix: str, name: str, number: int, size: str) -> Host:
    space, ip = f"{prefix}-{number}", f"10.77.0.{number}"
    _ip("netns", "add", space)
    _ip("link", "add", f"gk{number}", "netns", prefix, "type", "veth", "peer", "name", "eth0", "netns", space)
    _ip("-n", prefix, "link", "set", f"gk{number}", "master", "br0", "up")
    _ip("-n", space, "addr", "add", f"{ip}/24", "dev", "eth0")
    _ip("-n", space, "link", "set", "eth0", "up")
    _ip("-n", space, "link", "set", "lo", "up")
    HOME.mkdir(parents=True, exist_ok=True)
    begin = f"mount -t tmpfs -o size={size} tmpfs {HOME} && hostname {name} && touch {HOME}/ready && exec sleep infinity"
    argv = ["ip", "netns", "exec", space, "unshare", "-m", "-u", "--propagation", "private", "sh", "-c", begin]
    keeper = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    host = Host(name, ip, keeper)
    until = time.monotonic() + 10
    while subprocess.run(host.argv(["test", "-e", HOME / "ready"]), capture_output=True, check=False).returncode:
        if time.monotonic() > until:
            raise RuntimeError(f"The host {name} does not come up.")
        time.sleep(0.05)
    return host


def processes(host: Host) -> Iterator[psutil.Process]:
    """All that runs in a host's network but what keeps it."""
    net = Path(f"/proc/{host.keeper.pid}/ns/net").readlink()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if Path(f"/proc/{process.pid}/ns/net").readlink() == net and process.pid != host.keeper.pid:
                yield process


def _end_all(host: Host) -> None:
    """End all that runs in a host's network, and the host; what was just started comes there a moment later."""
    quiet = 0
    while quiet < 3:
        found = list(processes(host))
        quiet = 0 if found else quiet + 1
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        time.sleep(0.1)
    host.keeper.kill()
    host.keeper.wait()


def kill_tree(root: psutil.Process) -> None:
    """SIGKILL for a process and all that it started: as a job of Slurm ends, or a pod of Kubernetes."""
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


def _ip(*what: str) -> None:
    subprocess.run(["ip", *what], check=True, capture_output=True)
