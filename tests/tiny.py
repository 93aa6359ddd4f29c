"""Tiny checkpoints written without torch: random weights, real formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
TEXT = [
    "The quick brown fox jumps over the lazy dog. It's 12 o'clock; we'll see 345 of them!",
    "def f(x):\n    return x ** 2  # squares\n\n",
    "naïve café, 你好 мир, emoji 🙂 and tabs\t\tand  spaces   everywhere.",
] * 20


def pre_tokenizer(family: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of a family, as its models' tokenizer.json has it."""
    if family == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if family == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    pattern = {"qwen2": QWEN2_SPLIT, "llama-bpe": LLAMA3_SPLIT}.get(family, r"\S+|\s+")
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_tokenizer(family: str = "gpt-2", vocab_size: int = 512) -> Tokenizer:
    """A byte-level BPE with a vocabulary that nobody has seen, and two control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(family)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def llama_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, NDArray[np.float16]]:
    """Random weights for a Llama config, half precision."""
    rng = np.random.default_rng(seed)
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocab, width), "lm_head.weight": (vocab, width)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "self_attn.q_proj.weight": (width, width),
            layer + "self_attn.k_proj.weight": (kv, width),
            layer + "self_attn.v_proj.weight": (kv, width),
            layer + "self_attn.o_proj.weight": (width, width),
            layer + "mlp.gate_proj.weight": (inner, width),
            layer + "mlp.up_proj.weight": (inner, width),
            layer + "mlp.down_proj.weight": (width, inner),
        }
    tensors = {name: (rng.standard_normal(shape) * 0.05).astype(np.float16) for name, shape in shapes.items()}
    norms = ["model.norm.weight"]
    for i in range(config["num_hidden_layers"]):
        norms += [f"model.layers.{i}.{n}.weight" for n in ("input_layernorm", "post_attention_layernorm")]
    return tensors | {name: np.ones(width, np.float16) for name in norms}


def write_llama(
    path: Path,
    *,
    width: int = 256,
    inner: int | None = None,
    layers: int = 2,
    family: str = "gpt-2",
    shards: int = 1,
) -> Path:
    """Write a whole Llama checkpoint directory and return it; `inner` is twice the width unless given."""
    path.mkdir(parents=True)
    tokenizer = train_tokenizer(family)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": inner or 2 * width, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "torch_dtype": "float16", "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    _write_beside_weights(path, config, tokenizer)
    save_shards(path, llama_tensors(config), shards)
    return path


def write_qwen35(path: Path, *, mtp: str = "random") -> Path:
    """Write a whole Qwen3.5 checkpoint: three layers of linear attention, one of full attention, and one for MTP.

    Args:
        mtp: "random" weights; "right", where the MTP layer guesses what the model will say, which each token alone decides;
            or "none", as transformers saves a model whose config.json still tells of the layer.
    """
    path.mkdir(parents=True)
    tokenizer, width, heads, head, inner = train_tokenizer("qwen2"), 256, 4, 64, 512
    vocab = tokenizer.get_vocab_size()
    config = {
        "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": 4, "num_attention_heads": heads, "num_key_value_heads": 2,
        "head_dim": head, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4, "vocab_size": vocab,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"], "mtp_num_hidden_layers": 1, "dtype": "float16",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
                            "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    _write_beside_weights(path, config, tokenizer)
    mlp = {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    full = {
        "self_attn.q_proj": (2 * width, width), "self_attn.k_proj": (128, width), "self_attn.v_proj": (128, width),
        "self_attn.o_proj": (width, width), **mlp,
    }  # fmt: skip
    linear = {
        "linear_attn.in_proj_qkv": (512, width), "linear_attn.in_proj_z": (256, width),
        "linear_attn.in_proj_b": (4, width), "linear_attn.in_proj_a": (4, width),
        "linear_attn.conv1d": (512, 1, 4), "linear_attn.out_proj": (width, 256), **mlp,
    }  # fmt: skip
    norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), width)
    heads_norms = dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), head)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (vocab, width),
        "lm_head": (vocab, width),
    }
    zeros = {"model.norm": width}
    for i in range(4):
        layer = f"model.layers.{i}."
        shapes |= {layer + name: shape for name, shape in (full if i == 3 else linear).items()}
        zeros |= {layer + name: n for name, n in (norms | (heads_norms if i == 3 else {})).items()}
    if mtp != "none":
        shapes |= {f"mtp.layers.0.{name}": shape for name, shape in full.items()} | {"mtp.fc": (width, 2 * width)}
        zeros |= {f"mtp.layers.0.{name}": n for name, n in (norms | heads_norms).items()}
        zeros |= dict.fromkeys(("mtp.norm", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden"), width)
    rng = np.random.default_rng(0)
    tensors = {f"{n}.weight": (rng.standard_normal(s) * 0.05).astype(np.float16) for n, s in shapes.items()}
    tensors |= {f"{name}.weight": np.zeros(n, np.float16) for name, n in zeros.items()}
    for i in range(3):
        own = f"model.layers.{i}.linear_attn."
        tensors |= {own + "norm.weight": np.ones(64, np.float16), own + "dt_bias": np.ones(4, np.float16)}
        tensors[own + "A_log"] = np.log(np.arange(1, 5)).astype(np.float16)
    if mtp == "right":
        silent = [n for n in tensors if n.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight"))]
        tensors |= {name: np.zeros_like(tensors[name]) for name in silent}
        tensors["mtp.fc.weight"] = np.eye(width, 2 * width, dtype=np.float16)
    save_file(tensors, path / "model.safetensors")
    return path


def _write_beside_weights(path: Path, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Write what a checkpoint of a language model holds besides weights."""
    (path / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": "<|endoftext|>",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def tie(checkpoint: Path) -> Path:
    """Let a checkpoint's embedding be its output matrix, too."""
    config, weights = checkpoint / "config.json", checkpoint / "model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    save_file({k: v for k, v in load_file(weights).items() if k != "lm_head.weight"}, weights)
    return checkpoint


def train_wordpiece(vocab_size: int = 300, *, lowercase: bool = True) -> Tokenizer:
    """A WordPiece as BERT's, with a vocabulary that nobody has seen; its file says how long inputs are made."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(32)
    return tokenizer


def bert_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights for a BERT config."""
    rng = np.random.default_rng(seed)
    width, inner = config["hidden_size"], config["intermediate_size"]
    rows = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    shapes: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}_embeddings.weight": (config[size], width) for name, size in rows.items()
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        linear = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {"attention.output.dense": (width, width), "intermediate.dense": (inner, width)}
        linear |= {"output.dense": (width, inner)}
        shapes |= {f"{layer}{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{layer}{name}.bias": shape[:1] for name, shape in linear.items()}
        norms += [f"{layer}{name}.LayerNorm" for name in ("attention.output", "output")]
    tensors = {name: (rng.standard_normal(shape) * 0.1).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {f"{name}.weight": np.ones(width, np.float32) for name in norms}
    return tensors | {f"{name}.bias": np.zeros(width, np.float32) for name in norms}


def write_bert(path: Path, *, width: int = 64, layers: int = 2) -> Path:
    """Write a BERT for embeddings, pooled by their mean as sentence-transformers say it, and return its directory."""
    (path / "1_Pooling").mkdir(parents=True)
    tokenizer = train_wordpiece()
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 128, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        "pad_token_id": 0, "torch_dtype": "float32",
    }  # fmt: skip
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    files = {
        "config.json": config,
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **named},
        "modules.json": [
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
    }
    for name, content in files.items():
        (path / name).write_text(json.dumps(content))
    tokenizer.save(str(path / "tokenizer.json"))
    save_file(bert_tensors(config), path / "model.safetensors")
    return path


def save_shards(path: Path, tensors: dict[str, NDArray[Any]], shards: int) -> None:
    """Write weights as one file, or as several with their index."""
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        save_file({name: tensors[name] for name in part}, path / file)
        weight_map |= dict.fromkeys(part, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_lora(path: Path, model: Path, scale: float = 0.1, **told: str) -> Path:
    """Write a GGUF adapter of rank 4 for all queries of a model; `told` replaces what it says of itself."""
    import gguf

    from ggufkit.llama.gguf import read_header

    header, rng = read_header(model), np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, told.get("architecture", header.architecture))
    writer.add_type(told.get("kind", "adapter"))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for tensor in header.tensors:
        if tensor.name.endswith("attn_q.weight"):
            name = tensor.name.replace("attn_q", told.get("tensor", "attn_q"))
            for suffix, shape in (("lora_a", (4, tensor.shape[0])), ("lora_b", (tensor.shape[1], 4))):
                writer.add_tensor(f"{name}.{suffix}", (rng.standard_normal(shape) * scale).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_control_vector(path: Path, width: int, scale: float = 1.0) -> Path:
    """Write a control vector for the second layer of a model of some width."""
    import gguf

    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 1)
    direction = np.random.default_rng(0).standard_normal(width) * scale
    writer.add_tensor("direction.1", direction.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_parrot(
    path: Path, saying: str, template: str, *, special: tuple[str, ...] = ("<|im_start|>",), pooled: bool = False
) -> Path:
    """Write a GGUF that answers whatever it is asked with `saying`, which is one of its tokens, and ends its turn.

    Every token but that one has the same embedding, which the output matrix answers with it; attention and MLP are zero.
    If it is `pooled`, it is a model for embeddings instead: the mean of those of a text's bytes.
    """
    import gguf

    width, kinds = 64, gguf.TokenType
    tokens = ["<unk>", "<s>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256)), saying, *special]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, kinds.USER_DEFINED]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([*types, *[kinds.CONTROL] * len(special)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)
    embedding, output = np.zeros((2, len(tokens), width), np.float16)
    embedding[:, 0], embedding[259] = 1, np.eye(width)[1]
    if pooled:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        embedding = np.random.default_rng(0).standard_normal(embedding.shape).astype(np.float16)
    output[259, 0], output[2, 1] = 1, 1
    norms = {"output_norm": np.ones(width, np.float32)}
    norms |= {f"blk.0.{name}_norm": np.ones(width, np.float32) for name in ("attn", "ffn")}
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    zero = {f"blk.0.{name}": np.zeros((width, width), np.float16) for name in names}
    for name, values in ({"token_embd": embedding, "output": output} | norms | zero).items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text_file(path: Path, lines: int = 400) -> Path:
    """A text long enough for several chunks of a small context."""
    rng = np.random.default_rng(1)
    words = " ".join(TEXT).split()
    rows = (" ".join(rng.choice(words, 12)) for _ in range(lines))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
