"""What each function may be told, by name: the options of the command of the same name, with `_` for `-`.

A value may be of its type or written as on the command line: `precision="2%"` or `0.02`, `fits="6GiB"` or bytes, a list as
`"q4_k_m,q8_0"` or a sequence, a path as text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypedDict

Path_ = str | os.PathLike[str]
Names = str | Iterable[str]
Texts = Path_ | Iterable[Path_]


class RedoOptions(TypedDict, total=False):
    """Whether what is there counts.

    Args:
        force: redo everything, and overwrite what ggufkit did not make.
        explain: say why each step runs or is skipped.
    """

    force: bool
    explain: bool


class CpuOptions(RedoOptions, total=False):
    """The same, and how many threads work."""

    threads: int


class RunOptions(CpuOptions, total=False):
    """The same, and what llama.cpp computes on: "auto", "cpu", "cuda" …, with so many layers, or "auto"."""

    backend: str
    ngl: int | str | None


class SourceOptions(TypedDict, total=False):
    """Where a model comes from.

    Args:
        hub: "auto", "hf" or "modelscope"; `--from` on the command line.
        allow_pickle: accept weights in *.bin where there are no safetensors.
        lora: directory of a LoRA adapter to merge first.
    """

    hub: str
    allow_pickle: bool
    lora: Path_ | None


class ConversionOptions(TypedDict, total=False):
    """What a conversion may be told; `mtp` False leaves out the layers that predict further tokens, True insists on them."""

    pre: str | None
    allow_token_mismatch: bool
    allow_losses: bool
    check_function: bool | None
    mtp: bool | None
    force_toolchain: bool
    mmproj: str


class OverrideOptions(TypedDict, total=False):
    """What llama-quantize is told besides a type: `tensor_type="attn_v=q8_0"`, or several of these."""

    tensor_type: str | Iterable[str]
    tensor_type_file: Path_ | None
    output_tensor_type: str | None
    token_embedding_type: str | None
    leave_output_tensor: bool
    pure: bool
    override_kv: str | Iterable[str]
    prune_layers: str | Iterable[int]


class ChoosingOptions(TypedDict, total=False):
    """How types are measured: "quick", "default" or "thorough", and which there are to choose from."""

    effort: str
    types_allowed: Names


class TextOptions(TypedDict, total=False):
    """The text to calibrate on, or several that are mixed, `["chats.jsonl:0.5", "prose.txt"]`: paths or names; how many
    samples of 512 tokens; its field in JSON."""

    calibration: Texts
    calibration_samples: int
    calibration_field: str


class CalibrationOptions(TextOptions, total=False):
    """The same where samples are drawn."""

    seed: int


class ScalingOptions(TypedDict, total=False):
    """How AWQ scales are found."""

    awq_engine: str
    awq_objective: str
    awq_dtype: str
    awq_per_type: bool


class EvaluationOptions(TypedDict, total=False):
    """What quality is measured on, and until when: `ctx=4096` or several, `kv_types="q8_0,q4_0"`, `chunks=100` or "all",
    `precision="2%"`, `scratch_limit="8GiB"`."""

    corpus: Texts
    ctx: int | str | Iterable[int]
    kv_types: Names
    chunks: int | str | None
    precision: str | float | None
    scratch_limit: str | int
    strategy: str | None


class BuildOptions(
    SourceOptions, ConversionOptions, OverrideOptions, ChoosingOptions, CalibrationOptions, ScalingOptions,
    EvaluationOptions, RunOptions, total=False,
):  # fmt: skip
    """Everything else that a build may be told."""

    base_type: str
    imatrix: Path_ | None
    process_output: bool
    distill: bool
    eval: bool
    kld: bool
    bench: bool
    bench_reps: int
    smoke: bool
    metrics: Names
    tasks: Names
    tasks_samples: int | str | None
    variant_option: str | Iterable[str]
    split: str | int | None
    fits: str | int | None
    fits_ctx: int
    fits_kv: str
    allow_requantize: bool


class ConvertOptions(SourceOptions, ConversionOptions, RedoOptions, total=False):
    """What else a conversion may be told."""


class ImatrixOptions(TextOptions, RunOptions, total=False):
    """What else an importance matrix may be told."""

    process_output: bool


class QuantizeOptions(OverrideOptions, ChoosingOptions, CpuOptions, total=False):
    """What else quantizing may be told."""

    recipe: Path_ | None
    imatrix: Path_ | None
    calibration: Texts | None
    calibration_field: str
    allow_requantize: bool
    split: str | int | None


class AwqOptions(SourceOptions, CalibrationOptions, ScalingOptions, CpuOptions, total=False):
    """What else AWQ may be told."""

    for_imatrix: bool
    device: str


class RefineOptions(CalibrationOptions, CpuOptions, total=False):
    """What else refining may be told."""

    sequential: bool
    act_order: str
    include_output: bool
    tune_norms: bool
    distill: bool
    device: str


class RecipeOptions(ChoosingOptions, TextOptions, RunOptions, total=False):
    """What else the choice of types may be told."""

    curve: bool
    imatrix: Path_ | None
    at_least: str | Iterable[str]
    speed: str | float
    for_gptq: str
    include_output: bool


class PerplexityOptions(EvaluationOptions, RunOptions, total=False):
    """What else a measurement of quality may be told."""


class TasksOptions(RunOptions, total=False):
    """What else a measurement by tasks may be told: which, how many questions of each, with which seed."""

    tasks: Names
    tasks_samples: int | str | None
    seed: int


class BenchOptions(RunOptions, total=False):
    """What else a measurement of speed may be told."""

    bench_reps: int


class ServeOptions(RunOptions, total=False):
    """How a model is served.

    Args:
        host: the address to listen on, 127.0.0.1 by default.
        port: the port, a free one by default.
        name: what clients call the model, by default the file's name.
        api_key: what clients must show; one is made up where the address is not of this machine alone.
        ctx: tokens of context, or "auto" for what fits.
        kv_type: the type of keys and values: "f16", "q8_0" …, or "auto".
        slots: answers at once, which share the context.
        mmproj: what reads images or sound, by default the file beside the model that is called so; `no_mmproj` for none.
        lora, control_vector: GGUF adapters and control vectors that change the model: `"FILE"`, `"FILE=0.5"`, or several.
        draft: a small model of the same vocabulary that guesses tokens; or, with `mtp`, the model's own MTP layers do.
        draft_max, draft_min: tokens guessed at once, at most and at least.
    """

    host: str
    port: int
    name: str | None
    api_key: str | None
    ctx: int | str | None
    kv_type: str | None
    slots: int
    mmproj: Path_ | None
    no_mmproj: bool
    lora: Path_ | Iterable[Path_]
    control_vector: Path_ | Iterable[Path_]
    draft: Path_ | None
    mtp: bool
    draft_max: int | None
    draft_min: int | None


class LoraOptions(CpuOptions, total=False):
    """What else a conversion of an adapter may be told."""

    check_function: bool | None
    force_toolchain: bool


class SweepOptions(TypedDict, total=False):
    """Which part of a sweep file is wanted, and where its workers come from.

    Args:
        profiles: of the file, by name; all by default.
        workers: so many on this machine.
        scheduler: the address of a Dask scheduler that is there, "tcp://HOST:8786".
        system: the queue whose jobs are workers: "slurm", "pbs", "lsf", "sge", "oar" or "htcondor", as the file asks for.
        store: a URL under which workers find files that do not see the output directory, "s3://…".
        force: make all anew.
        against: an earlier sweep.csv, to tell what loses more now.
    """

    profiles: Names
    workers: int | None
    scheduler: str
    system: str
    store: str
    force: bool
    against: Path_ | None
