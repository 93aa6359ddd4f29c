"""TABLES of tasks: where their questions are, and how llama-perplexity or the served model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggufkit.llama.task_files import HELLASWAG, MULTIPLE_CHOICE, WINOGRANDE

GSM8K, IFEVAL, TOOLS = "gsm8k", "ifeval", "tool-calls"
GENERATED = (GSM8K, IFEVAL, TOOLS)
"""Modes in which the served model writes its answer, which no file says beforehand."""
BUNDLED = Path(__file__).with_name("tools.jsonl")
"""Requests with tools, and the call that each should lead to; of the last ones none."""


@dataclass(frozen=True)
class DataSet:
    """A split of a data set on a hub."""

    name: str
    config: str | None
    split: str


@dataclass(frozen=True)
class Task:
    """A benchmark by name.

    Args:
        mode: of llama-perplexity, or one of `GENERATED`.
        huggingface, modelscope: the same questions on both hubs.
        columns: how its rows are read, of `shapes.SHAPES`.
    """

    name: str
    title: str
    mode: str
    huggingface: DataSet
    modelscope: DataSet
    columns: str


TASKS = {
    task.name: task
    for task in (
        Task("hellaswag", "HellaSwag", HELLASWAG, DataSet("Rowan/hellaswag", None, "validation"),
             DataSet("evalscope/hellaswag", None, "validation"), "hellaswag"),
        Task("winogrande", "Winogrande", WINOGRANDE, DataSet("allenai/winogrande", "winogrande_xl", "validation"),
             DataSet("AI-ModelScope/winogrande_val", None, "validation"), "winogrande"),
        Task("arc", "ARC-Challenge", MULTIPLE_CHOICE, DataSet("allenai/ai2_arc", "ARC-Challenge", "test"),
             DataSet("allenai/ai2_arc", "ARC-Challenge", "test"), "arc"),
        Task("mmlu", "MMLU", MULTIPLE_CHOICE, DataSet("cais/mmlu", "all", "test"), DataSet("cais/mmlu", "all", "test"),
             "mmlu"),
        Task("truthfulqa", "TruthfulQA, one right answer", MULTIPLE_CHOICE,
             DataSet("truthfulqa/truthful_qa", "multiple_choice", "validation"),
             DataSet("evalscope/truthful_qa", "multiple_choice", "validation"), "truthfulqa"),
    )
}  # fmt: skip

SERVED_TASKS = {
    task.name: task
    for task in (
        Task("gsm8k", "GSM8K", GSM8K, DataSet("openai/gsm8k", "main", "test"),
             DataSet("AI-ModelScope/gsm8k", "main", "test"), "gsm8k"),
        Task("ifeval", "IFEval", IFEVAL, DataSet("google/IFEval", None, "train"),
             DataSet("opencompass/ifeval", None, "train"), "ifeval"),
    )
}  # fmt: skip
"""Of the served model, with questions on hubs."""
TITLES = {task.name: task.title for task in (*TASKS.values(), *SERVED_TASKS.values())} | {"tools": "Tool calls"}
"""Every name, and how it stands in sentences."""
