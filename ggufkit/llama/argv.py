"""Typed parameters -> argv of llama.cpp's tools. Pure functions: nothing is run or looked up here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.core.records import F16, Toolchain
from ggufkit.llama.adapter import Adapter
from ggufkit.llama.task_files import HELLASWAG, MULTIPLE_CHOICE

Argv = list[str]


@dataclass(frozen=True)
class Compute:
    """Where a tool computes, and with which type of KV cache. `ngl` is the number of layers on the GPU, None for all that
    fit."""

    backend: str = "cpu"
    ngl: int | None = None
    threads: int = 1
    batch: int | None = None
    ubatch: int | None = None
    kv_type: str = F16

    @property
    def on_cpu(self) -> bool:
        """Whether no GPU has a part in it: without layers there, llama.cpp would still multiply large batches on it."""
        return self.backend == "cpu" or self.ngl == 0

    def options(self) -> Argv:
        """The options that llama-perplexity, llama-imatrix and llama-bench share."""
        argv = ["-t", str(self.threads)]
        if self.on_cpu:
            argv += ["-ngl", "0", "-dev", "none"]
        elif self.ngl is not None:
            argv += ["-ngl", str(self.ngl)]
        if self.batch is not None:
            argv += ["-b", str(self.batch)]
        if self.ubatch is not None:
            argv += ["-ub", str(self.ubatch)]
        if self.kv_type != F16:
            argv += [
                "-ctk",
                self.kv_type,
                "-ctv",
                self.kv_type,
                "-fa",
                "on",
            ]  # what is quantized is read by it alone
        return argv


@dataclass(frozen=True)
class Excerpt:
    """What part of a text a tool reads. `n_chunks` None means all of it.

    `special`: llama-imatrix parses special tokens in it, for which llama-perplexity has no option (see `special_tokens`).
    """

    corpus: Path
    n_ctx: int = 512
    n_chunks: int | None = None
    special: bool = False

    def options(self) -> Argv:
        """The options of llama-perplexity and llama-imatrix."""
        argv = ["-f", str(self.corpus), "-c", str(self.n_ctx)]
        return argv if self.n_chunks is None else [*argv, "--chunks", str(self.n_chunks)]


@dataclass(frozen=True)
class Overrides:
    """What llama-quantize is told besides the type of a whole file.

    A tensor's type is the one given for the output or the token embedding, else that of the first pattern found in its
    name, else the one that the file's type mixes in. For a float type of the file, patterns have no effect.

    Args:
        tensor_types: regular expressions and types of tensors: ("attn_v", "Q8_0").
        output: the type of `output.weight`; of the token embedding where that is the output, too.
        token_embedding: the type of the token embedding.
        leave_output: `output.weight` is not quantized.
        pure: no mix, but one type for all.
        kv: metadata to set, as the tool reads it: "llama.context_length=int:4096".
        prune_layers: numbers of layers that are left out.
    """

    tensor_types: tuple[tuple[str, str], ...] = ()
    output: str | None = None
    token_embedding: str | None = None
    leave_output: bool = False
    pure: bool = False
    kv: tuple[str, ...] = ()
    prune_layers: tuple[int, ...] = ()

    def options(self) -> Argv:
        """The options of llama-quantize."""
        argv = [
            word for pattern, kind in self.tensor_types for word in ("--tensor-type", f"{pattern}={kind.lower()}")
        ]
        argv += ["--output-tensor-type", self.output.lower()] if self.output is not None else []
        argv += (
            ["--token-embedding-type", self.token_embedding.lower()] if self.token_embedding is not None else []
        )
        argv += ["--leave-output-tensor"] if self.leave_output else []
        argv += ["--pure"] if self.pure else []
        argv += [word for pair in self.kv for word in ("--override-kv", pair)]
        argv += ["--prune-layers", ",".join(map(str, self.prune_layers))] if self.prune_layers else []
        return argv


@dataclass(frozen=True)
class Quantization:
    """Which GGUF is quantized to which type, and how: weighed by an importance matrix, or although it is quantized."""

    base: Path
    type_name: str
    imatrix: Path | None = None
    allow_requantize: bool = False
    overrides: Overrides = Overrides()

    def options(self) -> Argv:
        """The options of llama-quantize."""
        argv = ["--imatrix", str(self.imatrix)] if self.imatrix is not None else []
        argv += ["--allow-requantize"] if self.allow_requantize else []
        return [*argv, *self.overrides.options()]


def quantize(tools: Toolchain, wanted: Quantization, output: Path, threads: int) -> Argv:
    """llama-quantize: one GGUF -> one of another type."""
    tool = str(tools.binary("llama-quantize"))
    return [tool, *wanted.options(), str(wanted.base), str(output), wanted.type_name, str(threads)]


def quantize_plan(tools: Toolchain, wanted: Quantization) -> Argv:
    """llama-quantize --dry-run: every tensor's type and the final size, in milliseconds."""
    tool = str(tools.binary("llama-quantize"))
    return [tool, "--dry-run", *wanted.options(), str(wanted.base), wanted.type_name]


def list_types(tools: Toolchain) -> Argv:
    """llama-quantize's own list of the types that it knows."""
    return [str(tools.binary("llama-quantize")), "--help"]


def version(tools_dir: Path) -> Argv:
    """Print version, build number and commit."""
    return [str(tools_dir / "llama-bench"), "--version"]


def perplexity(tools: Toolchain, model: Path, excerpt: Excerpt, compute: Compute) -> Argv:
    """llama-perplexity. Verbosity 4 makes it say which device holds which layers."""
    tool = str(tools.binary("llama-perplexity"))
    return [tool, "-m", str(model), *excerpt.options(), *compute.options(), "-lv", "4"]


@dataclass(frozen=True)
class TaskExcerpt:
    """What tasks llama-perplexity does, all of a file, and in what room: so many sequences of so many tokens in all.

    Args:
        mode: of `task_files.MODES`.
    """

    mode: str
    file: Path
    n_tasks: int
    n_sequences: int
    n_ctx: int

    def options(self) -> Argv:
        """The options of llama-perplexity, whose context is that of one sequence."""
        count = (
            ["--hellaswag-tasks", str(self.n_tasks)] if self.mode == HELLASWAG else []
        )  # others take all by default
        argv = [f"--{self.mode}", "-bf" if self.mode == MULTIPLE_CHOICE else "-f", str(self.file), *count]
        return [*argv, "-np", str(self.n_sequences), "-c", str(-(-self.n_ctx // self.n_sequences))]


def tasks(tools: Toolchain, model: Path, asked: TaskExcerpt, compute: Compute) -> Argv:
    """llama-perplexity on tasks."""
    tool = str(tools.binary("llama-perplexity"))
    return [tool, "-m", str(model), *asked.options(), *compute.options(), "-lv", "4"]


def base_logits(tools: Toolchain, model: Path, logits: Path, excerpt: Excerpt, compute: Compute) -> Argv:
    """llama-perplexity that also writes what the model predicts to `logits`, a file or a named pipe."""
    return [*perplexity(tools, model, excerpt, compute), "--save-all-logits", str(logits)]


def first_logits(tools: Toolchain, model: Path, logits: Path, excerpt: Excerpt, compute: Compute) -> Argv:
    """llama-perplexity of one chunk in one batch, with a KV cache in F32, whose logits go into a file."""
    tool = str(tools.binary("llama-perplexity"))
    batch = replace(compute, batch=excerpt.n_ctx, ubatch=excerpt.n_ctx)
    options = [
        *replace(excerpt, n_chunks=1).options(),
        *batch.options(),
        "--no-warmup",
        "-ctk",
        "f32",
        "-ctv",
        "f32",
    ]
    return [tool, "-m", str(model), *options, "--save-all-logits", str(logits)]


def divergence(tools: Toolchain, model: Path, logits: Path, n_ctx: int, compute: Compute) -> Argv:
    """llama-perplexity against the base's predictions, which also hold the tokens to evaluate."""
    tool = [str(tools.binary("llama-perplexity")), "-m", str(model), "-c", str(n_ctx)]
    return [*tool, *compute.options(), "-lv", "4", "--kl-divergence", "--kl-divergence-base", str(logits)]


@dataclass(frozen=True)
class EarlierRun:
    """What llama-imatrix has summed up before: so many chunks from the start of the text, into a file."""

    n_chunks: int
    sums: Path


def imatrix(
    tools: Toolchain,
    model: Path,
    output: Path,
    excerpt: Excerpt,
    compute: Compute,
    earlier: EarlierRun | None = None,
) -> Argv:
    """llama-imatrix without its perplexity, which nobody reads and which costs a pass over all logits.

    Without that it tells how far it is at verbosity 5 only.

    Args:
        earlier: what to go on from; that part of the text is left out.
    """
    tool = str(tools.binary("llama-imatrix"))
    options = [*excerpt.options(), *compute.options(), "--no-ppl", "--output-format", "gguf", "-lv", "5"]
    options += ["--parse-special"] if excerpt.special else []
    if earlier is not None:
        options += ["--chunk", str(earlier.n_chunks), "--in-file", _csv(str(earlier.sums))]
    return [tool, "-m", str(model), "-o", str(output), *options]


def embedding(
    program: Path, model: Path, texts: Path | str, compute: Compute, n_ctx: int, *, pooling: str | None
) -> Argv:
    """llama-embedding: one embedding for each line of a file or text, as a JSON list on stdout.

    Args:
        pooling: how the embeddings of tokens become one, None as the model says.
    """
    given = ["-p", texts] if isinstance(texts, str) else ["-f", str(texts)]
    argv = [str(program), "-m", str(model), *given, "--embd-output-format", "array", "-c", str(n_ctx)]
    return [*argv, *([] if pooling is None else ["--pooling", pooling]), *compute.options()]


@dataclass(frozen=True)
class Timing:
    """What llama-bench times: tokens of prompt and of generation, how often, and how many tokens the context holds
    before."""

    n_prompt: int = 512
    n_gen: int = 128
    repetitions: int = 5
    depth: int = 0

    def options(self) -> Argv:
        """The options of llama-bench."""
        argv = ["-p", str(self.n_prompt), "-n", str(self.n_gen), "-r", str(self.repetitions)]
        return [*argv, "-d", str(self.depth)] if self.depth else argv


def bench(tools: Toolchain, model: Path, compute: Compute, timing: Timing) -> Argv:
    """llama-bench: prompt processing and generation, one JSON object a line."""
    tool = str(tools.binary("llama-bench"))
    return [tool, "-m", str(model), *timing.options(), *compute.options(), "-o", "jsonl"]


def _csv(value: str) -> str:
    """One value where the tool reads several, separated by commas."""
    return '"' + value.replace('"', '""') + '"' if set(value) & set(',"') else value


def _word(path: Path) -> str:
    """A path that no program takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


@dataclass(frozen=True)
class Conversion:
    """How a checkpoint is converted: to which float type, under which name, with which pre-tokenizer if not its own.

    `mtp` False leaves the layers out that predict further tokens.
    """

    out_type: str
    name: str
    pre: str | None = None
    mtp: bool = True

    def options(self) -> Argv:
        """The options of the launcher."""
        argv = ["--outtype", self.out_type, "--model-name", self.name]
        argv += [] if self.pre is None else ["--pre", self.pre]
        return argv if self.mtp else [*argv, "--no-mtp"]


def convert(source: Path, checkpoint: Path, output: Path, wanted: Conversion) -> Argv:
    """convert_hf_to_gguf.py, through the launcher: checkpoint -> one GGUF."""
    argv = [sys.executable, "-m", "ggufkit.llama.launcher", str(source), _word(checkpoint)]
    return [*argv, "--outfile", _word(output), *wanted.options()]


def convert_lora(script: Path, adapter: Path, base: Path, output: Path, out_type: str) -> Argv:
    """convert_lora_to_gguf.py, through its launcher: an adapter of peft's -> a GGUF adapter."""
    argv = [sys.executable, "-m", "ggufkit.llama.lora_launcher", str(script), _word(adapter)]
    return [*argv, "--base", _word(base), "--outfile", _word(output), "--outtype", out_type]


def adapters(option: str, given: Sequence[Adapter]) -> Argv:
    """Adapters, as all tools that compute with a model are told of them: by `--lora` or `--control-vector`."""
    return [
        word
        for one in given
        for word in (
            [option, _csv(str(one.file))]
            if one.scale == 1
            else [f"{option}-scaled", _csv(f"{one.file}:{one.scale:g}")]
        )
    ]
