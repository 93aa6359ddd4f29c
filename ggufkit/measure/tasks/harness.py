"""GSM8K and IFEval as EleutherAI's lm-evaluation-harness asks and judges them, through a served model.

It runs as a process of its own, on our questions: its own tasks, whose data set is a file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ggufkit.core import extras, failures, process
from ggufkit.core.errors import ToolOutputError
from ggufkit.core.process import Surroundings
from ggufkit.measure.tasks.answers import Asking
from ggufkit.serving.endpoint import Endpoint
from ggufkit.texts.tasks.known import GSM8K, IFEVAL

TASKS = {
    GSM8K: ("gsm8k/gsm8k-cot-zeroshot.yaml", "exact_match", "flexible-extract"),
    IFEVAL: ("ifeval/ifeval.yaml", "prompt_level_strict_acc", None),
}
"""Of the harness: the file of a task, the metric that says whether an answer is right, and the filter before it."""
_AT_ONCE, _NAME = 4, "ggufkit"


def require() -> None:
    """Raise MissingExtra where the harness is not installed."""
    extras.require("tasks")


def answers(endpoint: Endpoint, asking: Asking) -> tuple[bool, ...]:
    """For each question whether the harness finds the model's answer right.

    Raises:
        ToolError: the harness failed.
        ToolOutputError: it did not judge all questions.
    """
    task, metric, chosen = TASKS[asking.data.mode]
    with tempfile.TemporaryDirectory(prefix="ggufkit-harness-") as directory:
        home = Path(directory)
        _write_task(home, task, asking)
        log = asking.session.workspace.log(f"{asking.data.name}-{endpoint.model}")
        where = Surroundings({"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(home / "cache"), **_unbuffered()})
        with asking.session.reporter.step(f"{asking.data.title}: {endpoint.model}"):
            done = process.run(_argv(endpoint, home), surroundings=where, log=log)
        failures.require_success(done, f"asking {endpoint.model} {asking.data.title}")
        return _judged(home, metric, chosen, len(asking.data.questions))


def _argv(endpoint: Endpoint, home: Path) -> list[str]:
    # By a name of ours: the harness divides its arguments at commas.
    model = f"model={_NAME},base_url={endpoint.base_url}/chat/completions,num_concurrent={_AT_ONCE}"
    argv = [sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--model_args", model]
    argv += [
        "--tasks",
        _NAME,
        "--include_path",
        str(home),
        "--apply_chat_template",
        "--gen_kwargs",
        "temperature=0",
    ]
    return [*argv, "--output_path", str(home / "results"), "--log_samples"]


def _unbuffered() -> dict[str, str]:
    """No proxy is between this machine and itself."""
    return {"no_proxy": ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1"])), "PYTHONUNBUFFERED": "1"}


def _write_task(home: Path, task: str, asking: Asking) -> None:
    """The harness's own task, but for its questions."""
    import yaml

    found = importlib.util.find_spec("lm_eval")
    assert found is not None and found.origin is not None  # noqa: PT018 - `require` has seen to it
    own = {
        "include": str(Path(found.origin).parent / "tasks" / task),
        "task": _NAME,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(asking.data.path)}},
        "test_split": "test",
        "training_split": None,
        "fewshot_split": None,
    }
    (home / f"{_NAME}.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")


def _judged(home: Path, metric: str, chosen: str | None, n: int) -> tuple[bool, ...]:
    """What the harness says of each question, in their order."""
    lines = [
        line
        for file in (home / "results").rglob("samples_*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    samples: list[dict[str, Any]] = [json.loads(line) for line in lines]
    found = {s["doc_id"]: bool(s[metric]) for s in samples if chosen is None or s.get("filter") == chosen}
    if sorted(found) != list(range(n)):
        raise ToolOutputError(
            f"lm-evaluation-harness judged {len(found)} of {n} answers.", hint="Repeat the command."
        )
    return tuple(found[i] for i in range(n))
