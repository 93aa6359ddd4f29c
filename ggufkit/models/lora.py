"""A LoRA adapter merged into its base checkpoint by peft, before conversion.

The merged checkpoint keeps the base's files, names and dtypes: only the weights that the adapter changes differ.
Run as a module it merges, in a process of its own, because the whole model is loaded:
`python -m ggufkit.models.lora BASE ADAPTER TARGET`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.core import extras, machine, process
from ggufkit.core.errors import InputError, ResourceError
from ggufkit.core.hashing import sha256_files
from ggufkit.core.inputs import Input, unchanged
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Checkpoint
from ggufkit.models.checkpoint import files_of, fingerprint, open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = "adapter_model.safetensors"
_TOKENIZER = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template.*"
)
_PREFIX = "base_model.model."
_OVERHEAD = 1.2
_AND = " + "


def merge(checkpoint: Checkpoint, adapter: Path, reporter: Reporter) -> Checkpoint:
    """The checkpoint with an adapter merged into its weights, in the cache; made once.

    Raises:
        MissingExtra: peft is not installed.
        InputError: the directory holds no LoRA adapter, or one that does not fit this base.
        ResourceError: too little disk or memory.
    """
    _warn_of_other_base(_read_config(adapter), checkpoint, reporter)
    parts = [fingerprint(checkpoint.path), sha256_files(adapter, _adapter_files(adapter))]
    target = (
        cache_dir() / "merged" / f"{checkpoint.name}-{adapter.resolve().name}-{'-'.join(p[:8] for p in parts)}"
    )
    if not target.is_dir():
        extras.require("lora")
        _require_room(checkpoint, target)
        reads = [Input(checkpoint.path, parts[0], files_of), Input(adapter, parts[1], _adapter_files)]
        _run(reads, checkpoint.name, target, reporter)
        reporter.info(f"The merged checkpoint is kept in {target}; it may be deleted.")
    name = f"{checkpoint.name}-{adapter.resolve().name}"
    return open_checkpoint(target, name, f"{checkpoint.source}{_AND}{adapter.name}", checkpoint.revision)


def split_source(source: str) -> tuple[str, str | None]:
    """Where a checkpoint comes from, and the name of the adapter that was merged into it."""
    base, _, adapter = source.partition(_AND)
    return base, adapter or None


def _adapter_files(adapter: Path) -> list[Path]:
    names = {"adapter_config.json", _WEIGHTS}
    return sorted(
        f for f in adapter.iterdir() if f.is_file() and (f.name in names or _TOKENIZER.fullmatch(f.name))
    )


def _read_config(adapter: Path) -> dict[str, Any]:
    hint = "Give the directory that peft's save_pretrained wrote: adapter_config.json, adapter_model.safetensors."
    try:
        config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{adapter} holds no readable adapter_config.json: {error}.", hint=hint) from None
    if not (adapter / _WEIGHTS).is_file():
        raise InputError(f"{adapter} has no {_WEIGHTS}.", hint=hint)
    return config


def _warn_of_other_base(config: dict[str, Any], checkpoint: Checkpoint, reporter: Reporter) -> None:
    trained_on = str(config.get("base_model_name_or_path") or checkpoint.name).rstrip("/").rpartition("/")[2]
    if trained_on.lower() != checkpoint.name.lower():
        reporter.warn(f"The adapter says it was trained on {trained_on}, not on {checkpoint.name}.")


def _require_room(checkpoint: Checkpoint, target: Path) -> None:
    needed = int(checkpoint.tensor_bytes * _OVERHEAD)
    for what, free in (("disk", machine.free_disk(target)), ("memory", machine.free_memory())):
        if free < needed:
            message = (
                f"Merging the adapter needs about {needed / 1e9:.1f} GB of {what}, {free / 1e9:.1f} GB are free."
            )
            raise ResourceError(message, hint="Merge it on a larger machine, or free some.")


def _run(reads: Sequence[Input], name: str, target: Path, reporter: Reporter) -> None:
    base, adapter = (one.path for one in reads)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    log = cache_dir() / "logs" / f"merge-{target.name}.log"
    with reporter.step(f"Merging {adapter.name} into {name}"):
        with unchanged(reads):
            output = process.run([sys.executable, "-m", "ggufkit.models.lora", base, adapter, partial], log=log)
        if output.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            reason = (output.stderr.strip().splitlines() or ["peft said nothing"])[-1]
            message = f"{adapter} cannot be merged into {name}: {reason}"
            raise InputError(message, hint="Is it an adapter of this base?", log=output.log)
    partial.rename(target)


def _merge(base: Path, adapter: Path, target: Path) -> None:
    """Merge, and write the base's shards again with the merged weights."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    merged, resized = _merged_weights(base, adapter)
    _require_targets(adapter, base)
    changed = 0
    for shard in sorted(base.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            before = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        after = {name: merged.get(name, old).to(old.dtype).contiguous() for name, old in before.items()}
        changed += sum(not _equal(before[name], after[name]) for name in before)
        save_file({name: tensor.clone() for name, tensor in after.items()}, target / shard.name, {"format": "pt"})
    if not changed:
        sys.exit("the adapter changes no weight of this model")
    _copy_rest(base, adapter, target, resized)


def _equal(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and bool((before == after).all())


def _merged_weights(base: Path, adapter: Path) -> tuple[dict[str, Tensor], int | None]:
    """All weights with the adapter merged, by name, and the size of the vocabulary if the adapter changed it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    rows = _vocabulary(adapter)
    resized = rows if rows is not None and rows != model.get_input_embeddings().weight.shape[0] else None
    if resized is not None:
        model.resize_token_embeddings(resized)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    return merged.state_dict(), resized


def _vocabulary(adapter: Path) -> int | None:
    """Rows of the embedding that an adapter carries whole, if it does."""
    from safetensors import safe_open

    with safe_open(adapter / _WEIGHTS, "pt") as file:
        names = [n for n in file.keys() if re.search(r"(embed_tokens|lm_head)\.weight$", n)]  # noqa: SIM118 - not a dict
        return max((file.get_slice(name).get_shape()[0] for name in names), default=None)


def _require_targets(adapter: Path, base: Path) -> None:
    """transformers may hold weights under other names than the checkpoint: those would be lost in silence."""
    from safetensors import safe_open

    with safe_open(adapter / _WEIGHTS, "pt") as file:
        modules = {n.removeprefix(_PREFIX).partition(".lora_")[0] for n in file.keys() if ".lora_" in n}  # noqa: SIM118 - not a dict
    lost = sorted(modules - _modules(base.glob("*.safetensors")))
    if lost:
        sys.exit(f"the adapter changes {lost[0]}, which the checkpoint does not hold under this name")


def _modules(shards: Iterable[Path]) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for shard in shards:
        with safe_open(shard, "pt") as file:
            names |= {name.removesuffix(".weight") for name in file.keys()}  # noqa: SIM118 - not a dict
    return names


def _copy_rest(base: Path, adapter: Path, target: Path, resized: int | None) -> None:
    """The base's other files; the tokenizer that the adapter brings wins."""
    tokenizer = [f for f in _adapter_files(adapter) if _TOKENIZER.fullmatch(f.name)]
    for file in [*(f for f in files_of(base) if f.suffix != ".safetensors"), *tokenizer]:
        shutil.copyfile(file, target / file.name)
    if resized is not None:
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        (target / "config.json").write_text(
            json.dumps({**config, "vocab_size": resized}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    _merge(*(Path(argument) for argument in sys.argv[1:4]))
