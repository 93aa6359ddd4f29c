"""The options of `ggufkit build` that decided a file and its measurements, read from the manifests of its lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath

from ggufkit.core import variants
from ggufkit.core.records import Json, Manifest, ResultRow, further_metrics
from ggufkit.llama import quants
from ggufkit.llama.evaluates import embeds
from ggufkit.llama.gguf import read_header
from ggufkit.measure import bench, divergence, perplexity, similarity
from ggufkit.measure.bench import BenchParams
from ggufkit.measure.evaluation import EvalNotes, EvalParams
from ggufkit.measure.tasks import answers
from ggufkit.measure.tasks.answers import AnswersNotes
from ggufkit.models.lora import split_source
from ggufkit.recipes.options import STEP, RecipeNotes, RecipeParams
from ggufkit.refine.options import RefineOptions
from ggufkit.report.lineage import Piece, is_start, own_imatrix
from ggufkit.steps import awq, convert, imatrix, method, quantize, refine
from ggufkit.steps.awq import AwqNotes, AwqParams
from ggufkit.steps.convert import ConvertNotes, ConvertParams
from ggufkit.steps.imatrix import ImatrixNotes, ImatrixParams
from ggufkit.steps.method import MethodNotes, MethodParams
from ggufkit.steps.quantize import QuantizeNotes, QuantizeParams
from ggufkit.steps.refine import RefineNotes
from ggufkit.texts.calibration import CalibrationNotes
from ggufkit.texts.calibration_text import AND
from ggufkit.texts.wikitext import TEXTS

_CALIBRATED = {awq.STEP: "AWQ scales", refine.STEP: "GPTQ", imatrix.STEP: "Importance matrix"}


@dataclass(frozen=True)
class Settings:
    """Options of `ggufkit build` that decided a file and its measurements, defaults among them; and the SHA-256 of
    the user's own texts and importance matrices by the names that the options have for them."""

    options: Mapping[str, Json] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Text:
    """What `--corpus` or `--calibration` calls a text, without its directory, and its SHA-256 unless it is a named one."""

    name: str
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.name}, sha256 {self.sha256[:16]}…" if self.sha256 else self.name

    @property
    def hashes(self) -> dict[str, str]:
        return {self.name: self.sha256} if self.sha256 else {}

    @property
    def given(self) -> Json:
        """What the option was given; several texts where it is a mixture of them."""
        names: list[Json] = [*self.name.split(AND)]
        return names if names[1:] else self.name


def settings(row: ResultRow, lineage: Sequence[Piece], measured: Sequence[Piece]) -> Settings:
    """What decided a row. An option that its file and measurements do not depend on is missing."""
    options: dict[str, Json] = {"--no-bench": row.tg_tps is None and row.pp_tps is None}
    if not _is_reference(row, lineage):
        options["--no-eval"] = row.ppl is None and row.cosine_mean is None
    if row.ppl is not None and row.ppl_base != row.ppl and not is_start(row, lineage):
        options["--no-kld"] = row.kld_mean is None
    if row.further:
        options["--metrics"] = ",".join(further_metrics([row]))
    hashes: dict[str, str] = {}
    for piece in [*lineage, *measured]:
        found = _of_step(piece.made, row)
        options |= found.options
        hashes |= found.hashes
    of_tasks = _of_tasks([piece.made for piece in measured if piece.made.step == answers.STEP])
    options |= of_tasks.options
    hashes |= of_tasks.hashes
    own, variant = own_imatrix(lineage), variants.known(row.variant)
    if own is not None and not (variant is not None and variant.before is not None):
        name, digest = own
        options["--imatrix"] = name if digest else None
        hashes |= {name: digest} if digest else {}
    return Settings(options, hashes)


def _is_reference(row: ResultRow, lineage: Sequence[Piece]) -> bool:
    """Whether a row's file is one that the embeddings of others are compared with; it is not measured itself."""
    return is_start(row, lineage) and lineage[-1].path.is_file() and embeds(read_header(lineage[-1].path))


def _of_step(made: Manifest, row: ResultRow) -> Settings:
    if made.step == convert.STEP:
        return Settings(_of_conversion(made))
    if made.step == quantize.STEP:
        how, spec = QuantizeParams.from_manifest(made), QuantizeNotes.from_manifest(made).target
        told = {} if quants.is_float(how.type) else _of_overrides(how.overrides, spec)
        return Settings({"--allow-requantize": how.allow_requantize, **told})
    if made.step in _CALIBRATED:
        scaled = _of_scaling(made, row) if made.step == awq.STEP else {}
        told = _of_refinement(made) if made.step == refine.STEP else {}
        hashes = _calibration_text(made).hashes
        hashes = _rendered(hashes) if ImatrixParams.from_manifest(made).special else hashes
        return Settings({**scaled, **told, **_of_calibration(made)}, hashes)
    if made.step == method.STEP:
        return _of_method(made)
    if made.step == STEP:
        return _of_recipe(made)
    if made.step in (divergence.STEP, perplexity.STEP, similarity.STEP):
        return _of_evaluation(made)
    if made.step == bench.STEP:
        speed = BenchParams.from_manifest(made)
        return Settings({"--bench-reps": speed.repetitions, "--ngl": speed.ngl})
    return Settings()


def _of_refinement(made: Manifest) -> dict[str, Json]:
    notes = RefineNotes.from_manifest(made)
    return {"--distill": bool(made.params.get("distill")), **_of_overrides(notes.overrides, notes.target)}


def _of_tasks(asked: Sequence[Manifest]) -> Settings:
    """Which tasks were asked, and the questions of the user's own among them."""
    notes = [AnswersNotes.from_manifest(made) for made in asked]
    if not notes:
        return Settings()
    n, seed = notes[0].task_samples, notes[0].task_seed
    told: dict[str, Json] = {"--tasks": ",".join(note.task_spec for note in notes), "--tasks-samples": n or "all"}
    own = {name: note.task_source_sha256 for note in notes if (name := note.task_spec.partition("=")[2])}
    return Settings(told | ({} if seed is None else {"--seed": seed}), own)


def _of_method(made: Manifest) -> Settings:
    """What a method of a package was told, and calibrated on."""
    params, notes = MethodParams.from_manifest(made), MethodNotes.from_manifest(made)
    told: dict[str, Json] = {
        "--variant-option": _told(params) or None,
        **_of_overrides(notes.overrides, notes.target),
    }
    if not notes.method_text:
        return Settings(told)
    text = _text_of(notes.method_text, made.inputs.get("calibration"))
    return Settings({**told, "--calibration": text.given}, text.hashes)


def _told(params: MethodParams) -> list[Json]:
    return [f"{params.method}.{name}={value}" for name, value in params.method_options.items()]


def _of_recipe(made: Manifest) -> Settings:
    params, text = RecipeParams.from_manifest(made), _measured_on(made)
    allowed = ",".join(params.types_allowed).lower() or None
    return Settings(
        {"--calibration": text.given, "--effort": params.effort, "--types-allowed": allowed}, text.hashes
    )


def _measured_on(made: Manifest) -> _Text:
    """The text that types were measured on."""
    return _text_of(RecipeNotes.from_manifest(made).calibration_source, made.inputs.get("calibration"))


def _of_conversion(made: Manifest) -> dict[str, Json]:
    params, notes = ConvertParams.from_manifest(made), ConvertNotes.from_manifest(made)
    _, adapter = split_source(notes.source)
    return {
        "--base-type": params.out_type,
        "--pre": params.pre,
        "--lora": adapter,
        "--allow-token-mismatch": bool(notes.allow_token_mismatch),
        "--allow-losses": bool(notes.allow_losses),
        "--check-function": notes.check_function is True,
        "--no-check-function": notes.check_function is False,
        "--mmproj": notes.mmproj,
        "--no-mtp": params.mtp is False,
    }


def _of_overrides(told: Mapping[str, Json], spec: str) -> dict[str, Json]:
    """What llama-quantize was told besides the type, by the names of the options.

    Args:
        spec: how the type was typed, which has some of it in it.
    """
    pairs = [f"{pattern}={str(kind).lower()}" for pattern, kind in _pairs(told.get("tensor_types"))]
    found: dict[str, Json] = {
        "--tensor-type": [pair for pair in pairs if f"+{pair}+" not in f"{spec}+"],
        "--output-tensor-type": str(told.get("output") or "").lower(),
        "--token-embedding-type": str(told.get("token_embedding") or "").lower(),
        "--leave-output-tensor": told.get("leave_output"),
        "--pure": told.get("pure"),
        "--override-kv": told.get("kv"),
        "--prune-layers": ",".join(map(str, _items(told.get("prune_layers")))),
    }
    return {option: value or None for option, value in found.items()}


def _pairs(value: Json) -> list[tuple[Json, Json]]:
    """Patterns and types as a manifest holds them."""
    return [(pair[0], pair[1]) for pair in map(_items, _items(value)) if len(pair) == 2]


def _items(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _of_evaluation(made: Manifest) -> Settings:
    params = EvalParams.from_manifest(made)
    text = _text_of(EvalNotes.from_manifest(made).corpus, made.inputs.get("corpus"))
    how: dict[str, Json] = {"--corpus": text.name, "--ctx": params.n_ctx, "--chunks": params.n_chunks}
    hashes = _rendered(text.hashes) if params.special else text.hashes
    return Settings({**how, "--precision": params.precision, "--ngl": params.ngl}, hashes)


def _rendered(hashes: Mapping[str, str]) -> dict[str, str]:
    """Hashes of conversations are those of what a model's template made of them."""
    return {f"{name} as rendered": digest for name, digest in hashes.items()}


def _of_scaling(made: Manifest, row: ResultRow) -> dict[str, Json]:
    params = AwqParams.from_manifest(made)
    options: dict[str, Json] = {"--awq-engine": params.engine}
    options["--awq-objective"] = params.objective or "ggml"
    options["--awq-dtype"] = params.dtype
    if not quants.is_float(row.type):
        options["--awq-per-type"] = AwqNotes.from_manifest(made).per_type
    return options


def _of_calibration(made: Manifest) -> dict[str, Json]:
    given = _calibration_text(made).given
    if made.step == imatrix.STEP:
        params = ImatrixParams.from_manifest(made)
        return {
            "--calibration": given,
            "--calibration-samples": params.n_chunks,
            "--process-output": params.process_output,
        }
    notes = CalibrationNotes.from_manifest(made)
    return {
        "--calibration": given,
        "--calibration-samples": notes.calibration_samples,
        "--seed": notes.calibration_seed,
    }


def _calibration_text(made: Manifest) -> _Text:
    if made.step == imatrix.STEP:
        name = ImatrixNotes.from_manifest(made).calibration_source or ImatrixParams.from_manifest(made).text
        return _text_of(name, made.inputs.get("calibration"))
    notes = CalibrationNotes.from_manifest(made)
    return _text_of(notes.calibration_source, notes.calibration_text_sha256)


def _text_of(name: str, sha256: str | None) -> _Text:
    """A text by what manifests say of it; "TEXT" where only its hash is known."""
    known = next((text.name for text in TEXTS.values() if text.sha256 == sha256), None)
    if known is not None:
        return _Text(known)
    given = name or "TEXT"
    return _Text(given if ":" in given else PurePath(given).name, "" if given in TEXTS else sha256 or "")


def calibrated(lineage: Sequence[Piece]) -> list[tuple[str, str]]:
    """What was calibrated on which text, as label and value."""
    found = [_calibrated(p.made) for p in lineage if p.made.step in _CALIBRATED]
    found += [("Experts in the importance matrix", said) for p in lineage if (said := _experts(p.made))]
    name, digest = own_imatrix(lineage) or ("", "")
    found += [("Distilled", said) for p in lineage if (said := _distilled(p.made))]
    own = [("Importance matrix", str(_Text(name, digest)))] if digest else []
    types = [("Types of tensors from", str(_measured_on(p.made))) for p in lineage if p.made.step == STEP]
    return list(dict.fromkeys([*own, *found, *types]))


def _calibrated(made: Manifest) -> tuple[str, str]:
    label, text = f"{_CALIBRATED[made.step]} from", _calibration_text(made)
    if made.step == imatrix.STEP:
        params = ImatrixParams.from_manifest(made)
        return label, f"{text}, its first {params.n_chunks} chunks of {params.n_ctx} tokens"
    return label, f"{text}, {_samples(made)}"


def _experts(made: Manifest) -> str | None:
    return ImatrixNotes.from_manifest(made).experts if made.step == imatrix.STEP else None


def _distilled(made: Manifest) -> str | None:
    """What became of a distillation, if there was one."""
    found = RefineNotes.from_manifest(made).distilled if made.step == refine.STEP else {}
    if not found:
        return None
    gain = (
        f"KL divergence {found['before']:.5f}, then {found['after']:.5f} ± {found['stderr']:.5f} on held-out text"
    )
    return gain if found["steps"] else f"{gain}: not sure, so not kept"


def _samples(made: Manifest) -> str:
    notes = CalibrationNotes.from_manifest(made)
    of = f"{notes.calibration_samples} samples of {notes.calibration_sample_tokens} tokens"
    return f"{of}, seed {notes.calibration_seed}"


def in_words(piece: Piece) -> str:
    """A step that ran no command, as a comment; "" for one that needs none."""
    made = piece.made
    if made.step == method.STEP:
        params = MethodParams.from_manifest(made)
        said = [piece.path.name, *(str(option) for option in _told(params))]
        return f"# {params.method} of {params.package} {params.package_version}: {', '.join(said)}"
    if made.step not in (awq.STEP, refine.STEP):
        return ""
    usual: Mapping[str, Json] = asdict(RefineOptions())
    how = [f"{key} {value}" for key, value in made.params.items() if usual.get(key, value) != value]
    how += [f"{AwqParams.from_manifest(made).engine} engine"] if made.step == awq.STEP else []
    facts = [piece.path.name, *how, _calibration_text(made).name, _samples(made)]
    return f"# {_CALIBRATED[made.step]}: {', '.join(facts)}"
