"""Run a command, and note what it took: wall and processor seconds, and the memory of the largest of its processes.

    python -m benchmarks.metered usage.json COMMAND...

A process of its own, since the system counts children together: this one has a single child. The note is written only
where the command succeeds.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ggufkit.core import process


@dataclass(frozen=True)
class Usage:
    """What a command took, its own children counted. `peak_mb` is resident memory, in millions of bytes."""

    seconds: float
    processor_s: float
    peak_mb: float


def main() -> None:
    """Run the command, show its output, and end as it does."""
    note, *command = sys.argv[1:]
    output = process.run(command, on_text=_show)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if output.returncode == 0:
        peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        usage = Usage(round(output.duration_s, 2), round(used.ru_utime + used.ru_stime, 2), round(peak / 1e6, 1))
        Path(note).write_text(json.dumps(asdict(usage)) + "\n", encoding="utf-8")
    sys.exit(output.returncode if output.returncode >= 0 else 128 - output.returncode)


def _show(stream: str, text: str) -> None:
    print(text, end="", flush=True, file=sys.stdout if stream == "stdout" else sys.stderr)


if __name__ == "__main__":
    main()
