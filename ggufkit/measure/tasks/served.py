"""Step: which answers that a served model writes are right: GSM8K and IFEval by lm-evaluation-harness, tool calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ggufkit.core.part_names import stem_of
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import F16, GgufFile
from ggufkit.measure.tasks import answers, harness, tool_calls
from ggufkit.measure.tasks.answers import Asking
from ggufkit.serving import server
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.server import ServeOptions, free_port
from ggufkit.steps.step import Result
from ggufkit.texts.tasks.known import GSM8K, IFEVAL, TOOLS

Answers = tuple[bool, ...]
_BY_MODE: dict[str, Callable[[Endpoint, Asking], Answers]] = {
    GSM8K: harness.answers, IFEVAL: harness.answers, TOOLS: tool_calls.answers,
}  # fmt: skip


def ask_all(files: Sequence[GgufFile], asking: Asking) -> list[Result]:
    """Serve one file after the other, and judge what it answers at temperature 0; what is there is kept.

    Raises:
        MissingExtra: lm-evaluation-harness is not installed, and is needed.
        ToolError: a server or the harness failed.
        InputError: a template knows no tools, and is asked for calls.
    """
    if asking.data.mode in harness.TASKS:
        harness.require()
    return [answers.kept(file, asking, lambda file=file: _served(file, asking)) for file in files]  # type: ignore[misc]


def _served(gguf: GgufFile, asking: Asking) -> tuple[ToolOutput, Answers]:
    session, begun = asking.session, time.monotonic()
    # A cache that is chosen by the memory that is free would not be the same for every file.
    how = ServeOptions(port=free_port(), kv_type=F16, verbose=True, alone=True)
    plan = server.plan(gguf.path, how, session)
    log = session.workspace.log(
        f"{asking.data.name}-{stem_of(gguf.path)}-server"
    )  # of each port there would be another
    with server.serving(plan, asking.ngl, session, log) as running:
        right = _BY_MODE[asking.data.mode](running.endpoint, asking)
        said = running.service.said()
    return replace(said, duration_s=time.monotonic() - begun), right
