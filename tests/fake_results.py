"""A result directory as a build leaves it, made in milliseconds: real tiny GGUF files, invented measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np

from ggufkit.core.manifest import PARTIAL, SCHEMA, write_manifest
from ggufkit.core.records import Conditions, Json, Manifest
from ggufkit.measure.measurements import Figure, measured, save
from ggufkit.steps.step import Workspace

CONDITIONS = Conditions(
    backend="cpu", device="Test CPU", ngl=0, threads=2, machine="Test CPU, 2 cores, Linux",
    llama_cpp_commit="0c1e57098bba", corpus_sha256="ab" * 32, n_ctx=512, n_chunks=60,
)  # fmt: skip
_MIXTURES = {
    "Q6_K": ("Q6_K",), "Q5_K_M": ("Q6_K", "Q5_K"), "Q5_K_S": ("Q5_K",), "Q4_K_M": ("Q6_K", "Q4_K"),
    "Q4_K_S": ("Q5_K", "Q4_K"), "IQ4_XS": ("Q5_K", "IQ4_XS"), "Q3_K_L": ("Q5_K", "Q3_K"), "Q3_K_M": ("Q4_K", "Q3_K"),
    "IQ3_M": ("Q4_K", "IQ3_S"), "IQ3_XXS": ("Q3_K", "IQ3_XXS"), "Q2_K": ("Q3_K", "Q2_K"),
    "IQ2_M": ("IQ3_S", "IQ2_S"), "IQ2_XXS": ("Q2_K", "IQ2_XXS"), "IQ1_S": ("Q2_K", "IQ1_S"),
}  # fmt: skip
"""Types of the tensors of presets that mix them; other presets hold the type that they are named after."""


@dataclass(frozen=True)
class Fake:
    """One file: its loss in nats (None for the base), its error, and tokens/s of generation (None: not timed).

    Args:
        ppl: None where the quality was not measured.
        cosine: similarity of embeddings to the base's, which is measured instead.
    """

    variant: str
    type: str
    kld: float | None
    stderr: float = 0.0002
    tg: float | None = 50.0
    ppl: float | None = 30.6
    n_chunks: int = 60
    machine: str = CONDITIONS.machine
    cosine: float | None = None


FAKES = (
    Fake("plain", "F16", None, tg=23.0),
    Fake("plain", "Q8_0", 0.000418, 0.000005, 37.5),
    Fake("plain", "Q5_0", 0.006134, 0.00008, 41.0),
    Fake("plain", "Q4_0", 0.031426, 0.0004, 45.5),
    Fake("imatrix", "Q5_0", 0.005786, 0.00008, 41.2),
    Fake("imatrix", "Q4_0", 0.027633, 0.0003, 45.1),
    Fake("awq", "Q4_0", 0.0317, 0.0004, 44.9),
    Fake("gptq", "Q4_0", 0.0190, 0.0003, 45.3),
)

_LOSSES = (
    ("Q8_0", 0.00042), ("Q6_K", 0.0021), ("Q5_K_M", 0.0061), ("Q5_K_S", 0.0072), ("Q4_K_M", 0.0186),
    ("Q4_K_S", 0.0224), ("IQ4_XS", 0.0251), ("Q3_K_L", 0.051), ("Q3_K_M", 0.063), ("IQ3_M", 0.071),
    ("IQ3_XXS", 0.128), ("Q2_K", 0.24), ("IQ2_M", 0.27), ("IQ2_XXS", 0.71), ("IQ1_S", 1.62),
)  # fmt: skip
_SHARES = {"plain": 1.0, "awq": 1.04, "imatrix": 0.84, "gptq": 0.66}
SIXTY = (
    Fake("plain", "F16", None, tg=23.0), Fake("awq", "F16", 0.0000013, 0.0000001, 23.1),
    *(
        Fake(variant, kind, loss * share, 0.012 * loss, 30 + 6 * rank, 30.6 * (1 + loss * share))
        for rank, (kind, loss) in enumerate(_LOSSES)
        for variant, share in _SHARES.items()
        if (variant, kind) not in {("awq", "IQ1_S"), ("awq", "IQ2_XXS")}
    ),
)  # fmt: skip
"""As a publisher makes them: losses as of a model of a billion parameters."""


def write_results(
    root: Path, fakes: Sequence[Fake] = FAKES, name: str = "tiny", template: str | None = None, n_rows: int = 512
) -> Path:
    """Write the directory and return it.

    Args:
        template: of chats, with ChatML's tokens, which all files have.
        n_rows: of the tensors that have the types of their files.
    """
    workspace = Workspace(root)
    workspace.measurements.mkdir(parents=True)
    base = ""
    for fake in fakes:
        infix = "" if fake.variant == "plain" else fake.variant.replace("+", "-") + "-"
        path = root / f"{name}-{infix}{fake.type}.gguf"
        _write_gguf(path, fake, template, n_rows)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        base = base or digest
        notes: dict[str, Json] = {"name": name, "variant": fake.variant, "type": fake.type, "n_fallback": 0}
        original, partial = str(root / f"{name}-F16.gguf"), f"{path}{PARTIAL}"
        argv = ["/somewhere/bin/llama-quantize", original, partial, fake.type, "2"]
        if (fake.variant, fake.type) == ("plain", "F16"):
            _note(path, "convert", notes, argv, digest, {"out_type": "f16", "name": name}, {})
        else:
            _note(path, "quantize", notes, argv, digest, {}, {"base": base})
        _measure(workspace, path, fake, digest, base)
    return root


def _note(
    path: Path, step: str, notes: dict[str, Json], argv: list[str], digest: str, params: dict[str, Json],
    inputs: dict[str, str],
) -> None:  # fmt: skip
    output: dict[str, Json] = {"sha256": digest, "size_bytes": path.stat().st_size}
    minutes, seconds = divmod(len(list(path.parent.glob("*.manifest.json"))), 60)  # one after the other
    started = f"2026-01-01T00:{minutes:02d}:{seconds:02d}+00:00"
    write_manifest(
        path,
        Manifest(
            SCHEMA,
            step,
            1,
            inputs,
            params,
            "0c1e570",
            [argv],
            output,
            started,
            1.0,
            notes,
        ),
    )


def _write_gguf(path: Path, fake: Fake, template: str | None = None, n_rows: int = 512) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.name)
    if template is not None:
        writer.add_context_length(2048)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        writer.add_token_types([3, 3, 3])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)
        writer.add_chat_template(template)
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_tensor("output_norm.weight", np.full(256, len(fake.variant), np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((512, 256), np.float16))
    preset = fake.type.rpartition("-")[2]  # of a label as "like-Q4_0"
    kinds = _MIXTURES.get(preset, (preset,))
    for i in range(2):
        tensor_type = gguf.GGMLQuantizationType[kinds[i % len(kinds)]]
        block, n_bytes = gguf.GGML_QUANT_SIZES[tensor_type]
        data = np.zeros((n_rows, 256 // block * n_bytes), np.uint8)
        writer.add_tensor(f"blk.{i}.ffn_up.weight", data, raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _measure(workspace: Workspace, path: Path, fake: Fake, digest: str, base: str) -> None:
    where = replace(CONDITIONS, n_chunks=fake.n_chunks, machine=fake.machine, base_sha256=base)
    values: dict[str, Figure] = {"ppl": (fake.ppl, 0.6), "eval_tps": (900.0, None)} if fake.ppl else {}
    kind = "perplexity"
    if fake.cosine is not None:
        kind, values = (
            "similarity",
            {"cosine_mean": (fake.cosine, fake.stderr), "cosine_min": (fake.cosine - 0.01, None)},
        )
    if fake.kld is not None:
        kind = "divergence"
        values |= {
            "ppl_base": (30.6, None), "ln_ppl_ratio": (fake.kld / 2, 0.002), "kld_mean": (fake.kld, fake.stderr),
            "same_top_p": (max(1 - fake.kld**0.6, 0.05), 0.002), "rms_dp": (fake.kld, 0.001),
            "kld_p10": (fake.kld / 9, None), "kld_median": (fake.kld * 0.7, None), "kld_p90": (fake.kld * 2.1, None),
            "kld_p95": (fake.kld * 2.9, None), "kld_p99": (fake.kld * 5.4, None),
            "kld_p999": (fake.kld * 12, None), "kld_max": (fake.kld * 25, None),
        }  # fmt: skip
    file = workspace.measurements / f"{path.stem}.{kind}.json"
    save(file, measured(digest, values, where))
    corpus = {"corpus": str(CONDITIONS.corpus_sha256)}
    argv = ["/x/llama-perplexity", "-m", str(path)]
    if values:
        _note(file, kind, {"corpus": "tales.txt"}, argv, "0" * 64, {"n_chunks": fake.n_chunks}, corpus)
    if fake.tg is not None:
        file = workspace.measurements / f"{path.stem}.bench.json"
        speeds: dict[str, Figure] = {"pp_tps": (fake.tg * 9, 4.0), "tg_tps": (fake.tg, 0.4)}
        save(file, measured(digest, speeds, where))
        _note(file, "bench", {}, ["/x/llama-bench", "-m", str(path)], "0" * 64, {}, {})


def split(whole: Path, count: int) -> list[Path]:
    """Write a file's parts beside it, as llama-gguf-split does: all metadata is in the first; a part a few tensors."""
    reader = gguf.GGUFReader(whole)
    names = [f"{whole.stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    share = -(-len(reader.tensors) // count)
    for number, name in enumerate(names):
        writer = gguf.GGUFWriter(whole.with_name(name), "llama")
        if number == 0:
            for field in reader.fields.values():
                if not field.name.startswith(("GGUF.", "general.architecture")):
                    writer.add_key_value(field.name, field.contents(), field.types[0], *field.types[1:2])
        else:
            del writer.kv_data[0]["general.architecture"]
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number * share : (number + 1) * share]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return [whole.with_name(name) for name in names]
