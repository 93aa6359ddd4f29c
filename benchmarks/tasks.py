"""Accuracy and flips of a model's files on questions in HellaSwag's and Winogrande's form, as a record.

python -m benchmarks.task_data TEXT... --out DATA
python -m benchmarks.tasks model-Q8_0.gguf model-Q2_K.gguf --base model-F16.gguf --data DATA --out DIR
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from benchmarks import record
from benchmarks.task_data import hellaswag, winogrande
from ggufkit.commands import tasks
from ggufkit.commands.tasks import Tasks
from ggufkit.core import machine
from ggufkit.core.hashing import sha256_file
from ggufkit.core.progress import SilentReporter
from ggufkit.llama import toolchain
from ggufkit.report.results import rows_of
from ggufkit.request import RunOptions
from ggufkit.steps.step import Workspace
from ggufkit.texts.tasks.questions import Drawn


def main() -> None:
    """Ask all files, and write what they answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ggufs", type=Path, nargs="+")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    asked = {make.__name__: given.data / f"{make.__name__}.jsonl" for make in (hellaswag, winogrande)}
    wanted = Tasks(tuple(f"{name}={file}" for name, file in asked.items()), Drawn(None))
    done = tasks.tasks(given.ggufs, given.base, wanted, given.out, RunOptions(), SilentReporter())
    rows = rows_of([file.path for file in done.files], Workspace(done.out))
    tools = toolchain.find("auto", SilentReporter())
    found = {
        "what": "tasks", "machine": machine.describe(), "backend": tools.backend, "commit": record.commit(),
        "llama_cpp_commit": tools.commit, "data_sha256": {name: sha256_file(file) for name, file in asked.items()},
        "rows": [{"file": row.file, "size_bytes": row.size_bytes, **asdict(s)} for row in rows for s in row.tasks],
    }  # fmt: skip
    print(record.write("tasks", found))


if __name__ == "__main__":
    main()
