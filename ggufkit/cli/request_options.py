"""The options of a build, of which other commands take a part: names and defaults are the request's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from ggufkit import request, spellings
from ggufkit.cli import completion
from ggufkit.cli.options import Decorator, grouped
from ggufkit.cli.parameter_types import DIRECTORY, of_kind
from ggufkit.cli.terminal import say
from ggufkit.commands.tasks import Tasks
from ggufkit.core import machine, values, variants
from ggufkit.llama import targets
from ggufkit.refine.options import RefineOptions
from ggufkit.report.choose import MemoryBudget
from ggufkit.request import CalibrationOptions, EvaluationOptions, OverrideOptions, RunOptions, Source
from ggufkit.steps.awq import ScalingOptions
from ggufkit.steps.convert import ConvertOptions
from ggufkit.texts.tasks.known import TASKS as TASK_NAMES
from ggufkit.texts.tasks.questions import Drawn

_TYPES = {name: of_kind(kind) for name, kind in spellings.KINDS.items() if kind != values.SWITCH}
"""The parameter type of each option that has a value."""


def _option(name: str, *spellings: str, help: str, **more: Any) -> Decorator[Any]:  # noqa: A002 - click's own word
    """An option of a build. A switch that is not off by default is `--name / --no-name`."""
    default, words = request.default(name), name.replace("_", "-")
    if isinstance(default, bool) or "is_flag" in more:
        given = f"--{words}" if default is False else f"--{words}/--no-{words}"
        more = {"is_flag": True, "show_default": default, **more}
        return click.option(given, name, default=default, help=help, **more)
    more = {"type": _TYPES[name], "default": default, "show_default": default is not None, **more}
    return click.option(*spellings, f"--{words}", name, help=help, **more)


def _several(name: str, **more: Any) -> Decorator[Any]:
    """An option that may be given several times, whose default is one value."""
    default = request.default(name)
    return _option(name, multiple=True, default=(default,), show_default=default, **more)


def _group(name: str, kind: type, *options: Decorator[Any]) -> Decorator[Any]:
    return grouped(name, partial(request.group_of, kind), *options)


def _from_its_start(given: dict[str, Any]) -> CalibrationOptions:
    """The text of an importance matrix; its samples were called chunks before."""
    if (chunks := given.pop("chunks")) is not None:
        say("Note: --chunks of `ggufkit imatrix` is called --calibration-samples now.", err=True)
        given["calibration_samples"] = chunks
    return request.group_of(CalibrationOptions, given)


HUB = _option("hub", "--from", help="Hub to ask; auto: a cache, then the one that answers.")
ALLOW_PICKLE = _option("allow_pickle", help="Accept weights in *.bin where there are no safetensors.")
LORA = _option("lora", type=DIRECTORY, metavar="DIR", help="A LoRA adapter to merge first.")
ALLOW_REQUANTIZE = _option("allow_requantize", help="Accept a .gguf that is quantized already.")
SOURCE = (HUB, ALLOW_PICKLE, LORA)

BASE_TYPE = _option("base_type", help="Type of the base.")
CONVERSION = (
    _option("pre", metavar="NAME", help="llama.cpp's name of the BPE pre-tokenizer, instead of detecting it."),
    _option("allow_token_mismatch", help="Accept a vocabulary that tokenizes differently."),
    _option("allow_losses", help="Accept what the converter leaves out: tokens, rope settings."),
    _option(
        "check_function",
        is_flag=True,
        show_default="below 1 B parameters",
        help="Compare what the base computes with transformers.",
    ),
    _option(
        "mtp",
        is_flag=True,
        show_default="where there are some",
        help="Layers that predict further tokens, to draft with: they must be in the file, or are left out.",
    ),
    _option("force_toolchain", help="Accept a converter of another commit than the tools."),
    _option(
        "mmproj", help="Type of what reads images or sound, a file of its own; auto: f16 where there is such."
    ),
)

OVERRIDES = (
    _option("tensor_type", multiple=True, show_default=False, metavar="PATTERN=TYPE",
            help="Type of the tensors in whose names the expression is found, e.g. attn_v=q8_0; repeatable."),
    _option("tensor_type_file", metavar="FILE", help="The same from a file, as llama-quantize has it."),
    _option("output_tensor_type", metavar="TYPE", help="Type of the output matrix."),
    _option("token_embedding_type", metavar="TYPE", help="Type of the token embedding."),
    _option("leave_output_tensor", help="Do not quantize the output matrix."),
    _option("pure", help="One type for all tensors, no mix."),
    _option("override_kv", multiple=True, show_default=False, metavar="KEY=TYPE:VALUE",
            help="Metadata to set: int, float, bool or str; repeatable."),
    _option("prune_layers", show_default=False, metavar="LIST", help="Layers to leave out, e.g. 20,21."),
)  # fmt: skip

CHOOSING = (
    _option("effort", help="How much is measured for types chosen by measurement."),
    _option("types_allowed", show_default="what is fast on the backend", metavar="LIST",
            shell_complete=completion.tensor_types, help="Tensor types that these are chosen from, e.g. q3_k,q4_k,q6_k."),
)  # fmt: skip

TEXT = _several("calibration", metavar="PATH|NAME[:SHARE]", shell_complete=completion.texts,
                help="Text for importance matrices, AWQ and GPTQ: like the use, unlike the corpus. "
                     "Several are mixed.")  # fmt: skip
SAMPLES = _option(
    "calibration_samples",
    help="Samples of 512 tokens; importance matrices take them from the start.",
)
FIELD = _option("calibration_field", metavar="NAME", help="Field that holds the text, in JSON and JSONL.")
SEED = _option("seed", help="Seed of the samples drawn.")
OUTPUT = _option(
    "process_output", help="Importance matrices for the output matrix, too, or an embedding that is it."
)
IMATRIX = _option("imatrix", help="Your own importance matrix, for --variants imatrix, gptq.")
CALIBRATION = (TEXT, SAMPLES, FIELD, SEED)

SCALING = (
    _option("awq_engine", help="Ours, or AutoAWQ in an environment of its own."),
    _option("awq_objective", help="What our engine minimizes: the error under llama.cpp's types, or AutoAWQ's."),
    _option("awq_dtype", help="Of the scaled checkpoint; float32 loses nothing."),
    _option("awq_per_type", help="Scales for each type instead of for all of them."),
)  # fmt: skip

DISTILL = _option(
    "distill", help="Then tune super-scales, norms and biases end to end; 12 bytes of memory a weight."
)

CORPUS = _several("corpus", metavar="PATH|NAME", shell_complete=completion.texts,
                  help="Evaluation text; repeatable: the first is the table's.")  # fmt: skip
CTX = _option("ctx", metavar="LIST", help="Context in tokens, as in llama-perplexity; or several, e.g. 512,4096.")
KV_TYPES = _option("kv_types", metavar="LIST", show_default=False,
                   help="Types of KV caches to measure as well, e.g. q8_0,q4_0.")  # fmt: skip
CHUNKS = _option(
    "chunks",
    default="all",
    show_default=True,
    help="How many chunks of the text to evaluate; in further contexts as much text.",
)
EVAL = _option("eval", help="Measure quality: perplexity and KL divergence.")
KLD = _option("kld", help="KL divergence against the base.")
PRECISION = _option("precision", metavar="PERCENT",
                    help="Evaluate only until mean KL divergence is known to this, e.g. 2%.")  # fmt: skip
SCRATCH = _option("scratch_limit", default=f"{request.default('scratch_limit') >> 30}GiB",
                  help="The most disk that base logits may take.")  # fmt: skip
STRATEGY = _option("strategy", show_default="chosen by what fits",
                   help="How base logits travel.")  # fmt: skip
BENCH = _option("bench", help="Measure speed.")
BENCH_REPS = _option("bench_reps", "-r", help="Repetitions of llama-bench.")
SMOKE = _option("smoke", help="Let each file speak; fail on garbage that the base does not speak.")

METRICS = _option("metrics", metavar="LIST", show_default=False,
                  help="What installed packages measure besides, by name.")  # fmt: skip
TASKS = _option("tasks", metavar="LIST", show_default=False, shell_complete=completion.tasks,
                help=f"Questions to ask: {', '.join(TASK_NAMES)}, or files of your own.")  # fmt: skip
TASKS_SAMPLES = _option("tasks_samples", metavar="N|all", help="Questions of each task, drawn with --seed.")
VARIANT_OPTION = _option("variant_option", multiple=True, show_default=False, metavar="NAME.OPTION=VALUE",
                         help="What a variant of an installed package is told; repeatable.")  # fmt: skip

FITS = _option("fits", help="Memory that you have, e.g. 6GiB: the best file for it.")
FITS_CTX = _option("fits_ctx", help="Context in tokens to run with, for --fits.")
FITS_KV = _option("fits_kv", help="Type of the KV cache to run with, for --fits.")

SPLIT = _option("split", help="Files in parts of at most this size, as llama.cpp splits them, e.g. 50GB.")

THREADS = _option("threads", default=machine.physical_cores,
                  show_default="physical cores", help="CPU threads.")  # fmt: skip
FORCE = _option("force", help="Redo everything, and overwrite what ggufkit did not make.")
EXPLAIN = _option("explain", help="Say why each step runs or is skipped.")
BACKEND = (
    _option("backend", help="What llama.cpp computes on."),
    _option(
        "ngl",
        default="auto",
        show_default=True,
        help="Layers on the GPU; auto: all that fit.",
    ),
    THREADS,
)

source_options = _group("source", Source, *SOURCE)
"""--from, --allow-pickle, --lora."""
conversion_options = _group(
    "conversion",
    ConvertOptions,
    click.option("--type", "base_type", type=_TYPES["base_type"], default=request.default("base_type"), show_default=True,
                 help="Type of the result."),
    *CONVERSION,
)  # fmt: skip
"""What a conversion may be told."""
override_options = _group("overrides", OverrideOptions, *OVERRIDES)
"""--tensor-type and what else llama-quantize is told besides a type."""
calibration_options = _group("calibration", CalibrationOptions, *CALIBRATION)
"""--calibration and what belongs to it."""
_FROM_ITS_START = (
    _several(
        "calibration",
        metavar="PATH|NAME[:SHARE]",
        shell_complete=completion.texts,
        help="The text: like the use, unlike what is evaluated; several are mixed.",
    ),
    _option("calibration_samples", help="Chunks of 512 tokens, from its start."),
    FIELD,
    click.option("--chunks", type=_TYPES["calibration_samples"], hidden=True),
)
text_options = grouped("calibration", _from_its_start, *_FROM_ITS_START)
"""The same where the text is read from its start."""
matrix_options = grouped("calibration", _from_its_start, *_FROM_ITS_START, OUTPUT)
"""The same for an importance matrix."""
scaling_options = _group(
    "scaling",
    ScalingOptions,
    *SCALING,
    click.option(
        "--device",
        type=_TYPES["device"],
        default=ScalingOptions.device,
        show_default=True,
        help="What the search runs on.",
    ),
)
"""--awq-engine and so on."""
refinement_options = _group(
    "refinement",
    RefineOptions,
    click.option("--sequential/--one-pass", default=RefineOptions.sequential, show_default=True,
                 help="Refine each layer for what the refined ones before it give."),
    click.option("--act-order", type=_TYPES["act_order"], default=RefineOptions.act_order,
                 show_default=True, help="Columns by weight of their input; auto: as it measures better."),
    click.option("--include-output", is_flag=True, help="Refine the output matrix too."),
    click.option("--tune-norms", is_flag=True, help="Tune norms and biases afterwards; wants 500 samples or more."),
    DISTILL,
    click.option("--device", type=_TYPES["device"], default=RefineOptions.device, show_default=True,
                 help="What the refinement runs on."),
)  # fmt: skip
"""What a refinement may be told."""
evaluation_options = _group(
    "evaluation", EvaluationOptions, CORPUS, CTX, KV_TYPES, CHUNKS, PRECISION, SCRATCH, STRATEGY
)
"""--corpus, --ctx, --chunks and how they are evaluated."""
bench_options = _group("evaluation", EvaluationOptions, BENCH_REPS)
"""--bench-reps."""
budget_options = grouped("budget", lambda given: MemoryBudget(given["fits"], given["fits_ctx"], given["fits_kv"]),
                         FITS, FITS_CTX, FITS_KV)  # fmt: skip
"""--fits, --fits-ctx, --fits-kv."""
task_options = grouped(
    "wanted",
    lambda given: Tasks(given["tasks"], Drawn(given["tasks_samples"], given["seed"])),
    click.option("--tasks", type=_TYPES["tasks"], default=",".join(TASK_NAMES), show_default=True, metavar="LIST",
                 shell_complete=completion.tasks, help="Which to ask; or files of your own, also as NAME=FILE."),
    TASKS_SAMPLES,
    _option("seed", help="Seed of the questions drawn."),
)  # fmt: skip
"""--tasks, --tasks-samples, --seed."""
run_options = _group("run", RunOptions, *BACKEND, FORCE, EXPLAIN)
"""--backend, --ngl, --threads, --force, --explain."""
backend_options = _group("run", RunOptions, *BACKEND)
"""Of these what a command has that keeps nothing."""
cpu_options = _group("run", RunOptions, THREADS, FORCE, EXPLAIN)
"""Of these what a command has that needs no GPU, or chooses by itself."""
redo_options = _group("run", RunOptions, FORCE, EXPLAIN)
"""--force and --explain."""

build_options: Callable[[Any], Any] = grouped(
    "wanted",
    lambda given: request.BuildRequest(**given),
    click.argument("model", shell_complete=completion.models),
    click.option("--types", type=_TYPES["types"], default=",".join(request.DEFAULT_TYPES), show_default=True,
                 metavar="LIST", shell_complete=completion.types,
                 help=f"Types of llama-quantize, comma-separated; or {targets.FORMS}."),
    click.option("--variants", type=_TYPES["variants"], default=",".join(request.DEFAULT_VARIANTS),
                 show_default=True, metavar="LIST", shell_complete=completion.some_variants,
                 help=f"Any of {', '.join(variants.names())}."),
    click.option("--out", type=_TYPES["out"],
                 help="Output directory.  [default: ./<name>; ./<name>-gguf where ./<name> is MODEL]"),
    BASE_TYPE,
    *OVERRIDES,
    *CHOOSING,
    *CALIBRATION,
    IMATRIX,
    OUTPUT,
    VARIANT_OPTION,
    *SCALING,
    DISTILL,
    EVAL, CORPUS, CTX, KV_TYPES, CHUNKS, KLD, PRECISION, SCRATCH,
    BENCH, BENCH_REPS, SMOKE, METRICS, TASKS, TASKS_SAMPLES, FITS, FITS_CTX, FITS_KV,
    SPLIT,
    *BACKEND,
    *SOURCE,
    *CONVERSION,
    ALLOW_REQUANTIZE, FORCE, EXPLAIN,
)  # fmt: skip
"""Everything that a build may be asked for, as a `BuildRequest`."""
