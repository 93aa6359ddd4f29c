"""What a file was made from and measured with: manifests of a result directory, found by the hashes that they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath

from ggufkit.core.manifest import SUFFIX, read_manifest
from ggufkit.core.records import Json, Manifest, ResultRow
from ggufkit.llama import quants
from ggufkit.refine.options import RefineOptions
from ggufkit.steps.step import Workspace
from ggufkit.texts.wikitext import TEXTS

_INPUTS = ("base", "imatrix", "quantized")
_TITLES = {"awq": "AWQ scales", "refine": "GPTQ"}


@dataclass(frozen=True)
class Piece:
    """An artefact, which need not be there any more, and its manifest."""

    path: Path
    made: Manifest


@dataclass(frozen=True)
class Settings:
    """Options of `ggufkit build` that decided a file and its measurements, defaults among them; and the SHA-256 of
    the user's own texts and importance matrices by the names that the options have for them."""

    options: Mapping[str, Json] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)


class Archive:
    """The manifests of a result directory."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        found = [f for place in (workspace.root, workspace.private) for f in sorted(place.glob(f"*{SUFFIX}"))]
        paths = [file.with_name(file.name.removesuffix(SUFFIX)) for file in found]
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
        for parent in [*parents, *self._scaled(piece)]:
            self._collect(parent, found, seen)
        found[piece.path] = piece

    def _scaled(self, piece: Piece) -> list[Piece]:
        """The scaled checkpoint that a base was converted from: its directory stands in the base's name."""
        if piece.made.step != "convert":
            return []
        name, kind = piece.made.params.get("name"), str(piece.made.params.get("out_type")).upper()
        scaled = [p for p in self._pieces if p.made.step == "awq"]
        return [p for p in scaled if piece.path.name == f"{name}-{p.path.name}-{kind}.gguf"]

    def measured(self, path: Path, row: ResultRow) -> list[Piece]:
        """How a row's quality and speed were measured, as far as they were."""
        quality = "divergence" if row.kld_mean is not None else "perplexity" if row.ppl is not None else None
        speed = "bench" if row.tg_tps is not None or row.pp_tps is not None else None
        files = [self.workspace.measurements / f"{path.stem}.{kind}.json" for kind in (quality, speed) if kind]
        return [Piece(file, made) for file in files if (made := read_manifest(file)) is not None]


def settings(row: ResultRow, lineage: Sequence[Piece], measured: Sequence[Piece]) -> Settings:
    """What decided a row. An option that its file and measurements do not depend on is missing."""
    options: dict[str, Json] = {"--no-eval": row.ppl is None, "--no-bench": row.tg_tps is None}
    if row.ppl is not None and row.ppl_base != row.ppl and not is_start(row, lineage):
        options["--no-kld"] = row.kld_mean is None
    hashes: dict[str, str] = {}
    for piece in [*lineage, *measured]:
        found = _of_step(piece.made, row)
        options |= found.options
        hashes |= found.hashes
    own = own_imatrix(lineage)
    if own is not None and not row.variant.startswith("awq"):
        name, digest = own
        options["--imatrix"] = name if digest else None
        hashes |= {name: digest} if digest else {}
    return Settings(options, hashes)


def is_start(row: ResultRow, lineage: Sequence[Piece]) -> bool:
    """Whether a row's file is what a build starts from: a converted checkpoint, or the user's own file."""
    return bool(lineage) and row.variant == "plain" and lineage[-1].made.step in ("convert", "adopt")


def _of_step(made: Manifest, row: ResultRow) -> Settings:
    p = made.params
    if made.step == "convert":
        return Settings({"--base-type": p.get("out_type"), "--pre": p.get("pre"), "--lora": adapter_of(made)})
    if made.step == "quantize":
        return Settings({"--allow-requantize": p.get("allow_requantize", False)})
    if made.step in ("awq", "refine", "imatrix"):
        text = _calibration(made)
        return Settings({**(_awq(made, row) if made.step == "awq" else {}), **text.options}, text.hashes)
    if made.step in ("divergence", "perplexity"):
        name, digest = text_of(made.notes.get("corpus"), made.inputs.get("corpus"))
        how: dict[str, Json] = {"--corpus": name, "--ctx": p.get("n_ctx", 512), "--chunks": p.get("n_chunks")}
        how |= {"--precision": p.get("precision"), "--ngl": p.get("ngl")}
        return Settings(how, {name: digest} if digest else {})
    if made.step == "bench":
        return Settings({"--bench-reps": p.get("repetitions", 5), "--ngl": p.get("ngl")})
    return Settings()


def _awq(made: Manifest, row: ResultRow) -> dict[str, Json]:
    options: dict[str, Json] = {"--awq-engine": made.params.get("engine", "native")}
    options["--awq-objective"] = made.params.get("objective") or "ggml"
    options["--awq-dtype"] = made.params.get("dtype", "source")
    if not quants.is_float(row.type):
        options["--awq-per-type"] = "-" in str(made.notes.get("label", ""))
    return options


def _calibration(made: Manifest) -> Settings:
    name, digest = _calibration_text(made)
    samples = made.params.get("n_chunks") if made.step == "imatrix" else made.notes.get("calibration_samples")
    options: dict[str, Json] = {"--calibration": name, "--calibration-samples": samples}
    if made.step != "imatrix":
        options["--seed"] = made.notes.get("calibration_seed")
    return Settings(options, {name: digest} if digest else {})


def _calibration_text(made: Manifest) -> tuple[str, str]:
    if made.step == "imatrix":
        return text_of(
            made.notes.get("calibration_source") or made.params.get("text"), made.inputs.get("calibration")
        )
    return text_of(made.notes.get("calibration_source"), made.notes.get("calibration_text_sha256"))


def text_of(name: Json, sha256: Json) -> tuple[str, str]:
    """What `--corpus` or `--calibration` calls a text, without its directory, and its SHA-256 unless it is a named
    one. "TEXT" where only its hash is known."""
    known = next((text.name for text in TEXTS.values() if text.sha256 == sha256), None)
    if known is not None:
        return known, ""
    given = str(name or "TEXT")
    return (given if ":" in given else PurePath(given).name), "" if given in TEXTS else str(sha256 or "")


def own_imatrix(lineage: Sequence[Piece]) -> tuple[str, str] | None:
    """The name and SHA-256 of the user's importance matrix that a file was quantized with.

    "" for both where the matrix was computed, None where there is none.
    """
    made = next((p.made for p in lineage if "imatrix" in p.made.inputs), None)
    if made is None or any(p.made.step == "imatrix" for p in lineage):
        return None if made is None else ("", "")
    words = next((argv for argv in made.argv if "--imatrix" in argv[:-1]), [])
    name = PurePath(words[words.index("--imatrix") + 1]).name if words else "FILE.imatrix"
    return name, made.inputs["imatrix"]


def adapter_of(made: Manifest) -> str | None:
    """The LoRA adapter that was merged into a checkpoint before it was converted."""
    return str(made.notes.get("source") or "").partition(" + ")[2] or None


def calibrated(lineage: Sequence[Piece]) -> list[tuple[str, str]]:
    """What was calibrated on which text, as label and value."""
    found = [_calibrated(p.made) for p in lineage if p.made.step in ("awq", "refine", "imatrix")]
    name, digest = own_imatrix(lineage) or ("", "")
    own = [("Importance matrix", f"{name}, sha256 {digest[:16]}…")] if digest else []
    return list(dict.fromkeys([*own, *found]))


def _calibrated(made: Manifest) -> tuple[str, str]:
    name, digest = _calibration_text(made)
    text = f"{name}, sha256 {digest[:16]}…" if digest else name
    if made.step == "imatrix":
        n_chunks, n_ctx = made.params.get("n_chunks"), made.params.get("n_ctx")
        return "Importance matrix from", f"{text}, its first {n_chunks} chunks of {n_ctx} tokens"
    return f"{_TITLES[made.step]} from", f"{text}, {_samples(made)}"


def _samples(made: Manifest) -> str:
    n, length = made.notes.get("calibration_samples"), made.notes.get("calibration_sample_tokens")
    return f"{n} samples of {length} tokens, seed {made.notes.get('calibration_seed')}"


def in_words(piece: Piece) -> str:
    """A step that ran no command, as a comment; "" for one that needs none."""
    made = piece.made
    if made.step not in _TITLES:
        return ""
    usual: Mapping[str, Json] = asdict(RefineOptions())
    how = [f"{key} {value}" for key, value in made.params.items() if usual.get(key, value) != value]
    how += [f"{made.params.get('engine')} engine"] if made.step == "awq" else []
    facts = [piece.path.name, *how, _calibration_text(made)[0], _samples(made)]
    return f"# {_TITLES[made.step]}: {', '.join(facts)}"
