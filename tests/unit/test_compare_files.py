"""What `ggufkit compare` makes of the files that it is given, before anything is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufkit.cli.report import compare_command
from ggufkit.commands import compare
from ggufkit.core.errors import InputError, SourceError, UsageError
from ggufkit.core.manifest import SCHEMA, write_manifest
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Json, Manifest, ResultRow
from ggufkit.hub.listing import Listing, RemoteFile, Repo
from ggufkit.models import published
from ggufkit.report import results
from ggufkit.report.rivals import side_by_side
from ggufkit.request import EvaluationOptions, RunOptions
from ggufkit.steps.guest import Guest
from tests.fake_model import KINDS, TOKENS, write
from tests.fake_results import Fake, split, write_results


def guests(given: list[Path], out: Path) -> list[tuple[Guest, str]]:
    """The files of a comparison, and what they are called there."""
    named = compare._headers([published.read(str(path)) for path in given], SilentReporter())
    return compare._guests(named, out)


def test_directories_or_files_but_not_both(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file, directory = str(write(tmp_path / "a.gguf")), str(tmp_path / "a")
    assert not compare.are_files([directory, directory])
    assert compare.are_files([file, "hub:acme/x-GGUF/x.gguf"])
    with pytest.raises(UsageError, match=r"a is a directory, and not all of the others are"):
        compare.are_files([directory, file])
    with pytest.raises(UsageError, match=r"is a directory"):
        compare.are_files(["ms:acme/x-GGUF/x.gguf", directory])
    with pytest.raises(UsageError, match=r"nothing to compare .*a.gguf with"):
        compare.are_files([file])
    with pytest.raises(UsageError, match=r"'no.gguf' does not exist"):
        compare.are_files([file, "no.gguf"])


def test_options_of_files_are_refused_for_directories(tmp_path: Path) -> None:
    root = write_results(tmp_path / "one")
    with pytest.raises(UsageError, match=r"--chunks is about GGUF files"):
        CliRunner().invoke(compare_command, [str(root), "--chunks", "3"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("given", "repo", "file", "revision"),
    [
        ("hub:acme/x-GGUF/x-Q4_K_M.gguf", "acme/x-GGUF", "x-Q4_K_M.gguf", ""),
        ("hub:acme/x-GGUF/deep/er/x.gguf@v2", "acme/x-GGUF", "deep/er/x.gguf", "v2"),
        ("ms:acme/x-GGUF/x.gguf", "ms:acme/x-GGUF", "x.gguf", ""),
        ("hub:ms:acme/x-GGUF/x.gguf", "ms:acme/x-GGUF", "x.gguf", ""),
    ],
)
def test_a_file_of_a_hub(given: str, repo: str, file: str, revision: str) -> None:
    found = published.read(given)
    assert (found.repo, found.path, found.revision) == (repo, Path(file), revision)
    assert found.owner == "acme"
    assert found.source == given.replace("hub:ms:", "ms:")


@pytest.mark.parametrize("given", ["hub:", "hub:acme", "hub:acme/x-GGUF", "ms:acme/x-GGUF", "hub:acme/x/a.gguf@"])
def test_what_names_no_file_of_a_hub(given: str) -> None:
    with pytest.raises(UsageError, match=r"names no file of a hub"):
        published.read(given)


def test_all_parts_of_a_file_are_wanted() -> None:
    names = [f"Q8/x-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    listing = Listing("c0ffee", tuple(RemoteFile(name, 1) for name in [*names, "x-Q4_K_M.gguf"]))
    repo = Repo("acme/x-GGUF")
    assert [file.path for file in published.select(repo, listing, names[1])] == names
    with pytest.raises(SourceError, match=r"has no file x-Q4_K_L.gguf") as error:
        published.select(repo, listing, "x-Q4_K_L.gguf")
    assert "Did you mean x-Q4_K_M.gguf" in str(error.value.hint)
    lacking = Listing("c0ffee", listing.files[1:])
    with pytest.raises(SourceError, match=r"has no file Q8/x-00001-of-00003.gguf"):
        published.select(repo, lacking, names[1])


def test_strangers_are_all_named(tmp_path: Path) -> None:
    base, file = write(tmp_path / "base.gguf"), write(tmp_path / "file.gguf")
    wide, other = write(tmp_path / "wide.gguf", width=64), write(tmp_path / "other.gguf", arch="qwen2")
    how = EvaluationOptions(), tmp_path / "out", RunOptions()
    with pytest.raises(
        InputError, match=r"of base.gguf: wide.gguf: token_embd.weight is 64 × 5, in the base 32 × 5"
    ):
        compare.compare([str(f) for f in (base, file, wide)], *how, SilentReporter())
    with pytest.raises(InputError, match=r"2 of these files are not of the model of base.gguf") as error:
        compare.compare([str(f) for f in (base, file, wide, other)], *how, SilentReporter())
    assert error.value.details[1] == "other.gguf: its architecture is qwen2, that of the base llama."
    with pytest.raises(UsageError, match=r"file.gguf is given twice"):
        compare.compare([str(f) for f in (base, file, file)], *how, SilentReporter())


def test_what_a_manifest_says_leads_out_of_no_directory(tmp_path: Path) -> None:
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
    base, file, other = (write(tmp_path / name) for name in ("m-F16.gguf", "a/m-Q8_0.gguf", "b/m-Q8_0.gguf"))
    output: dict[str, Json] = {"sha256": "", "size_bytes": 0}
    notes: dict[str, Json] = {"name": "m", "variant": "../../x y", "type": "Q8_0"}
    made = Manifest(SCHEMA, "quantize", 1, {}, {}, None, [], output, "2026-01-01T00:00:00+00:00", 0, notes)
    write_manifest(other, made)
    found = guests([base, file, other], tmp_path / "out")
    assert [name for _, name in found][1:] == ["m-Q8_0.gguf", "x-y-m-Q8_0.gguf"]


def test_files_keep_their_names_where_these_are_free(tmp_path: Path) -> None:
    paths = [tmp_path / who / "tiny-Q4_K_M.gguf" for who in ("mine", "acme", "models--owner--x", "x/acme")]
    for path in paths:
        path.parent.mkdir(parents=True)
    base, others = write(tmp_path / "tiny-F16.gguf"), [write(path) for path in paths]
    parts = split(write(tmp_path / "big-UD-Q3_K_XL.gguf"), 2)
    found = guests([base, *others, parts[1]], tmp_path / "out")
    assert [name for _, name in found] == [
        "tiny-F16.gguf", "tiny-Q4_K_M.gguf", "acme-tiny-Q4_K_M.gguf", "owner-tiny-Q4_K_M.gguf",
        "tiny-Q4_K_M-2.gguf", "big-UD-Q3_K_XL.gguf",
    ]  # fmt: skip
    assert [(one.notes.variant, one.notes.type) for one, _ in found] == [
        ("plain", "F16"), ("mine", "Q4_K_M"), ("acme", "Q4_K_M"), ("owner", "Q4_K_M"), ("tiny-Q4_K_M", "Q4_K_M"),
        (tmp_path.name, "UD-Q3_K_XL"),
    ]  # fmt: skip
    assert {one.notes.name for one, _ in found} == {"tiny"}
    assert [len(one.headers) for one, _ in found] == [1, 1, 1, 1, 1, 2]


def test_what_a_build_made_is_neither_overwritten_nor_linked(tmp_path: Path) -> None:
    out = write_results(tmp_path / "out", (Fake("plain", "F16", None), Fake("plain", "Q4_0", 0.03)))
    theirs = write(tmp_path / "theirs.gguf")
    own = next(out.glob("*Q4_0.gguf"))
    theirs = theirs.rename(tmp_path / own.name)
    (_, name), (_, other) = guests([write(tmp_path / "base.gguf"), theirs], out)
    assert (name, other) == ("base.gguf", f"{tmp_path.name}-{own.name}")
    made = Manifest(
        SCHEMA, "quantize", 1, {}, {}, None, [], {"sha256": "", "size_bytes": 0}, "2026-01-01T00:00:00+00:00", 0
    )
    here = write(tmp_path / "x.gguf")
    write_manifest(here, made)
    assert compare._is_free(here, guests([here, theirs], tmp_path)[0][0])


def test_padding_is_cut_from_all_that_have_it(tmp_path: Path) -> None:
    base, short = write(tmp_path / "base.gguf"), write(tmp_path / "short.gguf", tokens=TOKENS[:4], kinds=KINDS[:4])
    found = guests([base, short], tmp_path / "out")
    assert [one.n_tokens for one, _ in found] == [4, None]


def test_differences_are_told_against_the_first_file(tmp_path: Path) -> None:
    root = write_results(
        tmp_path / "out",
        (Fake("plain", "F16", None), Fake("plain", "Q8_0", 0.01, 0.003), Fake("plain", "Q4_0", 0.05, 0.004)),
    )

    rows = results.collect(root)
    names = [row.file for row in rows]
    found = side_by_side(rows, root, names)
    assert found.files[0].delta is None
    delta = found.files[1].delta
    assert delta is not None
    assert (delta.value, delta.error) == pytest.approx((0.04, 0.005))
    assert not delta.is_paired
    assert found.files[0].differs == ()
    assert all(re.search("Q4_0 against Q8_0", said) for said in found.files[1].differs)
    assert isinstance(found.base.row, ResultRow)
