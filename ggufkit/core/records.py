"""The frozen records that flow between steps. Units are in the names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core.hashing import sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.part_names import stem_of

if TYPE_CHECKING:
    Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
else:
    Json = Any  # msgspec reads records, and knows no type that holds itself
"""What a manifest may hold."""


F16 = "f16"
"""The type of a KV cache where nobody asks for another."""


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint on disk, checked to be whole.

    `n_params` counts the elements of all weights; `tensor_bytes` is their size in the checkpoint's own dtype. `quantized`
    says what numbers it holds, or held before it was made one of floats ("FP8"); None for floats.
    """

    path: Path
    name: str
    source: str
    revision: str | None
    architecture: str
    n_params: int
    tensor_bytes: int
    quantized: str | None = None


@dataclass(frozen=True)
class Tensor:
    """One tensor of a GGUF. `shape` is in GGUF order: the contiguous dimension first."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_elements: int
    n_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """A complete GGUF, and with which type of KV cache it is run where it is measured.

    `type` names the type that holds most of its weight bytes, or a quantization mix.
    """

    path: Path
    size_bytes: int
    architecture: str
    type: str
    n_params: int
    tensor_bytes: int
    tensor_types: Mapping[str, int]
    sha256: str | None = None
    kv_type: str = F16

    @property
    def run(self) -> tuple[Path, str]:
        """What tells it from all others that are measured at once."""
        return self.path, self.kv_type

    @property
    def run_stem(self) -> str:
        """A name for what belongs to the file as it is run: logs."""
        return stem_of(self.path) if self.kv_type == F16 else f"{stem_of(self.path)}-kv-{self.kv_type}"

    @property
    def run_name(self) -> str:
        """The file as it is run, for people."""
        return self.path.name if self.kv_type == F16 else f"{self.path.name} with a KV cache in {self.kv_type}"

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors, as llama.cpp prints it; 0 without weights."""
        return 8 * self.tensor_bytes / self.n_params if self.n_params else 0.0

    def as_input(self) -> Input:
        """The file as a step reads it."""
        return Input(self.path, self.sha256 or sha256_file(self.path))


@dataclass(frozen=True)
class Target:
    """What the types of a file's tensors are chosen for, where llama-quantize does not choose them alone.

    Args:
        kind: "bpw", "size", "like", "kld", "recipe", or "mixed": a preset of which some tensors differ.
        label: the one that all writings of the same have: "4.50bpw", "like-Q4_K_M", "recipe-other".
        spec: how it is typed: "4.5bpw", "like:q4_k_m", "recipe:other.gguf".
        number: at most so many bits per weight, bytes or nats of mean KL divergence, of the first, second and fourth kind.
        preset: the type of llama-quantize, of "like" and "mixed".
        file: of "recipe": a recipe, or a GGUF whose types are copied.
        tensor_types: of "mixed": regular expressions of tensors' names and their types; the first that fits counts.
    """

    kind: str
    label: str
    spec: str
    number: float = 0
    preset: str = ""
    file: Path | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether types are chosen by measurement; else they are known beforehand."""
        return self.kind not in ("recipe", "mixed")


@dataclass(frozen=True)
class QuantType:
    """A type of a file: one that llama-quantize knows, with its own description; or, by its label, a `target`."""

    name: str
    description: str
    target: Target | None = None


@dataclass(frozen=True)
class Toolchain:
    """The llama.cpp in use: where its binaries are, where they come from, what they are."""

    dir: Path
    origin: str
    commit: str
    backend: str
    version: str
    source: Path | None = None

    @property
    def identity(self) -> str:
        """What decides the bytes that the tools write: the commit."""
        return self.commit

    def binary(self, name: str) -> Path:
        """The path of a tool, which may not be there."""
        return self.dir / name


@dataclass(frozen=True)
class Manifest:
    """How an artefact was made. Written beside it as `<file>.manifest.json`."""

    schema: int
    step: str
    step_version: int
    inputs: Mapping[str, str]
    params: Mapping[str, Json]
    toolchain: str | None
    argv: list[list[str]]
    output: Mapping[str, Json]
    started_at: str
    duration_s: float
    notes: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """What a measurement depends on. Quality is comparable within one corpus, context, chunk set and backend.

    `corpus` is the text as the user named it, `kv_type` the type of the KV cache and `depth` the tokens in it when timing
    began; all three are None in measurements of earlier versions, whose caches were F16 and, for timing, empty.
    """

    backend: str
    device: str
    ngl: int | None
    threads: int
    machine: str
    llama_cpp_commit: str
    corpus_sha256: str | None = None
    n_ctx: int | None = None
    n_chunks: int | None = None
    base_sha256: str | None = None
    corpus: str | None = None
    kv_type: str | None = None
    depth: int | None = None


@dataclass(frozen=True)
class Measurement:
    """One number about one file. `value` and `stderr` are in `unit`."""

    file_sha256: str
    metric: str
    value: float
    stderr: float | None
    unit: str
    conditions: Conditions


@dataclass(frozen=True)
class TaskScore:
    """How a file did in a task, and beside its base; None is "not measured".

    Args:
        task: its name, which columns begin with.
        n: questions.
        acc, acc_stderr: the fraction of right answers, and its standard error.
        chance: the expected fraction of who guesses.
        flips, flips_stderr: the fraction of the base's answers that changed from right to wrong or the other way.
        lost, gained: how many changed to wrong, and to right.
        p: of McNemar's exact test that both are as likely.
        data_sha256: of the questions as they were asked.
        llama_cpp_commit: of the toolchain.
    """

    task: str
    n: int
    acc: float
    acc_stderr: float | None
    chance: float
    data_sha256: str
    llama_cpp_commit: str
    flips: float | None = None
    flips_stderr: float | None = None
    lost: int | None = None
    gained: int | None = None
    p: float | None = None

    def columns(self) -> dict[str, Json]:
        """Those of the contract."""
        values = {"acc": self.acc, "acc_stderr": self.acc_stderr, "flips": self.flips}
        return {f"{self.task}_{name}": value for name, value in values.items()}


@dataclass(frozen=True)
class ResultRow:
    """One row of the results: one GGUF, or a checkpoint that was measured beside it, and all that is known about it.

    None is "not measured", never 0.

    Column by column this is the contract of `results.csv`; units are in `metrics.METRICS`.
    """

    name: str
    variant: str
    type: str
    file: str
    size_bytes: int
    n_params: int
    bpw: float
    n_fallback: int | None = None
    ppl: float | None = None
    ppl_stderr: float | None = None
    ppl_base: float | None = None
    ln_ppl_ratio: float | None = None
    ln_ppl_ratio_stderr: float | None = None
    kld_mean: float | None = None
    kld_stderr: float | None = None
    kld_median: float | None = None
    kld_p99: float | None = None
    kld_max: float | None = None
    same_top_p: float | None = None
    same_top_p_stderr: float | None = None
    rms_dp: float | None = None
    rms_dp_stderr: float | None = None
    pp_tps: float | None = None
    pp_tps_stddev: float | None = None
    tg_tps: float | None = None
    tg_tps_stddev: float | None = None
    eval_tps: float | None = None
    n_ctx: int | None = None
    n_chunks: int | None = None
    corpus_sha256: str | None = None
    backend: str | None = None
    device: str | None = None
    ngl: int | None = None
    llama_cpp_commit: str | None = None
    sha256: str | None = None
    cosine_mean: float | None = None
    cosine_stderr: float | None = None
    cosine_min: float | None = None
    kv_type: str | None = None
    format: str = "gguf"
    further: tuple[tuple[str, float], ...] = ()
    tasks: tuple[TaskScore, ...] = ()

    @property
    def is_gguf(self) -> bool:
        """Whether it is of a file that llama.cpp runs; else of a checkpoint, in the format that is named."""
        return self.format == "gguf"

    def columns(self) -> dict[str, Json]:
        """All columns by name; those of metrics that packages add and of tasks come last, and only where there are some."""
        own = {name: value for name, value in vars(self).items() if name not in VARYING}
        of_tasks = {name: value for score in self.tasks for name, value in score.columns().items()}
        return own | dict(self.further) | of_tasks


VARYING = ("further", "tasks")
"""Fields of a row whose columns are only there where something was measured for them."""


def further_metrics(rows: Iterable[ResultRow]) -> list[str]:
    """What metrics that packages add measured of any of these, without their errors."""
    names = dict.fromkeys(name for row in rows for name, _ in row.further)
    return [name for name in names if not (name.endswith("_stderr") and name.removesuffix("_stderr") in names)]
