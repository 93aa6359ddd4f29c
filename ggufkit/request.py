"""What `ggufkit build` is asked for: a few groups of options, each default in one place.

The command line, the commands that a report prints and the tables of the documentation have their defaults from here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ggufkit import spellings
from ggufkit.core import machine
from ggufkit.core.paths import user_path
from ggufkit.core.progress import Reporter
from ggufkit.core.records import F16, Toolchain
from ggufkit.llama import patterns, quants, toolchain
from ggufkit.llama.argv import Overrides
from ggufkit.measure.bench import BenchOptions
from ggufkit.measure.evaluation import EvalOptions
from ggufkit.models.sources import SourceOptions
from ggufkit.recipes.options import RecipeOptions
from ggufkit.refine.options import RefineOptions
from ggufkit.steps import tensor_types
from ggufkit.steps.awq import ScalingOptions
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts.calibration import Sampling
from ggufkit.texts.tasks.questions import Drawn

G = TypeVar("G")
DEFAULT_TYPES = ("q4_k_m", "q5_k_m", "q8_0", "f16")
DEFAULT_VARIANTS = ("plain",)


@dataclass(frozen=True)
class Source(SourceOptions):
    """Where a model comes from, and what is accepted.

    Args:
        lora: directory of a LoRA adapter that is merged into the checkpoint first.
        allow_requantize: accept a .gguf that is quantized already.
    """

    lora: Path | None = None
    allow_requantize: bool = False

    def __post_init__(self) -> None:
        """A path may be given as a string."""
        _as_path(self, "lora")


@dataclass(frozen=True)
class OverrideOptions:
    """What llama-quantize is told besides a type, of every quantized type; as it is typed, see `llama.argv.Overrides`.

    Args:
        tensor_type: patterns of tensors' names and types, "attn_v=q8_0"; those of the file come after them.
        tensor_type_file: more of them, between white space.
        override_kv: metadata to set, "llama.context_length=int:4096".
        prune_layers: numbers of layers that are left out.
    """

    tensor_type: tuple[str, ...] = ()
    tensor_type_file: Path | None = None
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    leave_output_tensor: bool = False
    pure: bool = False
    override_kv: tuple[str, ...] = ()
    prune_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """A path may be given as a string."""
        _as_path(self, "tensor_type_file")

    def resolve(self) -> Overrides:
        """All of it, with the file read.

        Raises:
            InputError: a pattern, a type or a pair of metadata is none, or the file cannot be read.
        """
        pairs = [patterns.pair(word, "--tensor-type") for word in self.tensor_type]
        if self.tensor_type_file is not None:
            pairs += patterns.read_pairs(self.tensor_type_file)
        for pair in self.override_kv:
            tensor_types.require_pair(pair)
        return Overrides(
            tuple(pairs),
            _tensor_type(self.output_tensor_type),
            _tensor_type(self.token_embedding_type),
            self.leave_output_tensor,
            self.pure,
            self.override_kv,
            tuple(sorted(set(self.prune_layers))),
        )


def _tensor_type(name: str | None) -> str | None:
    return None if name is None else quants.tensor_type(name)


@dataclass(frozen=True)
class CalibrationOptions:
    """What importance matrices, AWQ and GPTQ are calibrated on.

    Args:
        text: its path or name; several are mixed, each with its share, `chat.jsonl:0.5`, or equally.
        samples: of 512 tokens, drawn with `seed` where they are drawn.
        field: where the text is JSON or JSONL, the name of the field that holds it.
        imatrix: an importance matrix of the user's own, instead of one computed from the text.
        process_output: importance matrices have data for the output matrix, too.
    """

    text: str | tuple[str, ...] = "wikitext2-train"
    samples: int = Sampling.samples
    field: str = "text"
    seed: int = Sampling.seed
    imatrix: Path | None = None
    process_output: bool = False

    def __post_init__(self) -> None:
        """A path may be given as a string, and a string as a path."""
        _as_path(self, "imatrix")
        _as_text(self, "text")

    @property
    def sampling(self) -> Sampling:
        """How the text is sampled."""
        return Sampling(self.samples, seed=self.seed)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured of each file.

    Args:
        quality: perplexity and, with `kld`, the KL divergence from the base.
        corpus: path or name of the evaluation text; of several the first is that of the table.
        ctx: context in tokens, or several: the first is that of the table of results.
        kv_types: types of KV caches to measure as well; F16 is the one of the table.
        chunks: chunks of `ctx` tokens to evaluate, None for all.
        precision: relative standard error of mean KL divergence that is enough, None for all of `chunks`.
        scratch_limit: bytes of disk that base logits may take at any moment.
        strategy: how base logits travel, one of `measure.logits.strategy.STRATEGIES`; None to choose.
        bench: speed, `bench_reps` times.
        smoke: let each file speak, and refuse garbage that the base does not speak.
        metrics: what installed packages measure, by name.
        tasks: of `texts.tasks.known`, or files of one's own; of each `tasks_samples` questions, None for all.
    """

    quality: bool = True
    corpus: str | tuple[str, ...] = "wikitext2"
    ctx: int | tuple[int, ...] = EvalOptions.n_ctx
    kv_types: tuple[str, ...] = ()
    chunks: int | None = None
    kld: bool = True
    precision: float | None = None
    scratch_limit: int = 8 << 30
    strategy: str | None = None
    bench: bool = True
    bench_reps: int = BenchOptions.repetitions
    smoke: bool = False
    metrics: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    tasks_samples: int | None = Drawn.n

    def __post_init__(self) -> None:
        """A string may be given as a path."""
        _as_text(self, "corpus")

    @property
    def corpora(self) -> tuple[str, ...]:
        """All evaluation texts, each once."""
        return (self.corpus,) if isinstance(self.corpus, str) else tuple(dict.fromkeys(self.corpus))

    @property
    def contexts(self) -> tuple[int, ...]:
        """All contexts in tokens, the first one first."""
        return self.ctx if isinstance(self.ctx, tuple) else (self.ctx,)

    @property
    def depths(self) -> tuple[int, ...]:
        """Tokens behind which speed is measured, too: the contexts, where there are several or several KV caches."""
        return self.contexts if self.contexts[1:] or self.kv_types else ()


@dataclass(frozen=True)
class RunOptions:
    """How the tools run: on what, with how many threads; `ngl` layers on the GPU, None for all that fit.

    Args:
        force: redo everything, and overwrite what ggufkit did not make.
        explain: say why each step runs or is skipped.
    """

    backend: str = "auto"
    ngl: int | None = None
    threads: int = field(default_factory=machine.physical_cores)
    force: bool = False
    explain: bool = False

    def session(self, root: Path, reporter: Reporter, tools: Toolchain | None = None) -> Session:
        """A session in a directory. Raises ToolchainError where no llama.cpp can be had."""
        found = tools or toolchain.find(self.backend, reporter)
        return Session(found, Workspace(root), reporter, self.threads, self.force, self.explain)


@dataclass(frozen=True)
class ReportOptions:
    """Memory in bytes, tokens of context and their KV cache's type that a file is made for, and the best file named."""

    fits: int | None = None
    fits_ctx: int = 4096
    fits_kv: str = F16


@dataclass(frozen=True)
class PartsOptions:
    """`split`: bytes of a part at most, where finished files are to be had in parts; None for whole files."""

    split: int | None = None


@dataclass(frozen=True)
class MethodOptions:
    """What methods of installed packages are told: `smooth.strength=0.5`."""

    variant_option: tuple[str, ...] = ()


GROUPS: Mapping[str, type] = {
    "source": Source, "conversion": ConvertOptions, "overrides": OverrideOptions, "calibration": CalibrationOptions,
    "recipes": RecipeOptions, "scaling": ScalingOptions, "refinement": RefineOptions, "evaluation": EvaluationOptions,
    "run": RunOptions, "report": ReportOptions, "methods": MethodOptions, "parts": PartsOptions,
}  # fmt: skip

OPTIONS = spellings.OPTIONS
"""Every option of a build that belongs to a group: the group, and its field there."""

RENAMED = {"source": "hub", "n_ctx": "ctx", "n_chunks": "chunks", "evaluate": "eval"}
"""Names of options that earlier versions knew, and what they are called now."""


@dataclass(frozen=True, init=False)
class BuildRequest:
    """What `ggufkit build` is asked for; the defaults are the contract's.

    Options may be given as on the command line, where they are read and checked alike, or as groups:

        BuildRequest("./model", types="q4_k_m,q8_0", chunks=100, precision="2%", fits="6GiB", bench=False)
        BuildRequest("./model", evaluation=EvaluationOptions(chunks=100, bench=False))

    Args:
        model: alias, hub id, checkpoint directory or .gguf file.
        out: the output directory, default `./<name>`, or `./<name>-gguf` where that is the checkpoint.
        types: types of llama-quantize, or what else a type may be: see `llama.targets`.
        variants: what is done besides, of `core.variants`.

    Raises:
        UsageError: a value is none of its option's.
    """

    model: str
    out: Path | None
    types: tuple[str, ...]
    variants: tuple[str, ...]
    source: Source
    conversion: ConvertOptions
    overrides: OverrideOptions
    recipes: RecipeOptions
    calibration: CalibrationOptions
    scaling: ScalingOptions
    refinement: RefineOptions
    evaluation: EvaluationOptions
    run: RunOptions
    report: ReportOptions
    methods: MethodOptions
    parts: PartsOptions

    def __init__(
        self,
        model: str | Path,
        out: str | Path | None = None,
        types: str | Iterable[str] = DEFAULT_TYPES,
        variants: str | Iterable[str] = DEFAULT_VARIANTS,
        **given: Any,
    ) -> None:
        """Sort options into their groups. Raises TypeError for a name that is no option."""
        chosen = {name: given.pop(name) for name, kind in GROUPS.items() if isinstance(given.get(name), kind)}
        values: dict[str, Any] = {
            "model": spellings.read("model", model), "out": spellings.read("out", out, None),
            "types": spellings.read("types", types), "variants": spellings.read("variants", variants),
            **_groups(chosen, given),
        }  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _groups(chosen: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
    for said, value in given.items():
        name = RENAMED.get(said, said)
        if name != said:
            note = f"{said}= of a BuildRequest is called {name}= now."
            warnings.warn(note, DeprecationWarning, stacklevel=3)
        if name not in OPTIONS:
            raise TypeError(f"BuildRequest has no option {name!r}.")
        group, its_field = OPTIONS[name]
        if its_field in changes[group]:
            raise TypeError(f"BuildRequest was given {name!r} twice.")
        changes[group][its_field] = spellings.read(name, value, default(name))
    _check(chosen)
    return {
        name: replace(chosen[name], **changed) if name in chosen else GROUPS[name](**changed)
        for name, changed in changes.items()
    }


def _check(chosen: Mapping[str, Any]) -> None:
    """Raise UsageError for a value of a group that is none of its option's."""
    for name, (group, its_field) in OPTIONS.items():
        if group in chosen:
            spellings.read(name, getattr(chosen[group], its_field), default(name))


def group_of(kind: type[G], given: Mapping[str, Any]) -> G:
    """A group from options by their names on the command line. Raises UsageError for a value that is none."""
    read = {name: spellings.read(name, v, default(name) if name in OPTIONS else ...) for name, v in given.items()}
    return kind(**{OPTIONS[name][1] if name in OPTIONS else name: value for name, value in read.items()})


def default(name: str) -> Any:
    """The default of an option that belongs to a group."""
    group, its_field = OPTIONS[name]
    found = next(f for f in fields(GROUPS[group]) if f.name == its_field)
    return found.default if found.default_factory is MISSING else found.default_factory()


def _as_text(group: object, name: str) -> None:
    """One text is a string, several are a tuple of them; paths are strings."""
    given = getattr(group, name)
    several = tuple(map(str, given)) if isinstance(given, (list, tuple)) else (str(given),)
    object.__setattr__(group, name, several[0] if len(several) == 1 else several)


def _as_path(group: object, name: str) -> None:
    if (path := getattr(group, name)) is not None:
        object.__setattr__(group, name, user_path(path))
