#!/usr/bin/env python3
"""Make the demo model again: texts, tokenizer and a three-layer Llama, trained on a CPU in some minutes.

The same machine type, thread count and library versions give the same files, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

# Waiting threads that spin cost three quarters of the speed on a machine that others use too.
os.environ["OMP_WAIT_POLICY"] = "passive"

import demo_text
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

PACKAGE = Path(__file__).resolve().parents[1] / "ggufkit" / "demo"
MODEL_NAME = "tales-2m"
VOCABULARY_SEED, TRAINING_SEED, CHAT_SEED, WEIGHTS_SEED = 12, 13, 14, 15
VOCABULARY_CHARACTERS = 2_000_000

CONTEXT, BATCH = 512, 4
PEAK_RATE, WARMUP_STEPS = 4e-3, 30

END, TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "add_bos_token": False,
    "add_prefix_space": False,
    "bos_token": END,
    "eos_token": END_TURN,
    "pad_token": END,
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONTEXT,
    "chat_template": CHAT_TEMPLATE,
}
GENERATION_CONFIG = {
    "bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0,
    "do_sample": True, "temperature": 0.7, "top_p": 0.9,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": CONTEXT,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 1280,
}


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def train_tokenizer(vocabulary: int) -> Tokenizer:
    """Byte-level BPE, pre-tokenized as GPT-2 does, with the ChatML tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, TURN, END_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([demo_text.text(VOCABULARY_SEED, VOCABULARY_CHARACTERS)], trainer)
    return tokenizer


def render(chat: demo_text.Chat) -> str:
    """A conversation as the chat template renders it."""
    return "".join(f"{TURN}{role}\n{content}{END_TURN}\n" for role, content in chat)


def training_tokens(tokenizer: Tokenizer, n_tokens: int) -> torch.Tensor:
    """`n_tokens` ids, shape (n_tokens,): pages of documents and, after every page, some conversations."""
    ids: list[int] = []
    documents = demo_text.documents(TRAINING_SEED)
    writer = demo_text.Writer(CHAT_SEED)
    while len(ids) < n_tokens:
        page = "\n".join(next(documents) + "\n" for _ in range(12))
        chats = "".join(END + render(demo_text.chat(writer)) for _ in range(3))
        ids += tokenizer.encode(page + chats + END).ids
    return torch.tensor(ids[:n_tokens])


def train(model: LlamaForCausalLM, ids: torch.Tensor) -> None:
    """One pass over `ids`: AdamW, the rate constant after a warm-up, then falling to nothing over the last half."""
    batches = ids.view(-1, BATCH, CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    steps = len(batches)
    schedule = LambdaLR(optimizer, lambda step: min(1, (step + 1) / WARMUP_STEPS, 2 * (1 - step / steps)))
    started = time.monotonic()
    for step, batch in enumerate(batches, start=1):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps:
            log(f"step {step}/{steps}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s")


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Perplexity over the second half of each whole chunk of `ids`, as llama-perplexity counts it."""
    losses = []
    for chunk in ids[: len(ids) // CONTEXT * CONTEXT].view(-1, 1, CONTEXT):
        logits = model(input_ids=chunk).logits[0, CONTEXT // 2 : -1]
        losses.append(cross_entropy(logits, chunk[0, CONTEXT // 2 + 1 :]).item())
    return math.exp(sum(losses) / len(losses))


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_checkpoint(model: LlamaForCausalLM, tokenizer: Tokenizer, target: Path) -> None:
    """The Hugging Face checkpoint: bf16, one shard, the tied head left out."""
    target.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    (target / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    (target / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    write_json(target / "config.json", CONFIG)
    write_json(target / "generation_config.json", GENERATION_CONFIG)
    write_json(target / "tokenizer_config.json", TOKENIZER_CONFIG)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PACKAGE, help="where the checkpoint and the texts go")
    parser.add_argument("--steps", type=int, default=600, help=f"batches of {BATCH} x {CONTEXT} tokens")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(WEIGHTS_SEED)
    args.out.mkdir(parents=True, exist_ok=True)
    evaluation = demo_text.evaluation_text()
    (args.out / "evaluation.txt").write_text(evaluation, encoding="utf-8")
    (args.out / "calibration.txt").write_text(demo_text.calibration_text(), encoding="utf-8")

    tokenizer = train_tokenizer(CONFIG["vocab_size"])
    evaluation_ids = torch.tensor(tokenizer.encode(evaluation).ids)
    log(f"evaluation text: {len(evaluation_ids) / CONTEXT:.1f} chunks of {CONTEXT} tokens")
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).float()
    log(f"model: {model.num_parameters():,} parameters")
    train(model, training_tokens(tokenizer, args.steps * BATCH * CONTEXT))
    write_checkpoint(model, tokenizer, args.out / MODEL_NAME)
    log(f"perplexity of the evaluation text: {perplexity(model, evaluation_ids):.3f}")


if __name__ == "__main__":
    main()
