"""What a file was made from and measured with: manifests of a result directory, found by the hashes that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ggufkit.core import variants
from ggufkit.core.manifest import SUFFIX, artefact_of, read_manifest
from ggufkit.core.part_names import stem_of, whole_of
from ggufkit.core.records import Manifest, ResultRow
from ggufkit.measure import bench, divergence, perplexity, similarity
from ggufkit.measure.tasks import answers
from ggufkit.recipes.options import RecipeNotes
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.steps import awq, convert, imatrix, import_gguf, method
from ggufkit.steps.convert import ConvertNotes, ConvertParams
from ggufkit.steps.step import Workspace

_INPUTS = ("base", "imatrix", "quantized")
_BASES = (convert.STEP, import_gguf.STEP)


@dataclass(frozen=True)
class Piece:
    """An artefact, which need not be there any more, and its manifest."""

    path: Path
    made: Manifest


class Archive:
    """The manifests of a result directory."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        found = [f for place in (workspace.root, workspace.private) for f in sorted(place.glob(f"*{SUFFIX}"))]
        paths = [artefact_of(file) for file in found]
        self._pieces = [Piece(path, made) for path in paths if (made := read_manifest(path)) is not None]
        self._by_sha256 = {str(piece.made.output.get("sha256")): piece for piece in self._pieces}

    def lineage(self, path: Path) -> list[Piece]:
        """All that led to a file, in the order of its making; the file last."""
        made = read_manifest(path)
        found: dict[Path, Piece] = {}
        if made is not None:
            self._collect(Piece(path, made), found, set())
        return list(found.values())

    def _collect(self, piece: Piece, found: dict[Path, Piece], seen: set[Path]) -> None:
        if piece.path in seen:
            return
        seen.add(piece.path)
        hashes = [piece.made.inputs.get(role) for role in _INPUTS]
        parents = [self._by_sha256[digest] for digest in hashes if digest in self._by_sha256]
        for parent in [*parents, *self._scaled(piece), *_recipe(piece)]:
            self._collect(parent, found, seen)
        found[piece.path] = piece

    def _scaled(self, piece: Piece) -> list[Piece]:
        """The changed checkpoint that a base was converted from: its directory stands in the base's name."""
        if piece.made.step != convert.STEP:
            return []
        params = ConvertParams.from_manifest(piece.made)
        scaled = [p for p in self._pieces if p.made.step in (awq.STEP, method.STEP)]
        names = [variants.scaled_base_name(params.name, p.path.name, params.out_type.upper()) for p in scaled]
        return [p for p, name in zip(scaled, names, strict=True) if name == whole_of(piece.path).name]

    def measured(self, path: Path, row: ResultRow) -> list[Piece]:
        """How a row's quality and speed were measured, as far as they were."""
        by_value = {divergence.STEP: row.kld_mean, perplexity.STEP: row.ppl, similarity.STEP: row.cosine_mean}
        quality = next((step for step, value in by_value.items() if value is not None), None)
        speed = bench.STEP if row.tg_tps is not None or row.pp_tps is not None else None
        tasks = [f"{score.task}.{answers.STEP}" for score in row.tasks]
        kinds = [kind for kind in (quality, speed, *tasks) if kind]
        files = [self.workspace.measurements / f"{stem_of(path)}.{kind}.json" for kind in kinds]
        return [Piece(file, made) for file in files if (made := read_manifest(file)) is not None]

    def measured_further(self, path: Path) -> list[Piece]:
        """How a file was measured in other settings and with other KV caches."""
        places = sorted(place for place in self.workspace.measurements.rglob("*") if place.is_dir())
        kinds = (divergence.STEP, perplexity.STEP, bench.STEP)
        files = [place / f"{stem_of(path)}.{kind}.json" for place in places for kind in kinds]
        return [Piece(file, made) for file in files if (made := read_manifest(file)) is not None]


def _recipe(piece: Piece) -> list[Piece]:
    """The recipe of a file's types, beside it."""
    path = recipe_path(piece.path)
    made = read_manifest(path)
    return [Piece(path, made)] if made is not None else []


def is_start(row: ResultRow, lineage: Sequence[Piece]) -> bool:
    """Whether a row's file is what a build starts from: a converted checkpoint, or the user's own file."""
    return bool(lineage) and row.variant == "plain" and lineage[-1].made.step in _BASES


def origin_of(lineage: Sequence[Piece]) -> ConvertNotes:
    """Where a base comes from, "" for what is not known. A user's own file notes its source as a checkpoint does."""
    bases = [p.made for p in lineage if p.made.step in _BASES]
    notes = [ConvertNotes.from_manifest(made) for made in bases]
    return next((n for n in notes if n.source), ConvertNotes())


def own_imatrix(lineage: Sequence[Piece]) -> tuple[str, str] | None:
    """The name and SHA-256 of the user's importance matrix that a file was quantized with.

    "" for both where the matrix was computed, None where there is none.
    """
    made = next((p.made for p in lineage if "imatrix" in p.made.inputs), None)
    if made is None or any(p.made.step == imatrix.STEP for p in lineage):
        return None if made is None else ("", "")
    words = next((argv for argv in made.argv if "--imatrix" in argv[:-1]), [])
    noted = RecipeNotes.from_manifest(made).imatrix_source or "FILE.imatrix"
    name = PurePath(words[words.index("--imatrix") + 1]).name if words else noted
    return name, made.inputs["imatrix"]
