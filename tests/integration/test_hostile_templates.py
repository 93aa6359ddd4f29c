"""Chat templates that take time or memory without end are refused by name, and what cannot be computed is told."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.core.errors import InputError
from ggufkit.core.limits import Limits
from ggufkit.modelfile import proven
from ggufkit.modelfile.proven import ModelfileOptions, make_modelfile
from tests.integration.run_cli import ggufkit
from tests.templates.catalog import meta


def write(path: Path, template: str) -> Path:
    """A small GGUF with a chat template."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Some\x1b[2J Model")
    writer.add_context_length(2048)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<|endoftext|>", "<|im_end|>"])
    writer.add_token_types([3, 3])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


TIME, MEMORY = (
    "to render a conversation it takes more than 1 s, or 3 s in all",
    "it takes more than 0.25 GiB of memory",
)
HOSTILE = {
    "loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TIME),
    "output": (
        "{% for a in range(99999) %}{% for b in range(999) %}{{ 'x' * 9999 }}{% endfor %}{% endfor %}",
        MEMORY,
    ),
    "doubled": (
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        MEMORY,
    ),
    "long": ("{{ 'x' * 2000000 }}", "takes seconds, or makes a million characters, for a few messages"),
    "power": ("{{ 9 ** (9 ** 9) }}", TIME),
    "width": ("{{ '%0999999999d'|format(1) }}", MEMORY),
    "slow filters": ("{{ ('<a' * 200000)|striptags|urlize }}", TIME),
    "division": ("{{ 1/0 }}", "cannot render one message: division by zero"),
    "macro": (
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "cannot render one message: maximum recursion",
    ),
    "range": ("{{ range(10**12)|list }}", "cannot render one message: Range too big"),
    "nesting": ("{{ " + "(" * 9999 + ")" * 9999 + " }}", "is not valid Jinja: maximum recursion"),
    "blocks": ("{% for a in [1] %}" * 40 + "{% endfor %}" * 40, "is not valid Jinja: "),
    "escape": ("{{ raise_exception('\x1b[2J\nError: no') }}", "cannot render one message: \x1b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template, reason = HOSTILE[name]
    turn_s = 30 if reason == MEMORY else 1  # whichever limit is meant comes first on any machine
    monkeypatch.setattr(proven, "_LIMITS", Limits(cpu_s=3 * turn_s, memory_bytes=1 << 28, turn_s=turn_s))
    with pytest.raises(InputError) as refused:
        make_modelfile(write(tmp_path / "x.gguf", template), "./x.gguf", ModelfileOptions("go"), None)
    assert refused.value.exit_code == 3
    assert refused.value.message.startswith("The chat template of ")
    assert reason in refused.value.message
    assert refused.value.hint


def test_the_command_tells_it_in_one_line(tmp_path: Path) -> None:
    ended = ggufkit("modelfile", write(tmp_path / "x.gguf", HOSTILE["escape"][0]), "--template", "go")
    assert ended.code == 3
    told = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    assert told == [r"Error: The chat template of Some\x1b[2J Model cannot render one message: \x1b[2J\nError: no"]


def test_a_real_template_is_proven(tmp_path: Path) -> None:
    """The same Modelfile as without a process of its own, text for text."""
    source = str(meta("chatml").chat_template)
    made = make_modelfile(write(tmp_path / "x.gguf", source), "./x.gguf", ModelfileOptions("go"), None)
    assert made.kind == "go"
    assert "prompts identical" in made.why
    assert ("stop", "<|im_end|>") in made.modelfile.parameters
    assert made.modelfile.template is not None
