"""Two small models to measure recipes on, trained from nothing on one thread.

    python -m benchmarks.small_models moe DIR --tokenizer CHECKPOINT --text TEXT --steps 900
    python -m benchmarks.small_models gemma DIR --tokenizer CHECKPOINT --text TEXT --text TEXT --steps 1500 --rate 3e-3

`moe` is a Mixtral of 8 experts, two of which see each token. `gemma` is a dense Gemma 3: tied embeddings, norms after as
well as before each part, a sliding window. The same seed and steps give the same model on the same machine. Only the
first part of each text is trained on, and nothing of it is evaluation text.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

WINDOW = 512
_COMMON: dict[str, Any] = {
    "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "moe": _COMMON | {
        "model_type": "mixtral", "num_hidden_layers": 4, "intermediate_size": 512, "num_local_experts": 8,
        "num_experts_per_tok": 2, "rope_theta": 10000.0, "sliding_window": None, "tie_word_embeddings": False,
        "output_router_logits": True, "router_aux_loss_coef": 0.05,
    },
    "gemma": _COMMON | {
        "model_type": "gemma3_text", "num_hidden_layers": 6, "intermediate_size": 1024, "query_pre_attn_scalar": 64,
        "sliding_window": 256, "sliding_window_pattern": 6, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
        "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0, "attn_implementation": "eager",
    },
}  # fmt: skip
_TOKENIZERS = {"moe": "LlamaTokenizer", "gemma": "GemmaTokenizer"}


@dataclass(frozen=True)
class Training:
    """How long and how fast: steps of `batch` windows of 512 tokens, the peak of the learning rate, and the seed."""

    steps: int
    batch: int
    rate: float
    seed: int

    def rate_at(self, step: int) -> float:
        """A short rise, then a cosine down to a twentieth."""
        rise = min(1.0, (step + 1) / 50)
        return self.rate * rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


@click.command()
@click.argument("kind", type=click.Choice(sorted(CONFIGS)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer", required=True, type=click.Path(exists=True, path_type=Path), help="Has tokenizer.model."
)
@click.option("--text", "texts", required=True, multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--part", default=0.7, show_default=True, help="Of each text, from its beginning.")
@click.option("--steps", default=600, show_default=True)
@click.option("--batch", default=2, show_default=True)
@click.option("--rate", default=2e-3, show_default=True)
@click.option("--seed", default=11, show_default=True)
def main(
    kind: str,
    out: Path,
    tokenizer: Path,
    texts: tuple[Path, ...],
    part: float,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> None:
    """Train one and write its checkpoint to OUT, which must not be there yet."""
    if out.exists():
        raise click.UsageError(f"{out} is there already; give another directory, or remove it.")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    tokens = _tokens(tokenizer / "tokenizer.model", [_beginning(text, part) for text in texts])
    model = _model(kind, vocabulary=_vocabulary_size(tokenizer / "tokenizer.model"))
    click.echo(
        f"{kind}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(tokens)} tokens of text"
    )
    started = time.monotonic()
    _train(model, tokens, Training(steps, batch, rate, seed))
    click.echo(f"{time.monotonic() - started:.0f} s")
    _save(model, kind, tokenizer, out)
    if kind == "moe":
        _tell_of_experts(model, tokens)


def _beginning(text: Path, part: float) -> str:
    content = text.read_text(encoding="utf-8")
    return content[: int(len(content) * part)]


def _vocabulary_size(tokenizer: Path) -> int:
    from sentencepiece import SentencePieceProcessor

    return int(SentencePieceProcessor(model_file=str(tokenizer)).vocab_size())


def _tokens(tokenizer: Path, texts: Sequence[str]) -> torch.Tensor:
    """All texts' token ids, shape (tokens,)."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(tokenizer))
    return torch.tensor([token for text in texts for token in processor.encode(text)])


def _model(kind: str, vocabulary: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(CONFIGS[kind])
    attention = settings.pop("attn_implementation", "sdpa")
    config = AutoConfig.for_model(**settings, vocab_size=vocabulary)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)


def _train(model: Any, tokens: torch.Tensor, training: Training) -> None:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.rate, betas=(0.9, 0.95))
    model.train()
    for step, batch in zip(range(training.steps), _batches(tokens, training), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = training.rate_at(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == training.steps - 1:
            click.echo(f"step {step}: loss {loss.item():.3f}")


def _batches(tokens: torch.Tensor, training: Training) -> Iterator[torch.Tensor]:
    """Random windows, shape (batch, 512), each beginning with BOS, as llama-perplexity's do."""
    chance = torch.Generator().manual_seed(training.seed)
    while True:
        starts = torch.randint(len(tokens) - WINDOW, (training.batch,), generator=chance).tolist()
        windows = torch.stack([tokens[start : start + WINDOW] for start in starts])
        windows[:, 0] = _COMMON["bos_token_id"]
        yield windows


def _save(model: Any, kind: str, tokenizer: Path, out: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "tokenizer.model").write_bytes(_vocabulary(kind, tokenizer))
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = _TOKENIZERS[kind]
    (out / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _vocabulary(kind: str, tokenizer: Path) -> bytes:
    """tokenizer.model as the architecture has it: Gemma's puts no space before a text."""
    from sentencepiece import sentencepiece_model_pb2

    content = (tokenizer / "tokenizer.model").read_bytes()
    if kind != "gemma":
        return content
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    model.normalizer_spec.add_dummy_prefix = False
    return bytes(model.SerializeToString())


@torch.no_grad()
def _tell_of_experts(model: Any, tokens: torch.Tensor) -> None:
    """How tokens are shared out, how far experts are apart, and what it costs when each token gets the wrong ones."""
    n_experts, n_used = CONFIGS["moe"]["num_local_experts"], CONFIGS["moe"]["num_experts_per_tok"]
    windows = tokens[: 16 * WINDOW].reshape(16, WINDOW)
    answer = model.eval()(input_ids=windows, labels=windows, output_router_logits=True)
    for layer, logits in enumerate(answer.router_logits):
        shares = (
            torch.bincount(logits.float().topk(n_used, dim=-1).indices.flatten(), minlength=n_experts)
            / logits.shape[0]
        )
        down = model.model.layers[layer].mlp.experts.down_proj.float().flatten(1)
        nearest = (torch.cdist(down, down) + torch.eye(n_experts) * 1e9).min() / down.norm(dim=1).mean()
        click.echo(f"layer {layer}: share of tokens per expert {[round(share, 2) for share in shares.tolist()]}, "
                   f"nearest two experts' down matrices {nearest:.2f} norms apart")  # fmt: skip
    for block in model.model.layers:
        block.mlp.gate.weight.copy_(block.mlp.gate.weight.roll(1, 0))
    swapped = model(input_ids=windows, labels=windows, output_router_logits=False)
    own = model.loss_function(answer.logits, windows, vocab_size=answer.logits.shape[-1])
    click.echo(f"loss {own:.3f}; {swapped.loss:.3f} when each token gets the next experts in place of its own")


if __name__ == "__main__":
    main()
