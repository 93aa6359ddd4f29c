"""What somebody else wrote and is damaged: refused by name, with a way out, at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import pytest

from ggufkit.cli.parameter_types import SIZE, Count
from ggufkit.core.errors import CorpusError, InputError, TokenizerError, ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.hub import names
from ggufkit.llama import launcher, logs
from ggufkit.llama.pretokenizers import read_tokenizer
from ggufkit.measure.chat import read_reply
from ggufkit.modelfile.gotemplate import GoTemplateError, parse
from ggufkit.modelfile.metadata import read_meta
from ggufkit.refine.state import State
from ggufkit.report.tables import COLUMNS, load_results
from ggufkit.texts.row_files import read_entries

GO = {
    "backquotes": ("{{ " + "`a` " * 25 + "`", "Unclosed action"),
    "quotes": ("{{" + '"`' * 60, "Unclosed action"),
    "parentheses": ("{{ " + "(" * 5000 + " }}", "nested too deep"),
    "branches": ("{{ if . }}" * 3000, "nested too deep"),
    "an integer": ("{{ 99999999999999999999 }}", "overflows"),
    "digits": ("{{ " + "9" * 5000 + " }}", "overflows"),
    "a surrogate": ('{{ "\\ud800" }}', "No character has the number d800"),
    "beyond Unicode": ('{{ "\\U00ffffff" }}', "No character has the number 00ffffff"),
}


@pytest.mark.parametrize("case", GO)
def test_go_templates(case: str) -> None:
    template, said = GO[case]
    begun = time.process_time()
    with pytest.raises(GoTemplateError, match=said):
        parse(template)
    assert time.process_time() - begun < 1


ROWS = {
    "deep": (b'{"text": "a"}\n' + b"[" * 100_000, "line 2, is nested more than 100 deep"),
    "half a pair": (b'{"text": "a"}\n\n{"text": "\\ud83d"}', "line 3, is not valid JSON"),
    "cut": (b'{"text": "a"}\n{"text": ', "line 2, is not valid JSON"),
    "digits": (b"\n" + b"9" * 5000, "line 2, is not as expected: "),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_are_told_by_their_line(tmp_path: Path, case: str) -> None:
    file, (raw, said) = tmp_path / "rows.jsonl", ROWS[case]
    file.write_bytes(raw)
    with pytest.raises(CorpusError) as caught:
        read_entries(file)
    assert caught.value.message.startswith(str(file))
    assert said in caught.value.message
    assert (caught.value.exit_code, bool(caught.value.hint)) == (3, True)


TOKENIZERS = {
    "deep": ('{"model": {"type": "BPE"}, "x": ' + "[" * 100_000, "nested more than 100 deep"),
    "a list": ("[]", "Expected `object`, got `array`"),
    "a model of text": ('{"model": "BPE"}', "got `str` - at `$.model`"),
    "tokens": ('{"added_tokens": [{"id": 1}]}', "missing required field `content`"),
    "parts of words": ('{"model": {"type": "BPE", "continuing_subword_prefix": "1"}}', "begin with '1'"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "nothing": ("", "is empty"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(tmp_path: Path, case: str) -> None:
    file, (text, said) = tmp_path / "tokenizer.json", TOKENIZERS[case]
    file.write_text(text)
    with pytest.raises(TokenizerError) as caught:
        read_tokenizer(file)
    assert str(file) in caught.value.message
    assert said in caught.value.message
    assert (caught.value.exit_code, bool(caught.value.hint)) == (3, True)


@pytest.mark.parametrize("text", [".", "1.2.3GB", "9" * 400, "1e9", "²", "-1", "nan", "inf", "1" * 5000 + "TB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)
    with pytest.raises(click.BadParameter):
        Count("all").convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 << 30), ("100 MB", 10**8), ("1.5k", 1500), (".5M", 500_000)]
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("cell", ["x", "1.5", "1e300", "99999999999999999999", '"'])
def test_odd_cells_of_a_table(tmp_path: Path, cell: str) -> None:
    file, row = tmp_path / "results.csv", dict.fromkeys(COLUMNS, "1") | {"n_ctx": cell}
    file.write_text(",".join(COLUMNS) + "\n" + ",".join(row.values()) + "\n")
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_results(tmp_path)
    assert str(file) in caught.value.message


def test_rows_of_a_table_that_are_longer_than_its_head(tmp_path: Path) -> None:
    row = ["1"] * (len(COLUMNS) + 1)
    (tmp_path / "results.csv").write_text(",".join(COLUMNS) + "\n" + ",".join(row) + "\n")
    with pytest.raises(InputError, match=f"line 2 has {len(row)} cells for {len(COLUMNS)} columns"):
        load_results(tmp_path)


def test_metadata_of_other_types_is_as_good_as_none() -> None:
    odd = {
        "general.architecture": "llama", "tokenizer.ggml.model": ["gpt2"], "llama.block_count": "many",
        "llama.attention.head_count": [True, "x"], "llama.embedding_length": -1, "general.sampling.temp": float("nan"),
    }  # fmt: skip
    meta = read_meta(odd)
    assert (meta.kv_bytes_per_token, meta.sampling, meta.add_bos) == (None, {}, False)


def test_a_reply_of_another_shape(tmp_path: Path) -> None:
    file = tmp_path / "a.speak.json"
    file.write_text(json.dumps({"text": "a", "tokens": "none"}))
    with pytest.raises(InputError, match="is not as expected"):
        read_reply(file)


def test_a_state_that_somebody_changed(tmp_path: Path) -> None:
    state = State(tmp_path / "state", "key")
    (state.path / "matrices").mkdir()
    (state.path / "matrices" / "a").write_bytes(b'{"tensor": 1}\n')
    with pytest.raises(InputError, match="is not as expected") as caught:
        state.outcomes()
    assert str(state.path) in str(caught.value.hint)


@pytest.mark.parametrize("told", ["[]", '{"kind": "Path", "message": 1}', "{" * 5000])
def test_what_a_converter_prints_in_our_name(told: str) -> None:
    with pytest.raises(ToolOutputError, match="The converter's error"):
        launcher.error_in(ToolOutput(("a",), 1, "", f"ggufkit-error: {told}\n", 1.0))


def test_a_kind_of_error_that_is_none() -> None:
    error = launcher.error_in(ToolOutput(("a",), 1, "", 'ggufkit-error: {"kind": "Path", "message": "m"}', 1.0))
    assert error is not None
    assert (error.message, error.exit_code) == ("m", 1)


def test_long_words_take_no_time() -> None:
    begun = time.process_time()
    assert names.find_alias("%-" * 50_000) is None
    plan = logs.parse_quantize(ToolOutput(("a",), 0, "quant size = 1 MiB (1 BPW)\n" + "x" * 50_000, "", 1.0))
    assert plan.tensors == ()
    assert time.process_time() - begun < 1
