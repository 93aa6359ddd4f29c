"""What a shell completes, as it asks for it; and a command line that says nothing of progress."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from ggufkit import cli as command_line
from ggufkit.cli import terminal
from ggufkit.cli.options import QUIETLY
from ggufkit.core.records import QuantType, Toolchain


def completed(*words: str) -> list[str]:
    *before, last = words
    asked = BashComplete(command_line.cli, {}, "ggufkit", "_GGUFKIT_COMPLETE")
    return [item.value if item.type == "plain" else item.type for item in asked.get_completions(before, last)]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolchain that knows three types."""
    tools = Toolchain(Path("/nowhere"), "built", "commit", "cpu", "test")
    monkeypatch.setattr("ggufkit.llama.toolchain.locate", lambda _backend: tools)
    known = tuple(QuantType(name, "") for name in ("Q4_K_M", "Q4_0", "IQ4_XS", "COPY"))
    monkeypatch.setattr("ggufkit.steps.quantize.known_types", lambda _tools: known)


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["b"], ["build", "bench"]),
        (["build", "qwen2.5-0"], ["qwen2.5-0.5b", "qwen2.5-0.5b-base", "file"]),
        (["build", "x", "--types", "q4"], ["q4_k_m", "q4_0"]),
        (["build", "x", "--types", "q4_0,"], ["q4_0,q4_k_m", "q4_0,iq4_xs"]),
        (["quantize", "x", "--types", "iq"], ["iq4_xs"]),
        (["build", "x", "--variants", "plain,a"], ["plain,awq", "plain,awq+imatrix", "plain,awq+gptq"]),
        (["build", "x", "--corpus", "wikitext2"], ["wikitext2", "wikitext2-train", "file"]),
        (["build", "x", "--backend", "c"], ["cpu", "cuda"]),
        (["inspect", "mod"], ["file"]),
        (["toolchain", "st"], ["status"]),
        (["bench", "--q"], ["--quiet"]),
    ],
)  # fmt: skip
def test_completion(words: list[str], wanted: list[str]) -> None:
    assert completed(*words) == wanted


def test_profiles_of_a_sweep_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("models: [qwen2.5-0.5b]\nprofiles: {quick: , quiet: , full: }\n")
    assert completed("sweep", str(file), "--profile", "qui") == ["quick", "quiet"]
    file.write_text("models: 3\n")
    assert completed("sweep", str(file), "--profile", "") == []
    assert completed("sweep", "--profile", "") == []
    assert completed("sweep", "st") == ["status", "stop", "file"]


def test_types_without_a_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggufkit.llama.toolchain.locate", lambda _backend: None)
    assert "q6_k" in completed("build", "x", "--types", "q6")


def test_quietly_only_warnings_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(command_line.cli) as ctx:
        ctx.meta[QUIETLY] = True
        with terminal.reporting() as reporter, reporter.step("Working", 2) as step:
            step.update(1, 2, "steps")
            reporter.info("By the way.")
            reporter.warn("No room.")
    assert capsys.readouterr().err == "Warning: No room.\n"
