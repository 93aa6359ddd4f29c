"""TABLE of tasks: where their questions are, and how llama-perplexity is asked."""

from __future__ import annotations

from dataclasses import dataclass

from ggufkit.llama.task_files import HELLASWAG, MULTIPLE_CHOICE, WINOGRANDE


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
        mode: of llama-perplexity.
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
