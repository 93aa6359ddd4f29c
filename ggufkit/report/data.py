"""What a report is made of: the rows, and what is known of each file besides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggufkit.core import escape
from ggufkit.core.errors import GgufError, InputError
from ggufkit.core.manifest import read_manifest
from ggufkit.core.part_names import stem_of
from ggufkit.core.records import Conditions, Measurement, ResultRow
from ggufkit.llama import kv_cache, memory
from ggufkit.llama.gguf import GgufHeader, ggml_type_by_name, read_header
from ggufkit.llama.same_tensors import same_tensors
from ggufkit.measure import checkpoints, divergence, perplexity, similarity, token_scores
from ggufkit.measure.evaluation import EvalParams
from ggufkit.measure.paired import Scores
from ggufkit.recipes.type_recipe import TypeRecipe
from ggufkit.report import commands, conditions, scaling
from ggufkit.report.lineage import Archive, Piece, is_start, origin_of
from ggufkit.report.results import checkpoint_measurements, further_measurements_of, measurements_of, recipe_of
from ggufkit.report.settings import Settings, calibrated, settings
from ggufkit.steps import awq
from ggufkit.steps.awq import AwqNotes
from ggufkit.steps.quantize import QuantizeNotes
from ggufkit.steps.step import Workspace
from ggufkit.texts.corpus import WIKITEXT2_TEST_SHA256

PERCENTILES = {
    "kld_p10": 0.1, "kld_median": 0.5, "kld_p90": 0.9, "kld_p95": 0.95, "kld_p99": 0.99, "kld_p999": 0.999,
    "kld_max": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Footprint:
    """Memory to run a file, in bytes: its weights, a token of KV cache, and what the compute buffers follow from."""

    weights: int
    kv_per_token: int
    compute_fixed: int
    compute_per_token: int

    def with_cache(self, kv_type: str) -> Footprint:
        """The same, whose KV cache is F16, with one of another type."""
        return replace(self, kv_per_token=kv_cache.instead_of_f16(self.kv_per_token, kv_type))

    def kv(self, n_ctx: int) -> int:
        """The KV cache for a context."""
        return self.kv_per_token * n_ctx

    def compute(self, n_ctx: int) -> int:
        """The compute buffers for a context."""
        return self.compute_fixed + self.compute_per_token * n_ctx

    def total(self, n_ctx: int) -> int:
        """All of it."""
        return self.weights + self.kv(n_ctx) + self.compute(n_ctx)


@dataclass(frozen=True)
class Extent:
    """What was evaluated: the text's SHA-256, as many chunks of it (None for all), or until a precision."""

    corpus_sha256: str | None = None
    n_chunks: int | None = None
    precision: float | None = None

    @property
    def whole(self) -> bool:
        """Whether all of the text was evaluated."""
        return self.corpus_sha256 is not None and self.n_chunks is None and self.precision is None


@dataclass(frozen=True)
class Entry:
    """One file: its row and how it was measured.

    Args:
        quality, speed: conditions of the measurements, None where nothing was measured.
        extent: what part of which text was evaluated.
        composition: bytes by tensor type, the most bits per weight first.
        percentiles: nats of KL divergence by fraction of the tokens.
        commands: what made and measured it.
        source, revision: what its base was converted from, "" if that is not known.
        settings: the options of `ggufkit build` that decided it.
        calibration: what of it was calibrated on which text, as label and value.
        spec: how its type is typed: "q4_k_m", "like:q4_k_m".
        is_start: whether it is what a build starts from: a converted checkpoint, or the user's own file.
        is_reference: whether the embeddings of others are compared with its own.
        types: of its tensors, by name.
        recipe: which types it was to have, and why; None for a preset of llama-quantize.
        same_as: the file before it that holds the same tensors, byte for byte; "" where there is none.
        ppl_base_saved: the base's perplexity by the logits that llama-perplexity saved to compare with.
        guest: what somebody else's file is to be asked for by: "hub:OWNER/NAME/FILE", or its name; "" for one made here.
        scores: what each token gave, for differences from other files; None where it was not kept.
        quantized: what numbers the checkpoint held that it was made from: "FP8"; "" for floats, or where that is not known.
        scaling: what AWQ's scales did to its tensors, in words; "" where there are none, or it is not known.
    """

    row: ResultRow
    quality: Conditions | None
    speed: Conditions | None
    extent: Extent
    composition: Mapping[str, int]
    percentiles: Mapping[float, float]
    footprint: Footprint
    commands: Sequence[str] = ()
    source: str = ""
    revision: str = ""
    settings: Settings = field(default_factory=Settings)
    calibration: Sequence[tuple[str, str]] = ()
    spec: str = ""
    is_start: bool = False
    is_reference: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    recipe: TypeRecipe | None = None
    same_as: str = ""
    ppl_base_saved: float | None = None
    guest: str = ""
    scores: Scores | None = None
    quantized: str = ""
    scaling: str = ""

    @property
    def label(self) -> str:
        """Variant and type in a few characters, which drawings can show, too."""
        words = self.row.type if self.row.variant == "plain" else f"{self.row.variant} {self.row.type}"
        return escape.terminal(words)

    @property
    def is_base(self) -> bool:
        """Whether the others are compared with this file."""
        return self.is_reference or (self.row.ppl_base is not None and self.row.kld_mean is None)


def load_entries(rows: Sequence[ResultRow], root: Path) -> list[Entry]:
    """The entries of a result directory, in the order of its rows."""
    archive = Archive(Workspace(root))
    headers = {row.file: read_header(root / row.file) for row in rows if row.is_gguf}
    entries = [
        _entry(row, headers[row.file], archive) if row.is_gguf else _checkpoint(row, archive.workspace)
        for row in rows
    ]
    references = {
        e.quality.base_sha256 for e in entries if e.quality is not None and e.row.cosine_mean is not None
    }
    entries = [replace(e, is_reference=e.row.sha256 in references) for e in entries]
    return [replace(e, same_as=_first_alike(e, entries[:i], headers)) for i, e in enumerate(entries)]


def _first_alike(entry: Entry, before: Sequence[Entry], headers: Mapping[str, GgufHeader]) -> str:
    alike = (e.row.file for e in before if e.row.is_gguf and e.composition == entry.composition)
    if not entry.row.is_gguf:
        return ""
    return next((file for file in alike if same_tensors(headers[file], headers[entry.row.file])), "")


def _entry(row: ResultRow, header: GgufHeader, archive: Archive) -> Entry:
    workspace, path = archive.workspace, archive.workspace.root / row.file
    lineage, measured = archive.lineage(path), archive.measured(path, row)
    source, revision = commands.source_of(lineage)
    found = measurements_of(path, str(row.sha256), workspace)
    decided, others = settings(row, lineage, measured), further_measurements_of(path, str(row.sha256), workspace)
    return Entry(
        row=row,
        quality=_conditions(found, "kld_mean", "ppl", "cosine_mean"),
        speed=_conditions(found, "tg_tps", "pp_tps"),
        extent=_extent(path, workspace),
        composition=_composition(header),
        percentiles={p: m.value for m in found if (p := PERCENTILES.get(m.metric)) is not None},
        footprint=footprint(header),
        commands=commands.lines([*lineage, *measured, *(archive.measured_further(path) if others else [])]),
        source=source,
        revision=revision,
        settings=_with_others(decided, row, others),
        calibration=calibrated(lineage),
        spec=_spec(row, lineage),
        is_start=is_start(row, lineage),
        types={tensor.name: tensor.type for tensor in header.tensors},
        recipe=_recipe(path),
        ppl_base_saved=next((m.value for m in found if m.metric == "ppl_base"), None),
        guest=commands.guest_of(lineage),
        scores=token_scores.of_measurements(
            found, workspace.measurements / f"{stem_of(path)}.{divergence.STEP}.scores"
        ),
        quantized=origin_of(lineage).quantized or "",
        scaling=_scaling(lineage),
    )


def _scaling(lineage: Sequence[Piece]) -> str:
    notes = [AwqNotes.from_manifest(piece.made) for piece in lineage if piece.made.step == awq.STEP]
    return next((scaling.in_words(of.label, of.tensors) for of in notes), "")


def _checkpoint(row: ResultRow, workspace: Workspace) -> Entry:
    """A checkpoint that was measured beside GGUFs: what is known of it is what was measured."""
    path = workspace.measurements / f"{row.file}.{checkpoints.STEP}.json"
    found, made = checkpoint_measurements(path), read_manifest(path)
    params = EvalParams.from_manifest(made) if made is not None else EvalParams()
    return Entry(
        row=row,
        quality=_conditions(found, "kld_mean", "ppl"),
        speed=None,
        extent=Extent(row.corpus_sha256, params.n_chunks),
        composition={},
        percentiles={p: m.value for m in found if (p := PERCENTILES.get(m.metric)) is not None},
        footprint=Footprint(row.size_bytes, 0, 0, 0),
        scores=token_scores.of_measurements(found, token_scores.path_of(path)),
    )


def _with_others(decided: Settings, row: ResultRow, others: Sequence[Sequence[Measurement]]) -> Settings:
    """What decided a file, with what had it measured on other texts, in other contexts and with other KV caches."""
    table = conditions.Table(decided.options.get("--corpus"), row.corpus_sha256, row.n_ctx)
    texts = conditions.further_texts(table, others)
    options = {**decided.options, **conditions.options(table, others)}
    if texts and "--corpus" in options:
        options["--corpus"] = [options["--corpus"], *texts]
    return Settings(options, {**decided.hashes, **texts})


def _recipe(path: Path) -> TypeRecipe | None:
    """The recipe beside a file, if there is one that can be read: `results.collect` warns of others."""
    try:
        return recipe_of(path)
    except InputError:
        return None


def text_of(entry: Entry) -> str:
    """What a file was evaluated on: a name and a hash."""
    digest, name = entry.extent.corpus_sha256, entry.settings.options.get("--corpus")
    name = name[0] if isinstance(name, list) else name
    if digest == WIKITEXT2_TEST_SHA256:
        name = "WikiText-2 raw, test split"
    return f"{name}, sha256 {str(digest)[:16]}…" if name else f"sha256 {str(digest)[:16]}…"


def _spec(row: ResultRow, lineage: Sequence[Piece]) -> str:
    target = QuantizeNotes.from_manifest(lineage[-1].made).target if lineage else ""
    return target or row.type.lower()


def _conditions(found: Sequence[Measurement], *metrics: str) -> Conditions | None:
    return next((m.conditions for name in metrics for m in found if m.metric == name), None)


def _extent(path: Path, workspace: Workspace) -> Extent:
    for kind in (divergence.STEP, perplexity.STEP, similarity.STEP):
        made = read_manifest(workspace.measurements / f"{stem_of(path)}.{kind}.json")
        if made is not None:
            params = EvalParams.from_manifest(made)
            return Extent(made.inputs.get("corpus"), params.n_chunks, params.precision)
    return Extent()


def _composition(header: GgufHeader) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.n_bytes
    return dict(sorted(sizes.items(), key=lambda item: -bits(item[0])))


def bits(type_name: str) -> float:
    """Bits per weight of a ggml type; 0 for one that is not known."""
    try:
        block, n_bytes = ggml_type_by_name(type_name)
    except GgufError:
        return 0.0
    return 8 * n_bytes / block


def footprint(header: GgufHeader) -> Footprint:
    """What running a file takes, from its header."""
    fixed, per_token = memory.compute_line(header)
    weights = sum(tensor.n_bytes for tensor in header.tensors)
    return Footprint(weights, memory.kv_bytes(header, 1), fixed, per_token)
