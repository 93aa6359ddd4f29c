"""Step: one high-precision GGUF -> one of a quantization type, by llama-quantize."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

from ggufkit.core import failures, process
from ggufkit.core.durations import Work
from ggufkit.core.errors import GgufError, InputError, ToolOutputError
from ggufkit.core.hashing import Key, key, sha256_file
from ggufkit.core.inputs import Input
from ggufkit.core.manifest import PARTIAL, Params
from ggufkit.core.process import Surroundings
from ggufkit.core.progress import OneOfMany
from ggufkit.core.records import GgufFile, Json, QuantType, Toolchain
from ggufkit.llama import argv, cuda, evaluates, logs, mtp, patterns, quants
from ggufkit.llama.argv import Overrides, Quantization
from ggufkit.llama.cached_output import cached_output
from ggufkit.llama.gguf import GgufHeader, carried_tensors, quantized_tensors, read_header
from ggufkit.llama.logs import QuantizePlan
from ggufkit.llama.progress_lines import steps_done
from ggufkit.recipes.type_recipe import TypeRecipe
from ggufkit.steps import tensor_types
from ggufkit.steps.imatrix import read_imatrix
from ggufkit.steps.load_check import settle_and_require_computes
from ggufkit.steps.notes import TypedNotes
from ggufkit.steps.session import Session
from ggufkit.steps.step import Made, Recipe, Result

STEP, VERSION = "quantize", 1
_HOW = "Compute one with `ggufkit imatrix`, and give it with --imatrix."


@dataclass(frozen=True)
class QuantizeParams(Params):
    """What decides a quantized file besides its inputs.

    Args:
        overrides: what departs from the type's own mix, by the names of `Overrides`; left out where nothing does.
        recipe: SHA-256 of the types of a recipe; left out where there is none.
        mtp: the type of layers that predict further tokens; left out where there are none.
    """

    type: str = ""
    allow_requantize: bool = False
    overrides: Mapping[str, Json] = field(default_factory=dict)
    recipe: str = ""
    mtp: str = ""

    def to_params(self) -> dict[str, Json]:
        """What goes into the recipe of the step: as it was before there were overrides, where there are none."""
        return {
            name: value
            for name, value in super().to_params().items()
            if value or name not in ("overrides", "recipe", "mtp")
        }


@dataclass(frozen=True)
class QuantizeNotes(TypedNotes):
    """What is known of a quantized file, refined or not.

    Args:
        n_fallback: tensors that have another type than was planned, for their shapes do not allow it.
        fallbacks: of each its name, the planned type and its own.
    """

    n_fallback: int | None = None
    fallbacks: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize.

    Args:
        variant: what the result is called by: "plain", "imatrix", "awq"…
        overrides: what llama-quantize is told besides the type.
        recipe: the type of each tensor; its type of files is given to the tool then, instead of the one asked for.
    """

    imatrix: Path | None = None
    allow_requantize: bool = False
    variant: str = "plain"
    name: str = ""
    overrides: Overrides = field(default_factory=Overrides)
    recipe: TypeRecipe | None = None

    @property
    def chooses_types(self) -> bool:
        """Whether tensors get other types than those that the type of the file mixes."""
        return self.recipe is not None or self.overrides != Overrides()


_NAME_IT = (
    "Convert its checkpoint again. Or name the family, where it is known: python "
    "$(ggufkit toolchain path --source)/gguf-py/gguf/scripts/gguf_new_metadata.py --pre-tokenizer NAME OLD.gguf NEW.gguf"
)


def known_types(tools: Toolchain) -> tuple[QuantType, ...]:
    """The types that this toolchain's llama-quantize lists. Raises ToolOutputError if it lists none."""
    return logs.parse_types(cached_output(argv.list_types(tools)))


def require_base(header: GgufHeader, *, allow_requantize: bool = False) -> None:
    """Refuse to quantize what is quantized already, or what llama.cpp reads text with by a guess.

    Raises:
        GgufError: the file holds quantized tensors, or does not say how its text is split.
    """
    if evaluates.guesses_splitting(header):
        message = (
            f"{header.path} does not say how its text is split into tokens ({evaluates.PRE}): llama.cpp guesses."
        )
        raise GgufError(message, hint=_NAME_IT)
    done = quantized_tensors(header)
    if carried_tensors(header):
        return
    if done and not allow_requantize:
        raise GgufError(
            f"{header.path} is quantized already ({len(done)} tensors, {done[0].name} is {done[0].type}): "
            "quantizing it again loses more than quantizing the original.",
            hint="Start from the F16 or BF16 file, or accept the loss with --allow-requantize.",
        )


def needs_imatrix(kind: QuantType, hint: str) -> InputError:
    """The error for a type that a model's shape cannot have without an importance matrix."""
    message = f"{kind.name} needs an importance matrix: without one it is useless, and llama-quantize refuses it."
    return InputError(message, hint=hint)


def require_matrix(
    tools: Toolchain, base: Path, kind: QuantType, options: QuantizeOptions, hint: str = _HOW
) -> None:
    """Find out in milliseconds that an importance matrix is needed, or has no data for a tensor that needs it.

    Args:
        hint: how to come by a matrix.

    Raises:
        InputError: so it is.
    """
    if kind.name not in quants.NEEDS_IMATRIX and not options.chooses_types:
        return
    wanted = plan(tools, base, kind, options)
    type_name = _quantization(tools, base, kind, options).type_name
    needing = {
        t.name: t.after
        for t in wanted.tensors
        if quants.cannot_without(t.after) or quants.needs_data(t.name, t.after, type_name)
    }
    if options.imatrix is None:
        if needing and options.chooses_types:
            name, after = next(iter(needing.items()))
            raise InputError(f"{name} cannot be {after} without an importance matrix.", hint=hint)
        if wanted.needs_imatrix:
            raise needs_imatrix(kind, hint)
        return
    there = read_imatrix(options.imatrix)
    if lacking := [name for name in needing if name not in there]:
        of_all = f" and {len(lacking) - 1} more tensors" if len(lacking) > 1 else ""
        what = needing[lacking[0]] if options.chooses_types else kind.name
        message = f"The importance matrix {options.imatrix} has no data for {lacking[0]}{of_all}: {what} needs it."
        hint = "Compute it for this model, on more text: `ggufkit imatrix`. Or choose a larger type."
        raise InputError(message, hint=hint)


def plan(tools: Toolchain, base: Path, kind: QuantType, options: QuantizeOptions | None = None) -> QuantizePlan:
    """What llama-quantize would make of `base`: every tensor's type, in milliseconds.

    Raises:
        UsageError: overrides that contradict each other.
        InputError: overrides or a recipe that do not fit the base.
    """
    how = options or QuantizeOptions()
    wanted = _quantization(tools, base, kind, how)
    tensor_types.require_possible(read_header(base), wanted.type_name, how.overrides, how.recipe)
    planned = _plan(tools, wanted, key(base))
    tensor_types.require_heeded(planned, how.overrides, how.recipe, mtp.tensors(read_header(base)))
    return planned


def _quantization(tools: Toolchain, base: Path, kind: QuantType, options: QuantizeOptions) -> Quantization:
    name, header = file_type(tools, base, kind, options), read_header(base)
    overrides = tensor_types.told(options.overrides, options.recipe)
    if not options.allow_requantize and not quants.is_float(name):
        overrides = tensor_types.keeping_carried(overrides, header)
    overrides = tensor_types.with_mtp(overrides, header, name)
    return Quantization(base, name, options.imatrix, options.allow_requantize, overrides)


def file_type(tools: Toolchain, base: Path, kind: QuantType, options: QuantizeOptions) -> str:
    """The type of llama-quantize that a file is made as, and has in its metadata.

    Raises:
        InputError: a recipe for which there is none.
    """
    if options.recipe is not None:
        return tensor_types.file_type(options.recipe, read_header(base), known_types(tools)).name
    return kind.target.preset if kind.target is not None else kind.name


@lru_cache
def _plan(tools: Toolchain, wanted: Quantization, _state: Key) -> QuantizePlan:
    """What `plan` returns, asked once: the size that a type promises is looked for among types near it."""
    output = process.run(argv.quantize_plan(tools, wanted), surroundings=cuda.HIDDEN)
    if output.returncode != 0 and wanted.overrides.tensor_types:
        _blame_patterns(tools, wanted)
    tensor_types.require_fallbacks(output, wanted)
    failures.require_success(output, f"planning {wanted.type_name} of {wanted.base.name}")
    return _read(output, wanted)


def _blame_patterns(tools: Toolchain, wanted: Quantization) -> None:
    """Raise InputError where llama-quantize fails for a pattern: not all that Python takes is one of C++."""
    for pattern in wanted.overrides.tensor_types:
        alone = replace(wanted, overrides=Overrides(tensor_types=(pattern,)))
        output = process.run(argv.quantize_plan(tools, alone), surroundings=cuda.HIDDEN)
        if output.returncode != 0:
            message = f"llama-quantize does not take --tensor-type {'='.join(pattern)}: {logs.explain_missing(output.text)}"
            raise InputError(message, hint=patterns.HINT)


def _read(output: process.ToolOutput, wanted: Quantization) -> QuantizePlan:
    pruned = tensor_types.n_pruned(read_header(wanted.base), wanted.overrides)
    planned = logs.parse_quantize(output, pruned)
    return replace(planned, bpw=tensor_types.bpw(planned)) if pruned else planned


def quantize(base: GgufFile, output: Path, kind: QuantType, options: QuantizeOptions, session: Session) -> Result:
    """Quantize `base` to `output` unless that is done already.

    Raises:
        InputError: `output` is `base`; or there is no importance matrix for what cannot be made without.
        GgufError: `base` holds NaN or infinite values.
        ToolError: llama-quantize failed, or wrote something else than was asked for.
    """
    if output.exists() and output.samefile(base.path):
        message = f"{output} is the input: quantizing a file onto itself destroys it."
        raise InputError(message, hint="Choose another output.")
    if not options.allow_requantize:
        tensor_types.refuse_floats_of_carried(read_header(base.path), kind.name)
    if not output.exists():
        require_matrix(session.tools, base.path, kind, options)
    files = {"base": base.as_input()}
    if options.imatrix is not None:
        files["imatrix"] = Input(options.imatrix, sha256_file(options.imatrix))
    inputs = {role: file.sha256 for role, file in files.items()}
    params = params_of(kind, options, read_header(base.path)).to_params()
    recipe = Recipe(STEP, VERSION, inputs, params, session.tools.identity, tuple(files.values()))
    return session.ensure(
        recipe,
        output,
        lambda partial: _quantize(base, partial, kind, options, session),
        work=work_of(base.n_params, kind, session, weighed=options.imatrix is not None),
    )


def work_of(n_params: int, kind: QuantType, session: Session, *, weighed: bool) -> Work:
    """What a file takes; searching for the best rounding by an importance matrix takes its time."""
    return session.work("quantize", n_params, f"{kind.name}, weighed" if weighed else kind.name)


def params_of(kind: QuantType, options: QuantizeOptions, base: GgufHeader) -> QuantizeParams:
    """What decides a file of a type besides its inputs."""
    departures, recipe = _departures(options.overrides), _digest(options.recipe)
    predicting = "" if options.overrides.pure else mtp.type_in(base, kind.name)
    return QuantizeParams(kind.name, options.allow_requantize, departures, recipe, predicting)


def _departures(overrides: Overrides) -> dict[str, Json]:
    """What of it is no default, as a manifest holds it."""
    given = {f.name: value for f in fields(overrides) if (value := getattr(overrides, f.name)) != f.default}
    departures: dict[str, Json] = json.loads(json.dumps(given))
    return departures


def _digest(recipe: TypeRecipe | None) -> str:
    """SHA-256 of what of a recipe decides the file."""
    if recipe is None:
        return ""
    decisive = json.dumps([recipe.file_type, sorted(recipe.types.items())])
    return hashlib.sha256(decisive.encode()).hexdigest()


def _quantize(base: GgufFile, partial: Path, kind: QuantType, options: QuantizeOptions, session: Session) -> Made:
    if options.chooses_types:
        _tell_left(plan(session.tools, base.path, kind, options), options.recipe, session)
    wanted = _quantization(session.tools, base.path, kind, options)
    command, where = _command(wanted, partial, session)
    doing = f"quantizing {base.path.name} to {kind.name}"
    with session.reporter.step(f"Quantizing to {_label(options.variant, kind.name)}") as progress:

        def watch(_stream: str, text: str) -> None:
            if (steps := steps_done(text)) is not None:
                progress.update(*steps, "tensors")

        log = session.workspace.log(f"quantize-{partial.name.removesuffix('.gguf' + PARTIAL)}")
        run = process.run(command, log=log, on_text=watch, surroundings=where)
        _require_valid(run, base)
        tensor_types.require_fallbacks(run, wanted)
        failures.require_success(run, doing)
    done = _read(run, wanted)
    header = read_header(base.path)
    n_kept = len(header.tensors) - tensor_types.n_pruned(header, options.overrides)
    _require_result(partial, n_kept, done, run, doing)
    settle_and_require_computes(partial, session)
    spec = kind.target.spec if kind.target is not None else ""
    notes = QuantizeNotes(options.name, options.variant, kind.name, done.n_fallback, done.fallbacks, target=spec)
    return Made([run], notes.to_notes())


def _command(wanted: Quantization, partial: Path, session: Session) -> tuple[list[str], Surroundings]:
    """What is run, and where: the path of an importance matrix gets into the file, which is the same wherever it is made."""
    if wanted.imatrix is None:
        return argv.quantize(session.tools, wanted, partial, session.threads), cuda.HIDDEN
    beside = replace(wanted, base=wanted.base.absolute(), imatrix=Path(wanted.imatrix.name))
    tool, *options = argv.quantize(session.tools, beside, partial.absolute(), session.threads)
    return [str(Path(tool).absolute()), *options], replace(cuda.HIDDEN, cwd=wanted.imatrix.parent)


def _tell_left(planned: QuantizePlan, recipe: TypeRecipe | None, session: Session) -> None:
    left = tensor_types.left_as_they_are(planned, recipe) if recipe is not None else []
    if left:
        shown = ", ".join(left[:3]) + (" …" if len(left) > 3 else "")
        about = f"{len(left)} tensors ({shown})"
        session.reporter.warn(OneOfMany("llama-quantize leaves in the base's float type: {}.", about))


def _require_valid(run: process.ToolOutput, base: GgufFile) -> None:
    """The tool looks at every value that it rounds."""
    tensor = logs.invalid_tensor(run) if run.returncode != 0 else None
    if tensor is not None:
        raise GgufError(
            f"{base.path} holds NaN or infinite values: llama-quantize says that tensor {tensor} has invalid data.",
            hint="The file is broken: convert or download it again.",
            log=run.log,
        )


def _label(variant: str, kind: str) -> str:
    return kind if variant == "plain" else f"{kind} ({variant})"


def _require_result(
    partial: Path, n_tensors: int, plan: QuantizePlan, run: process.ToolOutput, doing: str
) -> None:
    """A quantized file holds the base's tensors, whole, in the types that the tool said."""
    if not partial.is_file():
        raise failures.explain(run, doing, "it wrote no file")
    made = read_header(partial)
    if [t.name for t in made.tensors] != [t.name for t in plan.tensors] or len(made.tensors) != n_tensors:
        raise ToolOutputError(f"{doing}: the file does not hold the tensors that the tool listed.", log=run.log)
    wrong = [t.name for t, p in zip(made.tensors, plan.tensors, strict=True) if t.type != p.after]
    if wrong:
        raise ToolOutputError(f"{doing}: {wrong[0]} has another type than the tool said.", log=run.log)
