"""What llama.cpp's tools print -> records. Pure functions of text.

Two families of output are read: older builds print plain lines; newer ones put a time stamp and a level
before each line (`0.14.173.445 I `) and split some lines over both streams.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePath

from ggufkit.core.errors import ToolOutputError
from ggufkit.core.jsonfile import parse_json
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import QuantType

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_STAMP = re.compile(r"(?m)^\d+\.\d\d\.\d{3}\.\d{3} [A-Z] ")
_PPL = r"(-?\d+\.\d{4}|-?nan|-?inf)"
_COUNT = r"(\d{1,9})"
"""What a tool counts; more digits are garbled output, and take no end to read."""


def plain(text: str) -> str:
    """The text without colours, time stamps and carriage returns."""
    return _STAMP.sub("", _ANSI.sub("", text)).replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Estimate:
    """Perplexity (dimensionless) and its standard error over `n_chunks` chunks of `n_ctx` tokens."""

    ppl: float
    stderr: float
    n_chunks: int
    n_ctx: int


_CHUNK = re.compile(rf"\[{_COUNT}\]{_PPL},")
_FINAL = re.compile(rf"Final estimate: PPL = {_PPL} \+/- (-?\d+\.\d{{5}}|-?nan|-?inf)\s")
_COMPUTING = re.compile(rf"(?:calculating perplexity|computing) over {_COUNT} chunks, n_ctx={_COUNT}\b")
_GAVE_UP = re.compile(r"(?m)^(?:perplexity|kl_divergence)\s*: (?:failed to decode|you need at least)")


def parse_perplexity(output: ToolOutput) -> Estimate:
    """Read the final estimate of llama-perplexity.

    Raises:
        ToolOutputError: no final estimate was printed (llama-perplexity can exit 0 without one), it contradicts
            the running values, or it is not a finite number.
    Source: `tools/perplexity/perplexity.cpp`, "Final estimate".
    """
    text = plain(output.stderr) + "\n" + plain(output.stdout) + "\n"
    chunks = [(int(k), float(v)) for k, v in _CHUNK.findall(text)]
    _require_finite(chunks, output)
    final, computing = _FINAL.findall(text), _COMPUTING.search(text)
    if len(final) != 1 or computing is None:
        raise ToolOutputError(f"llama-perplexity gave no final estimate: {explain_missing(text)}", log=output.log)
    ppl, stderr = (float(x) for x in final[0])
    n_chunks, n_ctx = (int(x) for x in computing.groups())
    if not are_counted([k for k, _ in chunks], n_chunks) or f"{chunks[-1][1]:.4f}" != f"{ppl:.4f}":
        raise ToolOutputError("llama-perplexity's estimate does not follow from its chunks.", log=output.log)
    if not (math.isfinite(ppl) and math.isfinite(stderr)):
        raise ToolOutputError(f"llama-perplexity's estimate is not a number: {ppl} ± {stderr}.", log=output.log)
    return Estimate(ppl, stderr, n_chunks, n_ctx)


def are_counted(numbers: Sequence[int], total: int) -> bool:
    """Whether numbers count from 1 up to `total`, which may be anything."""
    return bool(numbers) and len(numbers) == total and list(numbers) == list(range(1, len(numbers) + 1))


def _require_finite(chunks: list[tuple[int, float]], output: ToolOutput) -> None:
    for index, value in chunks:
        if not math.isfinite(value):
            message = f"The perplexity of {model_of(output)} became {value} at chunk {index}."
            hint = "The file or the backend is broken for this text: try --backend cpu, or a BF16 base."
            raise ToolOutputError(message, hint=hint, log=output.log)


def lost_tail(output: ToolOutput) -> bool:
    """Whether the pass ended well but its end was not printed, as happens to short passes and under load."""
    text = plain(output.text)
    finite = all(math.isfinite(float(value)) for _, value in _CHUNK.findall(text))
    reason = re.search(r"(?i)you need at least|failed|error", text)
    return output.returncode == 0 and finite and reason is None and _COMPUTING.search(text) is not None


def ended_truly(output: ToolOutput) -> ToolOutput:
    """The run; with exit code 1 where llama-perplexity could not compute, or had too little text: it exits with 0."""
    gave_up = output.returncode == 0 and _GAVE_UP.search(plain(output.text)) is not None
    return replace(output, returncode=1) if gave_up else output


def too_short(text: str) -> bool:
    """Whether llama-perplexity says that the text has too few tokens for it."""
    return "you need at least" in text


def not_loaded(text: str) -> bool:
    """Whether llama-bench says that the model cannot be loaded, or computed with."""
    return re.search("failed to (load model|create context)", text) is not None


def model_of(output: ToolOutput) -> str:
    """The name of the file that a tool was run on."""
    argv = output.argv
    return PurePath(argv[argv.index("-m") + 1]).name if "-m" in argv[:-1] else "the model"


def explain_missing(text: str) -> str:
    """The tool's own reason for printing no result, or that it gave none."""
    reasons = re.findall(r"(?mi)^.*(?:you need at least|tokenizes to only|failed|error|unable to).*$", plain(text))
    telling = [line for line in reasons if not line.startswith("ggml_cuda_init")]  # where GPUs are hidden
    return "; ".join(re.sub(r"^\w+\s*: ", "", line.strip()) for line in telling[:2]) or "it printed no reason."


@dataclass(frozen=True)
class Placement:
    """Where a tool ran: buffers as it printed them ("CPU", "CUDA0"), and layers on the GPU of how many.

    `devices` describes the devices that hold weights: {"CUDA0": "NVIDIA H200"}.
    """

    buffers: tuple[str, ...]
    layers_on_gpu: int
    n_layers: int | None
    devices: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> str | None:
        """The GPUs that hold weights, by their own names where the tool gave them; None on a CPU.

        A CPU may hold weights in several ways: CPU_Mapped, CPU_REPACK, AMX. GPUs are what the tool called devices.
        """
        known = [self.devices[b] for b in self.buffers if b in self.devices]
        unnamed = [b for b in self.buffers if b != "AMX" and not b.startswith("CPU") and "_Host" not in b]
        return ", ".join(dict.fromkeys(known or unnamed)) or None


_BUFFER = re.compile(r"load_tensors:\s+(\S+) model buffer size =\s+(\d+(?:\.\d+)?) MiB")
_DEVICE = re.compile(r"using device (\S+) \((.+?)\) \(.*\) - \d+ MiB free")
_OFFLOADED = re.compile(rf"offloaded {_COUNT}/{_COUNT} layers to GPU")


def parse_placement(output: ToolOutput) -> Placement:
    """Which devices hold the weights. The last load counts: fitting the model to memory loads it several times."""
    text = plain(output.stderr)
    offloaded = _OFFLOADED.findall(text)
    held = {name for name, size in _BUFFER.findall(text) if float(size) > 0}
    done, total = (int(x) for x in offloaded[-1]) if offloaded else (0, None)
    return Placement(tuple(sorted(held)), done, total, dict(_DEVICE.findall(text)))


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of a quantization: its shape (contiguous dimension first), its type before and after."""

    name: str
    shape: tuple[int, ...]
    before: str
    after: str


@dataclass(frozen=True)
class QuantizePlan:
    """What llama-quantize did, or would do. `bpw` is bits per weight; `n_fallback` counts substituted tensors.

    `needs_imatrix` is only said by a dry run without one.
    """

    tensors: tuple[TensorPlan, ...]
    bpw: float
    n_fallback: int
    fallbacks: tuple[tuple[str, str, str], ...]
    needs_imatrix: bool


_TENSOR = re.compile(rf"(?m)^\[ *{_COUNT}/ *{_COUNT}\] +")
_TENSOR_HEAD = re.compile(r"(\S+) +- \[ *(\d{1,12}(?:, *\d{1,12})*)\], type = +(\w+), ")
_UNCHANGED = re.compile(r"size = +[\d.]+ MiB\n")
_CHANGED = re.compile(r"converting to (\w+) \.\. .*-> +[\d.]+ MiB\n|-> +[\d.]+ MiB \((\w+)\)\n")
_FALLBACK = re.compile(
    r"(?m)(?<!\S)(\S+)\s+- ncols.*required for type\s+(\w+)\) (?:\([^()\n]*\) )?-> falling back to\s+(\w+)"
)
_QUANT_SIZE = re.compile(r"quant size\s+=\s+[\d.]+ MiB \((\d+(?:\.\d+)?) BPW\)")
_N_FALLBACK = re.compile(rf"WARNING: {_COUNT} of \d+ tensor\(s\) required fallback quantization")


def parse_quantize(output: ToolOutput, n_pruned: int = 0) -> QuantizePlan:
    """Read what llama-quantize printed, of a dry run or a real one.

    Args:
        n_pruned: tensors that were left out: the tool numbers and counts as if they were there.

    Raises:
        ToolOutputError: the closing size line is missing, or the lines contradict each other.
    Source: `src/llama-quant.cpp`.
    """
    text = plain(output.text) + "\n"
    sizes, count = _QUANT_SIZE.findall(text), _N_FALLBACK.search(text)
    if not sizes:
        raise ToolOutputError(f"llama-quantize printed no size: {explain_missing(text)}", log=output.log)
    fallbacks = tuple(dict.fromkeys(_FALLBACK.findall(text)))
    n_fallback, tensors = int(count[1]) if count else 0, _tensor_plans(text, n_pruned)
    known = {tensor.name for tensor in tensors or ()}
    # Older builds count the fallbacks without listing them in this form.
    listed = not fallbacks or (len(fallbacks) == n_fallback and known.issuperset(name for name, _, _ in fallbacks))
    if len(sizes) != 1 or tensors is None or not listed:
        raise ToolOutputError("llama-quantize's output is incomplete or mixed up.", log=output.log)
    return QuantizePlan(
        tensors, float(sizes[0]), n_fallback,
        tuple((name, wanted.upper(), got.upper()) for name, wanted, got in fallbacks),
        "will require an imatrix" in text,
    )  # fmt: skip


def invalid_tensor(output: ToolOutput) -> str | None:
    """The tensor whose values llama-quantize found to be none: NaN or infinite."""
    found = re.search(r"tensor '([^'\n]+)' has invalid data", output.text)
    return found[1] if found else None


def _tensor_plans(text: str, n_pruned: int) -> tuple[TensorPlan, ...] | None:
    """The plan of each tensor, or None when a line is broken or missing."""
    _, *parts = _TENSOR.split(text)
    plans = [_tensor_plan(part) for part in parts[2::3]]
    numbers = [(int(i), int(n)) for i, n in zip(parts[0::3], parts[1::3], strict=True)]
    if numbers != [(i, len(plans) + n_pruned) for i in range(1, len(plans) + 1)]:
        return None
    whole = [plan for plan in plans if plan is not None]
    return tuple(whole) if len(whole) == len(plans) else None


def _tensor_plan(part: str) -> TensorPlan | None:
    """Read what is printed of one tensor, up to the next; older builds put a remark on a line between."""
    head = _TENSOR_HEAD.match(part)
    if head is None:
        return None
    rest = part[head.end() :]
    changed = _CHANGED.search(rest)
    if changed is None and _UNCHANGED.match(rest) is None:
        return None
    shape = [int(d) for d in head[2].split(",")]
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    after = (changed[1] or changed[2]) if changed else head[3]
    return TensorPlan(head[1], tuple(shape), head[3].upper(), after.upper())


_TYPE = re.compile(r"(?m)^[ \t]*(?:\d+[ \t]+or[ \t]+)?([A-Z][A-Z0-9_]*)[ \t]*: (.*)$")


def parse_types(text: str) -> tuple[QuantType, ...]:
    """The types that llama-quantize lists in its help.

    Raises:
        ToolOutputError: the list is not there.
    """
    _, found, listing = plain(text).partition("allowed quantization types")
    types = tuple(QuantType(n, d.strip()) for n, d in _TYPE.findall(listing))
    if not found or not types:
        raise ToolOutputError("llama-quantize did not list the types it knows.")
    return types


@dataclass(frozen=True)
class Speed:
    """One test of llama-bench: tokens/s, their standard deviation over the repetitions; `ngl` layers on a GPU, -1: all."""

    n_prompt: int
    n_gen: int
    tps: float
    tps_stddev: float
    backends: str
    gpu_info: str
    cpu_info: str
    n_threads: int
    ngl: int


@dataclass(frozen=True)
class _BenchLine:
    """What is read of a line of llama-bench, by its own names."""

    n_prompt: int
    n_gen: int
    avg_ts: float
    stddev_ts: float
    backends: str
    n_threads: int
    gpu_info: str = ""
    cpu_info: str = ""
    n_gpu_layers: int = -1


def parse_bench(output: ToolOutput) -> tuple[Speed, ...]:
    """Read llama-bench's JSON lines. A line that was cut off is refused, not skipped.

    Raises:
        ToolOutputError: no test was finished, or a value is not a positive number.
    """
    refusal = partial(ToolOutputError, log=output.log)
    lines = [line for line in output.stdout.splitlines() if line.startswith("{")]
    rows = [
        parse_json(line, _BenchLine, "A line of llama-bench", refusal, hint="Repeat the command.")
        for line in lines
    ]
    if not rows or not all(_is_sound(row) for row in rows):
        raise refusal(f"llama-bench gave no speeds: {explain_missing(output.text)}")
    return tuple(
        Speed(
            r.n_prompt,
            r.n_gen,
            r.avg_ts,
            r.stddev_ts,
            r.backends,
            r.gpu_info,
            r.cpu_info,
            r.n_threads,
            r.n_gpu_layers,
        )
        for r in rows
    )


def _is_sound(row: _BenchLine) -> bool:
    counts = (row.n_prompt, row.n_gen, row.n_threads)
    speeds = math.isfinite(row.avg_ts + row.stddev_ts) and row.avg_ts > 0 and row.stddev_ts >= 0
    return speeds and all(0 <= count < 1 << 31 for count in counts)


@dataclass(frozen=True)
class Version:
    """A tool's version text and the commit that it was built from ("unknown" if it does not say)."""

    version: str
    commit: str


_VERSION = re.compile(r"(?m)^version: (.+?) \((?:build \d+, commit )?([0-9a-f]{7,40}|unknown)\)\s*$")


def parse_version(text: str) -> Version:
    """Read `--version`: "version: 0.5.0-dev (build 1, commit 0c1e570)", or "version: 5038 (193c3e03)"."""
    match = _VERSION.search(plain(text))
    return Version(match[1], match[2]) if match else Version("unknown", "unknown")
