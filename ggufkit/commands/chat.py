"""What `chat` does at a terminal: a model served for one conversation, on a port of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufkit.core import failures
from ggufkit.core.errors import InputError, ToolError
from ggufkit.core.paths import cache_dir
from ggufkit.core.progress import Reporter
from ggufkit.llama.adapter import Adapter
from ggufkit.llama.gguf import read_header
from ggufkit.request import RunOptions
from ggufkit.serving import server
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.server import ServeOptions

_ENOUGH = 8192
"""Tokens of context: a long conversation, in little memory."""


@contextlib.contextmanager
def conversing(
    gguf: Path, n_ctx: int | None, loras: Sequence[Adapter], run: RunOptions, reporter: Reporter
) -> Iterator[Endpoint]:
    """A model served for one conversation, for the length of a context.

    Args:
        n_ctx: tokens of context; None for the model's own, up to 8192.

    Raises:
        GgufError, InputError: it cannot be loaded, or gives embeddings.
        ToolchainError: there is no llama-server, and none can be built.
    """
    trained = read_header(gguf).hparam("context_length") or _ENOUGH
    context = n_ctx or min(trained, _ENOUGH)
    how = ServeOptions(port=server.free_port(), ctx=context, slots=1, alone=True, loras=tuple(loras))
    if server.require_possible_plan(gguf, how):
        raise InputError(f"{gguf.name} gives embeddings, no answers.", hint=f"Serve it: ggufkit serve {gguf}")
    session = run.session(cache_dir() / "serve", reporter)
    log = cache_dir() / "logs" / f"chat-{gguf.stem}.log"
    with server.serving(server.plan(gguf, how, session), run.ngl, session, log) as running:
        try:
            yield running.endpoint
        except ToolError:
            if (ended := running.service.ended()) is not None:
                raise failures.explain(ended, f"answering with {gguf.name}") from None
            raise


def is_templated(gguf: Path) -> bool:
    """Whether a file has a chat template: else every text is continued by itself."""
    return "tokenizer.chat_template" in read_header(gguf).metadata
