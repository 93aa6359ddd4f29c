"""A LoRA adapter, or another of peft's, merged into its base checkpoint before conversion.

The merged checkpoint keeps the base's files, names and dtypes: only the weights that the adapter changes differ, and
a head that is no longer the embedding is added. The merging itself is a process of its own, `peft_merge`.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggufkit.core import extras, machine, process
from ggufkit.core.durations import Work
from ggufkit.core.errors import InputError, ResourceError
from ggufkit.core.expected import timed
from ggufkit.core.hashing import sha256_files
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.jsonfile import read_json
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint
from ggufkit.core.units import size
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.models.files import files_of, fingerprint
from ggufkit.models.peft_merge import WEIGHTS, load_dtype
from ggufkit.models.tensor_headers import read_tensors

_VERSION = 2
"""Raised when merging makes other weights: those in the cache are then made again."""
CONFIG = "adapter_config.json"
_PICKLED = "adapter_model.bin"
_REWRITE = (
    f'Rewrite it, in its directory: python -c "import torch, safetensors.torch as s; '
    f"s.save_file(torch.load('{_PICKLED}', 'cpu', weights_only=True), '{WEIGHTS}')\""
)
_TOKENIZER = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template.*"
)
_OVERHEAD = 1.2
_AND = " + "


def merge(checkpoint: Checkpoint, adapter: Path, reporter: Reporter) -> Checkpoint:
    """The checkpoint with an adapter merged into its weights, in the cache; made once.

    Raises:
        MissingExtra: peft is not installed.
        InputError: the directory holds no LoRA adapter, or one that does not fit this base.
        ResourceError: too little disk or memory.
    """
    warn_of_other_base(read_adapter(adapter), checkpoint, reporter)
    parts = [fingerprint(checkpoint.path), sha256_files(adapter, adapter_files(adapter))]
    key = "-".join([*(part[:8] for part in parts), str(_VERSION)])
    target = cache_dir() / "merged" / f"{checkpoint.name}-{adapter.resolve().name}-{key}"
    if not target.is_dir():
        extras.require("lora")
        _require_room(checkpoint, target)
        reads = [Input(checkpoint.path, parts[0], files_of), Input(adapter, parts[1], adapter_files)]
        _run(reads, checkpoint.name, target, reporter)
        reporter.info(f"The merged checkpoint is kept in {target}; it may be deleted.")
    name = f"{checkpoint.name}-{adapter.resolve().name}"
    made = open_checkpoint(target, name, f"{checkpoint.source}{_AND}{adapter.name}", checkpoint.revision)
    return replace(made, quantized=checkpoint.quantized)


def split_source(source: str) -> tuple[str, str | None]:
    """Where a checkpoint comes from, and the name of the adapter that was merged into it."""
    base, _, adapter = source.partition(_AND)
    return base, adapter or None


def adapter_files(adapter: Path) -> list[Path]:
    """The files of an adapter that are read, sorted by name."""
    names = {CONFIG, WEIGHTS}
    return sorted(
        f for f in adapter.iterdir() if f.is_file() and (f.name in names or _TOKENIZER.fullmatch(f.name))
    )


def read_adapter(adapter: Path) -> dict[str, Any]:
    """The settings of an adapter of peft's, whose weights are whole. Raises InputError where it is none."""
    hint = "Give the directory that peft's save_pretrained wrote: adapter_config.json, adapter_model.safetensors."
    try:
        config = read_json(adapter / CONFIG, dict[str, Any])
    except InputError as error:
        raise InputError(f"{adapter} holds no readable adapter_config.json: {error.message}", hint=hint) from None
    if not (adapter / WEIGHTS).is_file():
        pickled = (adapter / _PICKLED).is_file()
        what = f", only {_PICKLED}, and a pickle can hold any program" if pickled else ""
        raise InputError(f"{adapter} has no {WEIGHTS}{what}.", hint=_REWRITE if pickled else hint)
    read_tensors(adapter / WEIGHTS)
    return config


def warn_of_other_base(config: dict[str, Any], checkpoint: Checkpoint, reporter: Reporter) -> None:
    """Tell of an adapter that says it was trained on another model."""
    trained_on = str(config.get("base_model_name_or_path") or checkpoint.name).rstrip("/").rpartition("/")[2]
    if trained_on.lower() != checkpoint.name.lower():
        reporter.warn(f"The adapter says it was trained on {trained_on}, not on {checkpoint.name}.")


def _require_room(checkpoint: Checkpoint, target: Path) -> None:
    loaded = checkpoint.n_params * 4 if load_dtype(checkpoint.path) == "float32" else checkpoint.tensor_bytes
    disk, memory = (int(n_bytes * _OVERHEAD) for n_bytes in (checkpoint.tensor_bytes, loaded))
    room = (("disk", disk, machine.free_disk(target)), ("memory", memory, machine.free_memory()))
    for what, needed, free in room:
        if free < needed:
            message = f"Merging the adapter needs about {size(needed)} of {what}, {size(free)} are free."
            raise ResourceError(message, hint="Merge it on a larger machine, or free some.")


def _run(reads: Sequence[Input], name: str, target: Path, reporter: Reporter) -> None:
    base, adapter = (one.path for one in reads)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    log = cache_dir() / "logs" / f"merge-{target.name}.log"
    work = Work("merge", sum(file.stat().st_size for file in files_of(base)))
    with timed(reporter, f"Merging {adapter.name} into {name}", work):
        with unchanged(reads):
            output = process.run(
                [sys.executable, "-m", "ggufkit.models.peft_merge", base, adapter, partial], log=log
            )
            _copy_rest(base, adapter, partial)
        if output.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            reason = (output.stderr.strip().splitlines() or ["peft said nothing"])[-1]
            message = f"{adapter} cannot be merged into {name}: {reason.rstrip('.')}."
            raise InputError(message, hint="Is it an adapter of this base?", log=output.log)
    partial.rename(target)


def _copy_rest(base: Path, adapter: Path, target: Path) -> None:
    """The base's other files, where merging did not change them; the tokenizer that the adapter brings wins."""
    tokenizer = {f.name: f for f in adapter_files(adapter) if _TOKENIZER.fullmatch(f.name)}
    others = {str(f.relative_to(base)): f for f in files_of(base) if f.suffix != ".safetensors"}
    config = tokenizer.get("tokenizer_config.json")
    if config is not None and "chat_template" in read_json(config, dict[str, Any]):
        # A file of the base would win over the template that the adapter was trained with.
        others = {name: file for name, file in others.items() if "chat_template" not in name}
    for name, file in (others | tokenizer).items():
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / name)
