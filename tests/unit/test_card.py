"""The model card: front matter that a hub accepts, the user's own fields kept, commands without this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from ggufkit.cli.report import report_command
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.manifest import read_manifest, write_manifest
from ggufkit.core.records import Manifest
from ggufkit.llama.gguf import read_header
from ggufkit.report import card, results
from ggufkit.report.card import CARD, PLOT, is_edited, is_rewritten, write_card
from tests.fake_results import FAKES, Fake, write_results


@pytest.fixture
def root(tmp_path: Path, private_cache: Path) -> Path:
    return write_results(tmp_path / "out")


def front_matter(root: Path) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", (root / CARD).read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    fields = yaml.safe_load(match[1])
    assert isinstance(fields, dict)
    return fields


def note_source(root: Path, source: str, revision: str | None = None) -> None:
    base = root / "tiny-F16.gguf"
    made = read_manifest(base)
    assert made is not None
    notes = {**made.notes, "source": source, "revision": revision}
    write_manifest(base, Manifest(**{**vars(made), "notes": notes}))


def write(root: Path, repo: str | None = None) -> str:
    write_card(results.collect(root), root, repo)
    return (root / CARD).read_text(encoding="utf-8")


def test_a_card_has_what_a_hub_asks_for(root: Path) -> None:
    note_source(root, "acme/tiny", "c" * 40)
    text = write(root)
    fields = front_matter(root)
    assert fields["base_model"] == "acme/tiny"
    assert fields["base_model_relation"] == "quantized"
    assert {"gguf", "llama.cpp", "quantized"} <= set(fields["tags"])
    assert "quantized_by" not in fields
    assert "# quantized_by: your name" in text
    assert "[acme/tiny](https://huggingface.co/acme/tiny)" in text
    assert "`cccccccccccc`" in text
    assert f"]({PLOT})" in text
    assert (root / PLOT).read_bytes().startswith(b"\x89PNG")
    assert all(f"`tiny-{'' if f.variant == 'plain' else f.variant + '-'}{f.type}.gguf`" in text for f in FAKES)
    assert "ggufkit build acme/tiny" in text


def test_licence_and_tags_come_from_the_source(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {
        "general.license": "other", "general.license.name": "llama3.2", "general.license.link": "https://example.org/l",
        "general.tags": ["llama-3", "gguf"], "general.languages": ["en", "de"],
    }  # fmt: skip

    def header(path: Path) -> Any:
        found = read_header(path)
        object.__setattr__(found, "metadata", {**found.metadata, **metadata})
        return found

    monkeypatch.setattr(card, "read_header", header)
    write(root)
    fields = front_matter(root)
    assert (fields["license"], fields["license_name"]) == ("other", "llama3.2")
    assert fields["license_link"] == "https://example.org/l"
    assert fields["language"] == ["en", "de"]
    assert fields["tags"] == ["gguf", "llama.cpp", "quantized", "llama-3"]


def test_what_the_user_wrote_is_kept(root: Path) -> None:
    note_source(root, "acme/tiny")
    write(root)
    edited = (
        (root / CARD).read_text().replace("# quantized_by: your name", "quantized_by: me\nnew_version: acme/next")
    )
    (root / CARD).write_text(edited)
    write(root)
    assert front_matter(root)["quantized_by"] == "me"
    assert front_matter(root)["new_version"] == "acme/next"
    assert "# quantized_by" not in (root / CARD).read_text()


@pytest.mark.parametrize("damage", ["", "no front matter", "---\n: [\n---\nx", "---\n- a\n---\n"])
def test_a_card_that_cannot_be_read_is_replaced(damage: str, root: Path) -> None:
    (root / CARD).write_text(damage)
    write(root)
    assert front_matter(root)["library_name"] == "gguf"


def test_a_local_source_is_no_base_model(root: Path) -> None:
    note_source(root, "/home/somebody/secret/tiny")
    text = write(root)
    assert "base_model" not in front_matter(root)
    assert "# base_model: OWNER/NAME" in text
    assert "somebody" not in text


def test_a_modelscope_source_names_its_twin(root: Path) -> None:
    note_source(root, "ms:LLM-Research/Llama-3.2-1B-Instruct")
    write(root)
    assert front_matter(root)["base_model"] == "meta-llama/Llama-3.2-1B-Instruct"


@pytest.mark.parametrize(
    ("repo", "commands"),
    [
        ("me/x-GGUF", ["llama-cli -hf me/x-GGUF -hff FILE", "ollama run hf.co/me/x-GGUF:FILE"]),
        ("ms:me/x", ["modelscope download --model me/x FILE", "ollama run modelscope.cn/me/x:FILE"]),
    ],
)
def test_commands_for_the_repository_name_the_file(repo: str, commands: list[str], root: Path) -> None:
    """The best balance of size and loss; its type alone would be the plain file for llama.cpp."""
    text = write(root, repo)
    assert "```sh\n" + "\n".join(c.replace("FILE", "tiny-imatrix-Q5_0.gguf") for c in commands) + "\n```" in text


@pytest.mark.parametrize(
    ("fakes", "file"),
    [
        ([Fake("imatrix", "Q4_0", 0.03), Fake("imatrix", "Q5_0", 0.02)], "tiny-imatrix-Q4_0.gguf"),
        ([Fake("imatrix", "Q4_0", 0.03), Fake("imatrix", "Q5_0", 0.01)], "tiny-imatrix-Q5_0.gguf"),
        ([Fake("plain", "F16", None), Fake("plain", "Q4_0", 0.4), Fake("plain", "Q8_0", 0.1)], "tiny-Q8_0.gguf"),
        ([Fake("plain", "F16", None, ppl=9.0), Fake("plain", "Q4_0", None, ppl=9.5)], "tiny-Q4_0.gguf"),
        ([Fake("plain", "F16", None)], "tiny-F16.gguf"),
    ],
)
def test_which_file_is_run_first(fakes: list[Fake], file: str, tmp_path: Path, private_cache: Path) -> None:
    assert f"-hff {file}\n" in write(write_results(tmp_path / "out", fakes), "me/x")


def test_ollama_reads_no_longer_tags(tmp_path: Path, private_cache: Path) -> None:
    """A type of two files is no tag, and their names are too long for one."""
    text = write(write_results(tmp_path / "out", [FAKES[0], FAKES[3], FAKES[5]], name="x" * 80), "me/x")
    assert "-hff xxx" in text
    assert "ollama run" not in text


def test_a_type_of_one_file_is_the_tag(tmp_path: Path, private_cache: Path) -> None:
    text = write(write_results(tmp_path / "out", FAKES[:4], name="x" * 80), "me/x")
    assert "ollama run hf.co/me/x:Q5_0\n" in text


def test_hostile_values_stay_values(root: Path) -> None:
    note_source(root, "acme/tiny", None)
    write(root)
    (root / CARD).write_text('---\nquantized_by: "x\\n---\\nlicense: mit"\n---\n')
    text = write(root)
    assert front_matter(root)["quantized_by"] == "x\n---\nlicense: mit"
    assert "license" not in front_matter(root)
    assert text.count("\n---\n") == 1


def test_one_file_has_no_plot(tmp_path: Path, private_cache: Path) -> None:
    root = write_results(tmp_path / "one", FAKES[:1])
    assert write_card(results.collect(root), root) == [root / CARD]


def test_what_the_user_wrote_is_known_from_what_was_written_here(root: Path) -> None:
    assert not is_edited(root)
    text = write(root)
    assert not is_edited(root)
    (root / CARD).write_text(text.replace("---\n", "---\nquantized_by: me\n", 1))
    assert is_edited(root)
    assert not is_rewritten(root)
    write(root, "me/x-GGUF")
    assert not is_edited(root)
    assert front_matter(root)["quantized_by"] == "me"
    (root / CARD).write_text((root / CARD).read_text() + "\nMy own words.\n")
    assert is_rewritten(root)


def test_fields_that_the_user_changed_or_took_out_stay_so(root: Path) -> None:
    text = write(root)
    fields = {**front_matter(root), "tags": ["gguf", "mine"], "license": "mit"}
    del fields["pipeline_tag"]
    (root / CARD).write_text(f"---\n{yaml.safe_dump(fields)}---{text.partition('---')[2].partition('---')[2]}")
    for _ in range(2):
        write(root)
        assert front_matter(root) == fields
    note_source(root, "acme/tiny")
    write(root)
    assert front_matter(root) == {**fields, "base_model": "acme/tiny", "base_model_relation": "quantized"}


@pytest.mark.parametrize("content", [b"# \xff mine\n", b"---\ntags: [\n---\n", b""])
def test_a_card_from_elsewhere_is_the_users(content: bytes, root: Path) -> None:
    (root / CARD).write_bytes(content)
    assert is_edited(root)
    assert is_rewritten(root)


def test_a_front_matter_that_cannot_be_read_is_not_thrown_away(root: Path) -> None:
    (root / CARD).write_text(write(root).replace("---\n", "---\ntags: [\n", 1))
    assert is_rewritten(root)


def test_report_leaves_a_card_of_the_user_alone(root: Path) -> None:
    (root / CARD).write_text("mine")
    with pytest.raises(InputError, match="by hand"):
        CliRunner().invoke(report_command, [str(root), "--card"], catch_exceptions=False)
    assert (root / CARD).read_text() == "mine"
    assert (root / "report.md").is_file()


def test_report_writes_a_card_for_a_repository(root: Path) -> None:
    run = CliRunner().invoke(report_command, [str(root), "--card", "--repo", "me/x"], catch_exceptions=False)
    assert run.exit_code == 0
    assert "llama-cli -hf me/x" in (root / CARD).read_text()
    for wrong in (["--repo", "me/x"], ["--card", "--repo", "x"]):
        assert isinstance(
            CliRunner().invoke(report_command, [str(root), *wrong]).exception, InputError | UsageError
        )
