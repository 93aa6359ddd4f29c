"""From manifests and measurements on disk to result rows. Nothing is run here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from ggufkit.core import variants
from ggufkit.core.errors import GgufError, InputError
from ggufkit.core.jsonfile import read_within
from ggufkit.core.manifest import SUFFIX, artefact_of, manifest_path, open_manifest, read_manifest, write_manifest
from ggufkit.core.part_names import stem_of, whole_of
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import F16, GgufFile, Manifest, Measurement, ResultRow
from ggufkit.core.yamlfile import LIMIT_BYTES
from ggufkit.llama.gguf import gguf_sha256, read_gguf
from ggufkit.measure import bench, checkpoints, divergence, perplexity, plugged, similarity
from ggufkit.measure.checkpoints import CheckpointNotes
from ggufkit.measure.measurements import against_own_base, load, order_of
from ggufkit.measure.metrics import BY_NAME, may_be_added
from ggufkit.measure.tasks import scores
from ggufkit.models import sources
from ggufkit.recipes import recipe_file
from ggufkit.recipes.type_recipe import TypeRecipe, recipe_path
from ggufkit.steps import division, mmproj
from ggufkit.steps.notes import GgufNotes
from ggufkit.steps.quantize import QuantizeNotes
from ggufkit.steps.step import Result, Workspace

_QUALITY = (divergence.STEP, perplexity.STEP, similarity.STEP)
_CHECKPOINT = "hf"
"""What stands where a GGUF's variant does."""
_KINDS = (*_QUALITY, bench.STEP, checkpoints.STEP, f"{plugged.KIND}*", f"{scores.KIND}*")


def collect(root: Path, reporter: Reporter | None = None) -> list[ResultRow]:
    """One row for each finished GGUF of a result directory: by variant, then from large to small; then the checkpoints
    that were compared with one of them.

    Args:
        reporter: is warned of each file that cannot be read; only what that file tells is missing.

    Raises:
        InputError: the directory holds no results.
    """
    workspace, teller = Workspace(root), reporter or SilentReporter()
    for complaint in _complaints(workspace):
        teller.warn(complaint)
    found = [(g, m) for g in finished(root) if (m := read_manifest(g)) is not None]
    found = [(g, m) for g, m in found if m.step != mmproj.STEP]
    shown = [(g, m) for g, m in found if GgufNotes.from_manifest(m).variant]
    for gguf in [g for g, m in found if (g, m) not in shown]:
        teller.warn(f"Left out: {manifest_path(gguf)} names no variant. Make the file again.")
    rows = [row for gguf, made in shown if (row := _row_unless_damaged(gguf, made, workspace, teller)) is not None]
    rows = _with_base(rows, workspace)
    if not rows:
        hint = f"It should hold *.gguf with *{SUFFIX}: make them with `ggufkit build`."
        raise InputError(f"{root} holds no results.", hint=hint)
    order = {name: i for i, name in enumerate(variants.names())}
    ordered = sorted(rows, key=lambda r: (order.get(r.variant, len(order)), -r.size_bytes, r.file))
    return [*ordered, *_checkpoints(workspace, {str(row.sha256) for row in rows})]


def finished(root: Path) -> list[Path]:
    """The GGUFs of a result directory with manifests: files, and the first of parts that no whole file is beside."""
    made = [gguf for gguf in sorted(root.glob("*.gguf")) if manifest_path(gguf).exists()]
    return [gguf for gguf in made if whole_of(gguf) == gguf or whole_of(gguf) not in made]


def require_whole_sets(root: Path) -> None:
    """Refuse a result directory in which a part is missing, or another one than was written.

    Raises:
        GgufError: it is named.
    """
    for first in division.sets_in(root):
        read_gguf(first)


def rows_of(paths: Iterable[Path], workspace: Workspace) -> list[ResultRow]:
    """The rows of GGUFs, whoever made them, with what was measured of them in a workspace.

    Raises:
        GgufError: one is none.
    """
    return _with_base([_row(path, read_manifest(path), workspace) for path in paths], workspace)


def measurements_of(path: Path, digest: str, workspace: Workspace) -> list[Measurement]:
    """All that was measured of a file as it is now: quality as the last build did, else the last command; then speed."""
    return measured_in(workspace.measurements, stem_of(path), digest)


def further_measurements_of(path: Path, digest: str, workspace: Workspace) -> list[list[Measurement]]:
    """The same in each other setting and with each other KV cache: what no row of the table has."""
    return [found for place in further_places(workspace) if (found := measured_in(place, stem_of(path), digest))]


def further_places(workspace: Workspace) -> list[Path]:
    """Where measurements in other settings and with other KV caches are: a directory for each."""
    return sorted(place for place in workspace.measurements.rglob("*") if place.is_dir())


def measured_in(place: Path, stem: str, digest: str) -> list[Measurement]:
    """What one of these directories, or that of the table, has of a file: quality, then speed, then packages' metrics."""
    files = [place / f"{stem}.{kind}.json" for kind in _QUALITY]
    made = [(order_of(m), file) for file in files if (m := read_manifest(file)) is not None]
    latest = [max(made)[1]] if made else []
    added = sorted(place.glob(f"{escape(stem)}.{plugged.KIND}*.json"))
    found = [*latest, place / f"{stem}.{bench.STEP}.json", *added]
    return [m for file in found for m in readable(file) if m.file_sha256 == digest]


def row_of(file: GgufFile, measurements: Iterable[Measurement]) -> ResultRow:
    """The row of a file whoever made it; its variant is known where ggufkit did."""
    made = read_manifest(file.path)
    own = made is not None and made.output.get("sha256") == file.sha256
    return ResultRow(
        name=stem_of(file.path),
        variant=QuantizeNotes.from_manifest(made).variant if made is not None and own else "",
        type=file.type,
        file=file.path.name,
        size_bytes=file.size_bytes,
        n_params=file.n_params,
        bpw=file.bpw,
        sha256=file.sha256,
        **_columns(measurements),
    )


def row_of_checkpoint(made: Manifest, measurements: Iterable[Measurement]) -> ResultRow:
    """The row of a checkpoint that was measured."""
    notes = CheckpointNotes.from_manifest(made)
    return ResultRow(
        name=notes.name,
        variant=_CHECKPOINT,
        type=notes.type,
        file=f"{notes.name}-{notes.format}",
        size_bytes=notes.size_bytes,
        n_params=notes.n_params,
        bpw=8 * notes.size_bytes / notes.n_params if notes.n_params else 0.0,
        sha256=made.inputs.get("checkpoint"),
        format=notes.format,
        **_columns(measurements),
    )


def rows_of_checkpoints(done: Iterable[Result]) -> list[ResultRow]:
    """The rows of checkpoints that were measured now, in that order."""
    return [row_of_checkpoint(one.manifest, load(one.path)) for one in done]


def _checkpoints(workspace: Workspace, bases: set[str]) -> list[ResultRow]:
    """Those that were compared with one of these files, from large to small."""
    files = sorted(workspace.measurements.glob(f"*.{checkpoints.STEP}.json"))
    found = [(made, readable(file)) for file in files if (made := read_manifest(file)) is not None]
    rows = [row_of_checkpoint(made, ms) for made, ms in found if ms and made.inputs.get("base") in bases]
    return sorted(rows, key=lambda row: (-row.size_bytes, row.file))


def checkpoint_measurements(file: Path) -> list[Measurement]:
    """What was measured of a checkpoint; nothing where the file cannot be read, of which `collect` warns."""
    return readable(file)


def recipe_of(gguf: Path) -> TypeRecipe | None:
    """The recipe beside a file; None for one without.

    Raises:
        InputError: there is one that cannot be read.
    """
    beside = recipe_path(gguf)
    if not beside.exists():
        return None
    hint = "Make its file again, or remove the recipe."
    return recipe_file.parse_recipe(read_within(beside, LIMIT_BYTES, hint=hint), str(beside))


def _complaints(workspace: Workspace) -> Iterator[str]:
    """What is wrong with manifests and measurements that cannot be read, each in a sentence."""
    places = (workspace.root, workspace.private)
    manifests = [file for place in places for file in sorted(place.glob(f"*{SUFFIX}"))]
    manifests += sorted(workspace.measurements.rglob(f"*{SUFFIX}"))
    found = (f for kind in _KINDS for f in sorted(workspace.measurements.rglob(f"*.{kind}.json")))
    measured = [f for f in found if not f.name.endswith(SUFFIX)]
    readings: list[Callable[[], object]] = [
        *(partial(open_manifest, artefact_of(file)) for file in manifests),
        *(partial(load, file) for file in measured),
        *(partial(recipe_of, file) for file in sorted(workspace.root.glob("*.gguf"))),
    ]
    for read in readings:
        try:
            read()
        except InputError as error:
            yield f"Left out: {error.message} {error.hint}"


def readable(file: Path) -> list[Measurement]:
    """The measurements of a file; none where it cannot be read."""
    try:
        return load(file)
    except InputError:
        return []


def confirm(done: Iterable[Result]) -> None:
    """Let what a build measured, or found fresh, be what its table shows: a measurement beside it comes second."""
    for result in done:
        stem, _, kind = result.path.name.removesuffix(".json").rpartition(".")
        others = [read_manifest(result.path.with_name(f"{stem}.{k}.json")) for k in _QUALITY if k != kind]
        rivals = [order_of(m) for m in others if m is not None]
        own = order_of(result.manifest)
        is_taken = own[0].confirmed or own[0].confirmed_at
        if kind in _QUALITY and (not is_taken or any(rival > own for rival in rivals)):
            latest = 1 + max(order.confirmed for order, _ in [own, *rivals])
            taken = replace(own[0], confirmed=latest)
            notes = {**result.manifest.notes, **taken.to_notes()}
            write_manifest(result.path, replace(result.manifest, notes=notes))


def _with_base(rows: list[ResultRow], workspace: Workspace) -> list[ResultRow]:
    """The rows, compared with their base's own perplexity; that of the base has its own as the base's."""
    found = {row.sha256: measurements_of(workspace.root / row.file, str(row.sha256), workspace) for row in rows}
    bases = {m.conditions.base_sha256 for measured in found.values() for m in measured}
    return [
        replace(row, ppl_base=row.ppl) if row.sha256 in bases else _against_own_base(row, found) for row in rows
    ]


def _against_own_base(row: ResultRow, found: Mapping[str | None, Sequence[Measurement]]) -> ResultRow:
    base = next((m.conditions.base_sha256 for m in found[row.sha256] if m.metric == "ppl_base"), None)
    compared = against_own_base(found[row.sha256], found.get(base, ()) if base else ())
    values: dict[str, Any] = {m.metric: m.value for m in compared if m.metric in ("ppl_base", "ln_ppl_ratio")}
    return replace(row, **values)


def _row_unless_damaged(
    path: Path, manifest: Manifest, workspace: Workspace, reporter: Reporter
) -> ResultRow | None:
    if not path.exists():
        reporter.warn(f"Left out: {path} leads to {path.readlink()}, which is not there any more.")
        return None
    try:
        return _row(path, manifest, workspace)
    except GgufError as error:
        reporter.warn(f"Left out: {error.message} {error.hint}")
        return None


def _row(path: Path, manifest: Manifest | None, workspace: Workspace) -> ResultRow:
    digest = gguf_sha256(path)  # which may have been replaced since
    gguf = read_gguf(path, digest)
    unknown = QuantizeNotes(sources.name_of(path), "plain")
    notes = unknown if manifest is None else QuantizeNotes.from_manifest(manifest)
    measurements = measurements_of(path, digest, workspace)
    return ResultRow(
        name=notes.name,
        variant=notes.variant,
        type=notes.type or gguf.type,
        file=path.name,
        size_bytes=gguf.size_bytes,
        n_params=gguf.n_params,
        bpw=gguf.bpw,
        n_fallback=notes.n_fallback,
        sha256=digest,
        tasks=scores.scores_in(workspace.measurements, stem_of(path), digest),
        **_columns(measurements),
    )


def _columns(measurements: Iterable[Measurement]) -> dict[str, Any]:
    """The measured columns, and the conditions: those of quality where there is any, else those of speed."""
    columns: dict[str, Any] = {}
    further: list[tuple[str, float]] = []
    for m in measurements:
        metric = BY_NAME.get(m.metric)
        if metric is None and may_be_added(m.metric):
            further += [(m.metric, m.value), *([(f"{m.metric}_stderr", m.stderr)] if m.stderr is not None else [])]
        if metric is None or not metric.in_table:
            continue
        columns[m.metric] = m.value
        error = metric.stderr_column
        if error is not None:
            columns[error] = m.stderr
        for key in ("n_ctx", "n_chunks", "corpus_sha256", "backend", "device", "ngl", "llama_cpp_commit"):
            value = getattr(m.conditions, key)
            if columns.get(key) is None and value is not None:
                columns[key] = value
    if {"ppl", "pp_tps"} & columns.keys():
        columns["kv_type"] = F16
    return columns | ({"further": tuple(further)} if further else {})
