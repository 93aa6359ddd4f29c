"""Does ggufkit refuse exactly the checkpoints that cannot become a right GGUF? Checkpoints mutated at random.

    python -m benchmarks.mutations --count 100

Each is judged twice. The truth: the raw converter writes F32, the raw llama-perplexity evaluates it, transformers evaluates
the checkpoint; a checkpoint is good if all three work and the logits agree. Then `ggufkit convert`'s own steps.
"""

from __future__ import annotations

import importlib
import json
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import warm
from benchmarks.record import commit, write
from ggufkit.core import machine, process
from ggufkit.core.errors import GgufkitError
from ggufkit.core.records import Checkpoint, Toolchain
from ggufkit.llama import toolchain
from ggufkit.models import sources
from ggufkit.steps import convert
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests import tiny

Config = dict[str, Any]
Tensors = dict[str, Any]

_CTX = 192
_SAME = 5e-3  # of the logits; rounding in F32 costs less than 1e-3 with any activation
_TEXT = (
    "A miller had three sons, a mill, a donkey and a cat. When he died the sons shared: the first took the mill, the "
    "second the donkey, and for the third was left nothing but the cat. He was sad about it and said to himself that his "
    "brothers could earn their bread together, while he could at best have gloves made of the fur. 17 + 25 = 42; x_1 = y. "
) * 12
_COMMON: Config = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "head_dim": 32,
}  # fmt: skip
ARCHITECTURES: dict[str, Config] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3"},
    "olmo2": {"model_type": "olmo2"},
}
_SETTINGS: tuple[Config, ...] = (
    {"rms_norm_eps": 1e-3}, {"rope_theta": 1e6}, {"rope_theta": 500.0}, {"initializer_range": 0.5},
    {"num_attention_heads": 2}, {"num_attention_heads": 8}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1},
    {"head_dim": 16}, {"head_dim": 64}, {"hidden_act": "gelu"}, {"hidden_act": "relu"}, {"hidden_act": "gelu_pytorch_tanh"},
    {"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {"attention_bias": True}, {"mlp_bias": True},
    {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"intermediate_size": 192}, {"hidden_size": 64},
    {"vocab_size": 300}, {"vocab_size": 400}, {"max_position_embeddings": 4096}, {"attention_dropout": 0.5},
    {"bos_token_id": 5}, {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0},
    {"partial_rotary_factor": 0.5}, {"architectures": ["NobodyForCausalLM"]}, {"pretraining_tp": 2},
    {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.4}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 8.0}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 128}},
    {"rope_scaling": {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 128,
                      "long_factor": [1.5] * 16, "short_factor": [1.1] * 16}},
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What a checkpoint is, by the raw tools: `good`, or why not; and how far the logits are apart, if they are there."""

    good: bool
    why: str
    relative: float | None = None


@dataclass(frozen=True)
class Mutant:
    """One checkpoint: what was done to it, in words."""

    seed: int
    architecture: str
    change: str
    path: Path


def write_originals(root: Path) -> None:
    """One tiny checkpoint of each architecture, with weights that matter."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = tiny.train_tokenizer("qwen2")
    for name, own in ARCHITECTURES.items():
        ids = {
            "vocab_size": tokenizer.get_vocab_size(),
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": None,
        }
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**_COMMON, **own, **ids}))
        for parameter in model.parameters():
            # Weights large enough for attention to matter, norms and biases that are not one and zero.
            parameter.data.normal_(0, 0.15) if parameter.dim() > 1 else parameter.data.add_(
                torch.randn_like(parameter) * 0.2
            )
        model.to(torch.float16).save_pretrained(root / name)
        tokenizer.save(str(root / name / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
        }
        (root / name / "tokenizer_config.json").write_text(json.dumps(settings))


def mutate(seed: int, originals: Path, target: Path) -> Mutant:
    """Copy an original and change one thing, both chosen by the seed."""
    from safetensors.torch import load_file, save_file

    rng = random.Random(seed)
    name = rng.choice(sorted(ARCHITECTURES))
    shutil.copytree(originals / name, target)
    if rng.random() < 0.5:
        file = target / "config.json"
        config, change = json.loads(file.read_text()), rng.choice(_SETTINGS)
        for key in change:
            if key in {"rope_scaling", "rope_theta"}:  # as checkpoints of transformers 4 have them
                theta = config.pop("rope_parameters", {}).get("rope_theta", 10000.0)
                config.setdefault("rope_theta", theta)
        file.write_text(json.dumps({**config, **change}))
        return Mutant(seed, name, json.dumps(change), target)
    weights = load_file(target / "model.safetensors")
    kind = rng.choice(sorted(_TENSOR_CHANGES))
    tensor = rng.choice(sorted(weights))
    words = _TENSOR_CHANGES[kind](weights, tensor, rng)
    save_file({k: w.contiguous() for k, w in weights.items()}, target / "model.safetensors", {"format": "pt"})
    return Mutant(seed, name, f"{kind} {tensor}{words}", target)


def _drop(weights: Tensors, name: str, _rng: random.Random) -> str:
    del weights[name]
    return ""


def _rename(weights: Tensors, name: str, rng: random.Random) -> str:
    parts = name.split(".")
    at = rng.randrange(len(parts) - 1)
    parts[at] += "_x" if not parts[at].isdigit() else "7"
    weights[".".join(parts)] = weights.pop(name)
    return f" to {'.'.join(parts)}"


def _transpose(weights: Tensors, name: str, _rng: random.Random) -> str:
    weights[name] = weights[name].flip(0) if weights[name].dim() == 1 else weights[name].T
    return f" {tuple(weights[name].shape)}"


def _resize(weights: Tensors, name: str, rng: random.Random) -> str:
    import torch

    tensor = weights[name]
    axis, by = rng.randrange(tensor.dim()), rng.choice((-32, -1, 1, 32))
    if by < 0:
        weights[name] = tensor.narrow(axis, 0, tensor.shape[axis] + by)
    else:
        weights[name] = torch.cat([tensor, tensor.narrow(axis, 0, by)], axis)
    return f" {tuple(tensor.shape)} to {tuple(weights[name].shape)}"


def _retype(weights: Tensors, name: str, rng: random.Random) -> str:
    import torch

    kind = rng.choice((torch.float32, torch.bfloat16, torch.float64, torch.int32, torch.int8, torch.bool))
    weights[name] = weights[name].to(kind)
    return f" to {kind}"


_TENSOR_CHANGES: dict[str, Callable[[Tensors, str, random.Random], str]] = {
    "drop": _drop, "rename": _rename, "transpose": _transpose, "resize": _resize, "retype": _retype,
}  # fmt: skip


def truth(mutant: Mutant, tools: Toolchain, scratch: Path) -> Truth:
    """Judge a checkpoint by the raw converter, the raw llama-perplexity and transformers."""
    gguf, saved, text, logits = (scratch / name for name in ("raw.gguf", "saved", "text.txt", "raw.npy"))
    for file in (gguf, saved, logits):
        file.unlink(missing_ok=True)
    text.write_text(_TEXT, encoding="utf-8")
    converted = warm.call(_raw_convert, (str(tools.source), str(mutant.path), str(gguf)))
    if converted.returncode != 0 or not gguf.is_file():
        return Truth(False, "the converter fails")
    size = str(_CTX)
    options = ["-c", size, "-b", size, "-ub", size, "--chunks", "1", "-t", "2", "-ngl", "0", "-dev", "none"]
    exact = ["-fa", "off", "-ctk", "f32", "-ctv", "f32", "--save-all-logits", str(saved)]
    binary = str(tools.binary("llama-perplexity"))
    ran = process.run([binary, "-m", str(gguf), "-f", str(text), *options, *exact])
    if ran.returncode != 0 or not saved.is_file():
        return Truth(False, "llama.cpp cannot load it")
    tokens, ours = _read_saved(saved)
    evaluated = warm.call(_raw_evaluate, (str(mutant.path), tokens, str(logits)))
    if evaluated.returncode != 0 or not logits.is_file():
        return Truth(False, "transformers cannot load it")
    theirs = np.load(logits)[_CTX // 2 : -1].astype(np.float64)
    theirs -= np.log(np.exp(theirs - theirs.max(1, keepdims=True)).sum(1, keepdims=True)) + theirs.max(
        1, keepdims=True
    )
    theirs = np.maximum(theirs, theirs.max(1, keepdims=True) - 16)
    ours, theirs = ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True)
    relative = float(np.sqrt(((ours - theirs) ** 2).sum() / (theirs**2).sum()))
    good = relative < _SAME
    return Truth(good, "the same logits" if good else "other logits", relative)


def _read_saved(file: Path) -> tuple[list[int], NDArray[np.float64]]:
    data = file.read_bytes()
    n_ctx, n_vocab, n_chunk = struct.unpack_from("<iii", data, 8)
    tokens = list(struct.unpack_from(f"<{n_ctx}i", data, 20))
    at, rows, width = 20 + 4 * n_ctx * n_chunk, [], 2 * (2 * ((n_vocab + 1) // 2) + 4)
    for _ in range(n_ctx - 1 - n_ctx // 2):
        scale, least = struct.unpack_from("<ff", data, at)
        rows.append(np.frombuffer(data, "<u2", n_vocab, at + 8) * float(scale) + least)
        at += width
    return tokens, np.array(rows)


def _raw_convert(source: str, checkpoint: str, output: str) -> int:
    """The converter as it comes, but told the pre-tokenizer of a vocabulary that nobody has seen."""
    from ggufkit.llama.launcher import load_converter

    converter = load_converter(Path(source))
    importlib.import_module("conversion.base").TextModel.get_vocab_base_pre = lambda *_: "qwen2"
    sys.argv = ["convert_hf_to_gguf.py", checkpoint, f"--outfile={output}", "--outtype", "f32"]
    converter.main()
    return 0


def _raw_evaluate(checkpoint: str, tokens: list[int], output: str) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"] or info["mismatched_keys"] or info["error_msgs"]:
        return 1
    with torch.inference_mode():
        np.save(output, model.eval()(torch.tensor([tokens])).logits[0].numpy())
    return 0


def refusal(mutant: Mutant, tools: Toolchain, scratch: Path) -> str | None:
    """ggufkit's reason to refuse a checkpoint; None if it converts it. A bug's words begin with «bug»."""
    session = Session(tools, Workspace(scratch / f"out-{mutant.seed}"))
    output = session.workspace.root / "m-F16.gguf"
    try:
        found = sources.resolve(str(mutant.path))
        assert isinstance(found, Checkpoint)
        with session.workspace.locked():
            convert.convert(found, output, ConvertOptions(), session)
    except GgufkitError as error:
        return f"{'' if error.exit_code == 3 else f'exit {error.exit_code}: '}{error.message}"
    except Exception as error:
        return f"bug: {type(error).__name__}: {error}"
    return None


@click.command()
@click.option("--count", default=100, show_default=True, help="Seeds from 0 on.")
@click.option("--seeds", help="Comma-separated, instead of --count.")
@click.option(
    "--save/--no-save", "keep", default=True, show_default=True, help="Write benchmarks/results/mutations-….json."
)
def main(count: int, seeds: str | None, keep: bool) -> None:
    """Print what became of each mutant, and the confusion table; fail where they disagree."""
    chosen = [int(seed) for seed in seeds.split(",")] if seeds else list(range(count))
    tools = toolchain.find("cpu")
    warm.begin()
    with tempfile.TemporaryDirectory(prefix="ggufkit-mutations-") as directory:
        made = warm.call(_originals, (f"{directory}/originals",))
        assert made.returncode == 0, made.stderr
        rows = [_judge(seed, tools, Path(directory)) for seed in chosen]
    table = Counter((row.truth.good, row.refused is None) for row in rows)
    click.echo(f"{'':>12} converted  refused")
    for good in (True, False):
        click.echo(f"{'good' if good else 'bad':>12} {table[good, True]:9} {table[good, False]:8}")
    if keep:
        counts = {
            f"{'good' if g else 'bad'}_{'converted' if c else 'refused'}": table[g, c]
            for g in (True, False)
            for c in (True, False)
        }
        record = {
            "what": "mutations", "machine": machine.describe(), "commit": commit(), "llama_cpp_commit": tools.commit,
            "table": counts, "rows": [asdict(row) for row in rows],
        }  # fmt: skip
        click.echo(write("mutations", record))
    sys.exit(0 if all(row.agrees for row in rows) else 1)


@dataclass(frozen=True)
class Row:
    """One mutant, judged twice; `refused` is ggufkit's reason, None where it converts."""

    seed: int
    architecture: str
    change: str
    truth: Truth
    refused: str | None

    @property
    def agrees(self) -> bool:
        """Whether ggufkit is right, and for a reason: a bug is none."""
        return self.truth.good == (self.refused is None) and not (self.refused or "").startswith("bug")


def _judge(seed: int, tools: Toolchain, scratch: Path) -> Row:
    mutant = mutate(seed, scratch / "originals", scratch / f"mutant-{seed}")
    right, refused = truth(mutant, tools, scratch), refusal(mutant, tools, scratch)
    shutil.rmtree(mutant.path)
    told = refused.replace(f"{scratch}/", "") if refused is not None else None
    row = Row(seed, mutant.architecture, mutant.change, right, told)
    far = "" if right.relative is None else f" ({right.relative:.1e})"
    click.echo(
        f"{'ok   ' if row.agrees else 'WRONG'} {seed:3} {row.architecture}: {row.change}: {right.why}{far}; ggufkit: "
        f"{told or 'converts'}"
    )
    return row


def _originals(root: str) -> int:
    write_originals(Path(root))
    return 0


if __name__ == "__main__":
    main()
