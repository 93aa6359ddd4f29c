"""The function that serves: serve."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ggufkit.api import options
from ggufkit.api.call import Options, listening
from ggufkit.api.options import Path_
from ggufkit.commands import serve as serving
from ggufkit.core import values
from ggufkit.core.progress import Reporter
from ggufkit.llama.adapter import Adapter, Scaled
from ggufkit.serving.drafts import DraftOptions
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.server import CONTEXT, ServeOptions, free_port

if TYPE_CHECKING:
    from typing_extensions import Unpack


@contextmanager
def serve(
    gguf: Path_,
    *,
    reporter: Reporter | None = None,
    quiet: bool = False,
    **more: Unpack[options.ServeOptions],
) -> Iterator[Endpoint]:
    """Serve a GGUF to clients of OpenAI's protocol for the length of a context, as `ggufkit serve` does.

        >>> with serve("model-Q4_K_M.gguf") as endpoint:  # doctest: +SKIP
        ...     client = openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key or "none")

    Args:
        gguf: the file.
        more: every other option, see `ServeOptions`; without `port` a free one is taken.

    Yields:
        Where it is reached: `base_url`, `model`, `api_key`.

    Raises:
        GgufkitError: of the kind that tells what went wrong.
    """
    given = Options("serve", options.ServeOptions, more)
    file, kind = values.read("gguf", values.FILE, gguf), given.read("kv_type")
    how = ServeOptions(
        host=given.read("host", ServeOptions.host),
        port=given.read("port") or free_port(),
        name=given.read("name"),
        api_key=given.read("api_key"),
        ctx=values.read("ctx", CONTEXT, given.given.get("ctx")),
        kv_type=None if kind == "auto" else kind,
        slots=given.read("slots", ServeOptions.slots),
        mmproj=values.read("mmproj", values.FILE, given.given["mmproj"]) if "mmproj" in given.given else None,
        alone=given.read("no_mmproj", ServeOptions.alone),
        loras=_adapters(given.given.get("lora")),
        control_vectors=_adapters(given.given.get("control_vector")),
        drafts=DraftOptions(
            given.read("draft"), bool(given.read("mtp", False)), given.read("draft_max"), given.read("draft_min")
        ),
    )
    with listening(reporter, quiet) as listener, serving.serve(file, how, given.run, listener) as server:
        yield server.endpoint


def _adapters(given: Any) -> tuple[Adapter, ...]:
    """Adapters, one or several, as they are written."""
    several = given if isinstance(given, Iterable) and not isinstance(given, (str, os.PathLike)) else [given]
    return tuple(Scaled().read(one) for one in several if one is not None)
