"""The complete GGUF files of a directory, whole or in parts, and what belongs to each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.core.errors import InputError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import PARTIAL, SUFFIX, read_manifest
from ggufkit.core.part_names import by_whole, part_name, whole_of
from ggufkit.core.progress import Reporter
from ggufkit.llama import parts
from ggufkit.llama.gguf import gguf_sha256, read_header
from ggufkit.llama.mmproj import Projector, read_projector, require_belongs
from ggufkit.modelfile import grammar
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.report.lineage import Archive
from ggufkit.report.results import finished
from ggufkit.steps import guest, imatrix, mmproj
from ggufkit.steps.step import Workspace

LeftOut = list[tuple[str, str]]
"""Files that are not uploaded, each with the reason."""


@dataclass(frozen=True)
class Model:
    """A complete GGUF, and the files that others get of it: itself, or its parts.

    Args:
        beside: what belongs to it: its recipe, the importance matrix that it was made with, what reads images for it.
        modelfiles: those that Ollama reads; it reads no parts.
    """

    gguf: Path
    files: tuple[Path, ...]
    beside: tuple[Path, ...] = ()
    modelfiles: tuple[Path, ...] = ()

    @property
    def names(self) -> list[str]:
        """Its own name, whole, and those of its files."""
        return list(dict.fromkeys([whole_of(self.gguf).name, *(file.name for file in self.files)]))

    @property
    def all_files(self) -> list[Path]:
        """Its files, and what belongs to it."""
        return [*self.files, *self.beside, *self.modelfiles]


def find(root: Path, reporter: Reporter) -> tuple[list[Model], LeftOut]:
    """The complete models of a directory; and the files that are none, with the reason."""
    found, left_out = _complete(root)
    beside = [file for file in found if _step(file) == mmproj.STEP]
    complete, projectors = (
        [file for file in found if file not in beside],
        [read_projector(file) for file in beside],
    )
    files, others = _held_in(root, complete, reporter)
    modelfiles, strays = _modelfiles(root, files)
    matrices = _matrices(root, complete)
    models = [
        Model(
            gguf, files[gguf], (*_recipe(gguf), *matrices[gguf], *_belonging(projectors, gguf)),
            tuple(modelfiles.get(gguf, ())),
        )
        for gguf in complete
    ]  # fmt: skip
    used = {file for model in models for file in model.beside}
    foreign = [
        (p.path.name, "it is of another model than the files here") for p in projectors if p.path not in used
    ]
    return models, [*left_out, *others, *strays, *foreign]


def _complete(root: Path) -> tuple[list[Path], LeftOut]:
    """The complete GGUF files, of those in parts the first; and the others. Parts that somebody else made are neither."""
    complete, left_out = list[Path](), LeftOut()
    made_here = set(finished(root))
    for file in sorted(f for f in root.glob("*.gguf") if part_name(f) is None or f in made_here):
        made = read_manifest(file)
        if made is None:
            left_out.append((file.name, "it has no manifest: ggufkit did not make it, or did not finish it"))
        elif made.step == guest.STEP:
            left_out.append((file.name, "somebody else made it"))
        elif gguf_sha256(file) != made.output.get("sha256"):
            left_out.append((file.name, "it was changed since it was made"))
        else:
            complete.append(file)
    left_out += [(file.name, "it is not finished") for file in sorted(root.glob(f"*.gguf{PARTIAL}"))]
    return complete, left_out


def _held_in(
    root: Path, complete: Sequence[Path], reporter: Reporter
) -> tuple[dict[Path, tuple[Path, ...]], LeftOut]:
    """The files that hold each model: parts in place of it, where all are there and hold the same."""
    found: dict[Path, tuple[Path, ...]] = {gguf: tuple(read_header(gguf).files) for gguf in complete}
    left_out, own = LeftOut(), {file for files in found.values() for file in files}
    for name, files in by_whole(f for f in root.glob("*.gguf") if f not in own).items():
        whole = root / name
        if whole in found:
            reason = parts.difference(files, whole, reporter)
            wrong = f"it is no part of {name} as it is here: {reason}"
        else:
            reason = wrong = f"it is a part of {name}, which is not here or not complete"
        if reason is None:
            found[whole] = tuple(files)
        else:
            left_out += [(file.name, wrong) for file in files]
    return found, left_out


def _step(file: Path) -> str:
    made = read_manifest(file)
    return "" if made is None else made.step


def _belonging(projectors: Sequence[Projector], gguf: Path) -> Iterator[Path]:
    """What reads images or sound for a model."""
    for one in projectors:
        with contextlib.suppress(InputError):
            require_belongs(one, read_header(gguf))
            yield one.path


def _recipe(gguf: Path) -> Iterator[Path]:
    if (recipe := recipe_path(gguf)).is_file():
        yield recipe


def _matrices(root: Path, complete: Sequence[Path]) -> dict[Path, list[Path]]:
    """The importance matrices that files were made with, as far as they were made here and are still what they were."""
    archive = Archive(Workspace(root))
    return {
        gguf: [
            piece.path for piece in archive.lineage(gguf)
            if piece.made.step == imatrix.STEP and piece.path.is_file()
            and sha256_file(piece.path) == piece.made.output.get("sha256")
        ]
        for gguf in complete
    }  # fmt: skip


def _modelfiles(root: Path, held: Mapping[Path, Sequence[Path]]) -> tuple[dict[Path, list[Path]], LeftOut]:
    """The Modelfiles of complete files that go up whole, and the others."""
    found, left_out = dict[Path, list[Path]](), LeftOut()
    known = {whole_of(gguf).name: gguf for gguf in held}
    for file in sorted(
        f for f in root.glob("Modelfile*") if f.is_file() and not f.name.endswith((SUFFIX, PARTIAL))
    ):
        base = _base_of(file)
        gguf = known.get(base)
        if gguf is None:
            left_out.append(
                (file.name, f"it is for {base}, which is not uploaded" if base else "it names no file")
            )
        elif len(held[gguf]) > 1:
            left_out.append((file.name, f"it is for {base}, which is uploaded in parts; Ollama reads none"))
        else:
            found.setdefault(gguf, []).append(file)
    return found, left_out


def _base_of(file: Path) -> str:
    """The file that a Modelfile's FROM names; "" if it cannot be read."""
    try:
        commands = grammar.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, InputError):
        return ""
    return next((c.args for c in commands if c.name == "model"), "").removeprefix("./")
