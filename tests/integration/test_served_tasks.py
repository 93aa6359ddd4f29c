"""Tasks whose answers a served model writes: by the harness itself, and through a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.records import Toolchain
from ggufkit.llama import server_tool
from ggufkit.measure.tasks import harness
from ggufkit.texts.tasks.known import GSM8K, IFEVAL, TOOLS
from tests import tiny
from tests.integration.run_cli import fails, ggufkit
from tests.openai_server import StandIn, speaking
from tests.unit.test_served_tasks import ROWS, asked, asking

QWEN = (Path(__file__).parents[1] / "templates" / "qwen25.jinja").read_text(encoding="utf-8")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("mode", "says", "rows", "right"),
    [
        (GSM8K, "The answer is 5.", [{}, {"answer": "#### 6"}], (True, False)),
        (IFEVAL, "Here are no such marks", [{}, {"instruction_id_list": ["change_case:english_capital"]}],
         (True, False)),
    ],
)  # fmt: skip
def test_the_harness_itself(
    mode: str, says: str, rows: list[dict[str, Any]], right: tuple[bool, ...], tmp_path: Path, private_cache: Path
) -> None:
    pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")
    data = asked(tmp_path, *({**ROWS[mode], **row} for row in rows))
    with speaking(StandIn(says=lambda _asked: says)) as endpoint:
        assert harness.answers(endpoint, asking(data, tmp_path)) == right


def test_calls_of_two_files(
    tools: Toolchain, tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tools.binary(server_tool.NAME).is_file():
        pytest.skip("llama-server is not built: ggufkit toolchain install --server")
    monkeypatch.setenv("GGUFKIT_LLAMA_CPP", str(tools.dir))
    rows = [ROWS[TOOLS], {**ROWS[TOOLS], "calls": [{"name": "get_weather", "arguments": {"city": "London"}}]}]
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    right = tiny.write_parrot(tmp_path / "right.gguf", CALL, QWEN)
    other = tiny.write_parrot(tmp_path / "other.gguf", CALL.replace("Paris", "London"), QWEN)
    how = ("--tasks", f"mine={data}", "--backend", "cpu", "--threads", 1, "--json")
    done = ggufkit("tasks", other, "--base", right, *how)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [found[f"{name}.gguf"][0]["acc"] for name in ("right", "other")] == [0.5, 0.5]
    assert sorted(log.name for log in (tmp_path / "logs").glob("*-server.log")) == [
        "mine-other-server.log", "mine-right-server.log",
    ]  # fmt: skip
    (score,) = found["other.gguf"]
    assert (score["flips"], score["lost"], score["gained"], score["chance"]) == (1.0, 1, 1, 0.0)
    again = ggufkit("tasks", other, "--base", right, *how)
    assert again.out == done.out
    assert "Loading" not in again.err
    plain = tiny.write_parrot(tmp_path / "plain.gguf", CALL, "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert "The chat template of plain knows no tools" in fails(3, "tasks", plain, *how)
