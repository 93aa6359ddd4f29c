"""Go's own text/template, for tests to compare with. Needs a `go` compiler; Debian calls it golang-go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core import failures, process
from ggufkit.core.process import Surroundings
from ggufkit.modelfile.conversation import Conversation, tool_schema

SOURCE = Path(__file__).with_name("render.go")
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="there is no go compiler (Debian: golang-go)")


def build(folder: Path) -> Path:
    """Compile the renderer into a folder."""
    program = folder / "gorender"
    environment = {"GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    output = process.run(["go", "build", "-o", program, SOURCE], surroundings=Surroundings(environment))
    failures.require_success(output, "compiling the Go renderer")
    return program


def render(program: Path, template: str, today: date, conversations: Sequence[Conversation]) -> list[str]:
    """What Go makes of conversations; an error is returned as its text."""
    request = {"template": template, "today": today.isoformat(), "conversations": [*map(_payload, conversations)]}
    output = process.run([program], stdin=json.dumps(request).encode())
    failures.require_success(output, "rendering with Go")
    return [row.get("prompt", "error: " + row.get("error", "")) for row in json.loads(output.stdout)]


def _payload(conversation: Conversation) -> dict[str, Any]:
    messages = [
        {
            "role": m.role,
            "content": m.content,
            "toolcalls": [{"function": {"name": c.name, "arguments": c.arguments}} for c in m.tool_calls],
        }
        for m in conversation.messages
    ]
    tools = [tool_schema(tool) for tool in conversation.tools]
    return {"messages": messages, "tools": tools, "think": conversation.think}
