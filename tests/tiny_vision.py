"""A tiny checkpoint that reads images, written without torch: SmolVLM's layout, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken

from tests import tiny

WIDTH, SEEN, PATCH, SIDE, MERGED = 256, 64, 14, 56, 2
"""Numbers of a token, and of a patch; pixels of a patch and of an image along a side; patches that become one."""
SPECIAL = (
    "<|im_start|>", "<image>", "<fake_token_around_image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_smolvlm(path: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """Write a SmolVLM whose text model is a Llama, and return its directory."""
    path.mkdir(parents=True)
    tokenizer = tiny.train_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(path / "tokenizer.json"))
    text = {
        "architectures": ["VLlama3ForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    sight = {
        "model_type": "smolvlm_vision", "hidden_size": SEEN, "intermediate_size": 2 * SEEN, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    }  # fmt: skip
    files: dict[str, dict[str, Any]] = {
        "config.json": {
            "architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm", "text_config": text,
            "vision_config": sight, "scale_factor": MERGED, "image_token_id": tokenizer.token_to_id("<image>"),
            "tie_word_embeddings": False, "pad_token_id": 0, "torch_dtype": "float16",
        },
        "preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
            "size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
            "chat_template": TEMPLATE,
        },
    }  # fmt: skip
    for name, content in files.items():
        (path / name).write_text(json.dumps(content))
    words = {_named(name): tensor for name, tensor in tiny.llama_tensors(text, seed).items()}
    tiny.save_shards(path, words | _vision(seed), 1)
    return path


def _named(name: str) -> str:
    return name if name.startswith("lm_head") else name.replace("model.", "model.text_model.", 1)


def _vision(seed: int) -> dict[str, NDArray[np.float16]]:
    rng, inside = np.random.default_rng(seed), "model.vision_model."
    layer = f"{inside}encoder.layers.0."
    linear = {f"self_attn.{name}": (SEEN, SEEN) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    linear |= {"mlp.fc1": (2 * SEEN, SEEN), "mlp.fc2": (SEEN, 2 * SEEN)}
    shapes: dict[str, tuple[int, ...]] = {f"{layer}{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{layer}{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {
        f"{inside}embeddings.patch_embedding.weight": (SEEN, 3, PATCH, PATCH),
        f"{inside}embeddings.patch_embedding.bias": (SEEN,),
        f"{inside}embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2, SEEN),
        "model.connector.modality_projection.proj.weight": (WIDTH, SEEN * MERGED**2),
    }
    norms = [f"{layer}layer_norm1", f"{layer}layer_norm2", f"{inside}post_layernorm"]
    tensors = {name: (0.2 * rng.standard_normal(shape)).astype(np.float16) for name, shape in shapes.items()}
    tensors |= {f"{name}.weight": np.ones(SEEN, np.float16) for name in norms}
    return tensors | {f"{name}.bias": np.zeros(SEEN, np.float16) for name in norms}


def write_mmproj(path: Path, kind: str = "idefics3", width: int = WIDTH) -> Path:
    """Write the header of an mmproj with one tensor, which makes embeddings of so many numbers."""
    import gguf

    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(kind)
    writer.add_vision_projection_dim(width)
    writer.add_tensor("mm.model.fc.weight", np.ones((width, 4), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
