"""The process that loads a model for `chat`: a request as JSON on stdin, the reply as it comes on stdout, and one marked
line of numbers on stderr. llama-cpp-python's binding speaks to the toolchain's own libraries.
"""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ggufkit.core import limits
from ggufkit.core.limits import Limits

MARK, TOO_LONG = "ggufkit-reply: ", "The prompt has"
TEMPLATE = "ggufkit-template: "
_GREETING, _OPENING = "Hello! Who are you, and what can you do?", "Once upon a time"


def _main() -> None:
    """The process that loads the model."""
    request = json.load(sys.stdin)
    started, clock = request.pop("started"), time.time()
    model, formatter = _load(request)
    load_s = time.time() - clock
    with limits.imposed(Limits(**request["limits"])):
        prompt, templated = _prompt_tokens(model, request, formatter)
    room = model.n_ctx() - len(prompt)
    if room < 1:
        sys.exit(f"{TOO_LONG} {len(prompt)} tokens, the context {model.n_ctx()}")
    reply = _generate(model, prompt, min(request["max_tokens"], room), request["temperature"], started)
    full = len(reply["tokens"]) == room < request["max_tokens"]
    numbers = {**reply, "n_prompt": len(prompt), "templated": templated, "load_s": load_s, "full": full}
    print(MARK + json.dumps(numbers), file=sys.stderr, flush=True)


def _load(request: Mapping[str, Any]) -> tuple[Any, Callable[..., Any]]:
    """The model, and what makes formatters of templates."""
    from llama_cpp import Llama, llama_chat_format

    # Templates are compiled within limits: not while the model is loaded.
    formatter, llama_chat_format.Jinja2ChatFormatter = llama_chat_format.Jinja2ChatFormatter, _NoFormatter
    model = Llama(
        request["gguf"], n_ctx=request["n_ctx"], n_threads=request["threads"], n_threads_batch=request["threads"],
        n_gpu_layers=request["ngl"], seed=request["seed"], flash_attn=request["flash"], verbose=False,
    )  # fmt: skip
    llama_chat_format.Jinja2ChatFormatter = formatter
    _adapt(model, request["loras"])
    return model, formatter


def _adapt(model: Any, loras: Sequence[tuple[str, float]]) -> None:
    """Let adapters change a model; the binding by itself takes one."""
    import ctypes

    import llama_cpp

    found = [llama_cpp.llama_adapter_lora_init(model.model, file.encode()) for file, _ in loras]
    if not all(found):
        sys.exit(f"llama.cpp cannot load {loras[found.index(None)][0]}")
    if found:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * len(found))(*found)
        scales = (ctypes.c_float * len(found))(*(scale for _, scale in loras))
        llama_cpp.llama_set_adapters_lora(model._ctx.ctx, adapters, len(found), scales)


class _NoFormatter:
    """Stands for the formatters that the binding would make of every template."""

    def __init__(self, **_what: object) -> None:
        pass

    def to_chat_handler(self) -> None:
        """There is none."""


def _prompt_tokens(
    model: Any, request: Mapping[str, Any], formatter: Callable[..., Any]
) -> tuple[list[int], bool]:
    """The prompt's ids, and whether a template made them. BOS is added once, as llama.cpp's server does."""
    prompt, system = request["prompt"], request["system"]
    if "tokenizer.chat_template" not in model.metadata:
        text = "\n\n".join(filter(None, [system, prompt or _OPENING]))
        return list(model.tokenize(text.encode(), add_bos=True, special=True)), False
    messages = [{"role": "user", "content": prompt or _GREETING}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return _rendered(model, messages, formatter, request["limits"]["memory_bytes"]), True


def _rendered(
    model: Any, messages: Sequence[Mapping[str, str]], formatter: Callable[..., Any], room_bytes: int
) -> list[int]:
    """The ids of a conversation by the model's own template. A template that cannot be rendered ends the process."""

    def text_of(token: int) -> str:
        return str(model._model.token_get_text(token)) if token >= 0 else ""

    try:
        tokens = {"eos_token": text_of(model.token_eos()), "bos_token": text_of(model.token_bos())}
        template = model.metadata["tokenizer.chat_template"]
        text = formatter(template=template, **tokens)(messages=messages).prompt
    except MemoryError:
        sys.exit(f"{TEMPLATE}it takes more than {room_bytes / (1 << 30):.3g} GiB of memory")
    except Exception as error:
        sys.exit(f"{TEMPLATE}{' '.join(str(error).split()) or type(error).__name__}")
    ids = list(model.tokenize(text.encode(), add_bos=False, special=True))
    wants_bos = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    return [model.token_bos(), *ids] if wants_bos and ids[:1] != [model.token_bos()] else ids


def _generate(
    model: Any, prompt: Sequence[int], max_tokens: int, temperature: float, started: float
) -> dict[str, Any]:
    """Print the reply as it comes; what is known of it at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tokens, text, raw = list[int](), "", b""
    first = begun = 0.0
    for token in _until_end(model, prompt, temperature):
        if not tokens:
            first, begun = time.time() - started, time.perf_counter()
        tokens.append(token)
        piece = model.detokenize([token], prev_tokens=[*prompt, *tokens[:-1]])
        raw += piece
        shown = decoder.decode(piece)
        text += shown
        sys.stdout.write(shown)
        sys.stdout.flush()
        if len(tokens) == max_tokens:
            break
    elapsed = time.perf_counter() - begun
    rate = (len(tokens) - 1) / elapsed if len(tokens) > 1 and elapsed > 0 else None
    return {
        "text": text,
        "tokens": tokens,
        "valid_utf8": _is_utf8(raw),
        "first_token_s": first,
        "tokens_per_s": rate,
    }


def _until_end(model: Any, prompt: Sequence[int], temperature: float) -> Iterator[int]:
    """Tokens of a generation up to the one that ends it."""
    import llama_cpp

    vocab = llama_cpp.llama_model_get_vocab(model.model)
    for token in model.generate(prompt, temp=temperature):
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            return
        yield int(token)


def _is_utf8(raw: bytes) -> bool:
    """Whether bytes are UTF-8; a character that the token limit cut off at the end does not count."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError:
        return False
    return True


if __name__ == "__main__":
    _main()
