"""What a sweep tells of methods: where they pay, what did not help, which file to take; only within equal conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core.errors import InputError
from ggufkit.report import families, regressions, sweep_page, swept, tables, trials
from ggufkit.report.swept import Swept
from tests import fake_sweep
from tests.fake_sweep import COMMIT, base, row


def method(section: families.Section, name: str) -> families.Method:
    return next(m for m in section.methods if m.name == name)


def test_each_method_is_held_against_what_lacks_it_alone() -> None:
    (section,) = families.sections(fake_sweep.family())
    tried = {(t.method, t.with_.split()[0], t.without.split()[0]) for m in section.methods for t in m.trials}
    assert tried == {
        ("awq", "awq", "plain"), ("awq", "awq+imatrix", "imatrix"), ("imatrix", "imatrix", "plain"),
        ("imatrix", "awq+imatrix", "awq"), ("gptq", "gptq", "imatrix"),
    }  # fmt: skip
    assert method(section, "gptq").median == pytest.approx(0.6 / 0.84)


def test_a_matrix_changes_nothing_of_some_types() -> None:
    found = Swept("m", "", (base(), row("plain", "Q8_0", 0.0004), row("gptq", "Q8_0", 0.0002)))
    assert [(t.method, t.without, t.verdict) for t in trials.of(found)] == [("gptq", "plain Q8_0", trials.PAYS)]


def test_the_answer_names_what_pays_and_says_plainly_what_did_not() -> None:
    (section,) = families.sections(fake_sweep.family())
    assert section.answer == "GPTQ and an importance matrix pay"
    assert [m.name for m in section.methods] == ["gptq", "imatrix", "awq"]
    assert (
        method(section, "gptq").sentence == "GPTQ pays in all 10 files: 0.71 of the loss without it in the median."
    )
    assert method(section, "awq").sentence == (
        "AWQ did not help: of 20 files none loses less by more than the error; 10 lose more with it "
        "(1.01 of the loss without it in the median)."
    )
    assert [(best.cell.model, best.taken.entry.label) for best in section.bests] == [
        ("acme-1b", "gptq Q4_0"),
        ("acme-2b", "gptq Q4_0"),
    ]


def test_each_model_has_a_line_and_types_unfold_where_there_are_many() -> None:
    few, many = (sweep_page.render("s", fake_sweep.family(n)) for n in (2, 5))
    for page, n in ((few, 2), (many, 5)):
        assert page.count("pays in 5 of 5</small>") == n  # GPTQ, with each model
        assert page.count("pays in 0 of 10, worse in 5</small>") == n
        assert page.count('<th scope="rowgroup"') == n
    assert "<summary>Type by type</summary>" in many
    assert "<summary>Type by type</summary>" not in few


def test_what_pays_for_some_types_only() -> None:
    rows = [row(v, k, kld) for k, kld in (("Q4_0", 0.03), ("Q8_0", 0.0004)) for v in ("plain",)]
    found = Swept("m", "", (base(), *rows, row("imatrix", "Q4_0", 0.02), row("imatrix", "Q8_0", 0.0004)))
    (section,) = families.sections([found])
    assert section.answer == "No method pays here: files without are as good."
    assert section.methods[0].sentence.startswith(
        "An importance matrix pays in 1 of 2 files, for Q4_0, not for Q8_0 ("
    )


def test_recipes_against_the_preset_of_their_size() -> None:
    rows = (
        base(), row("plain", "Q4_0", 0.04, 4.0), row("plain", "Q5_K_M", 0.01, 6.0),
        row("plain", "5.00bpw", 0.015, 5.0), row("plain", "like-Q4_0", 0.03, 4.0), row("plain", "9.00bpw", 0.001, 9.0),
    )  # fmt: skip
    found = {t.type: t for t in trials.of(Swept("m", "", rows))}
    assert set(found) == {"5.00bpw", "like-Q4_0"}  # beyond the presets there is nothing to hold it against
    assert found["5.00bpw"].ratio == pytest.approx(0.75)  # halfway, of the logarithm: 0.02
    assert found["5.00bpw"].without == "plain between Q4_0 and Q5_K_M"
    assert found["like-Q4_0"].ratio == pytest.approx(0.75)
    assert found["like-Q4_0"].without == "plain Q4_0"


def test_errors_are_those_of_the_same_tokens_where_they_are_kept() -> None:
    plain, matrix = row("plain", "Q4_0", 0.031, error=0.05), row("imatrix", "Q4_0", 0.030, error=0.05)
    alone = Swept("m", "", (plain, matrix))
    paired = replace(alone, scores={r.file: fake_sweep.scores(r) for r in (plain, matrix)})
    (apart,), (together,) = trials.of(alone), trials.of(paired)
    assert (apart.verdict, together.verdict) == (trials.EVEN, trials.PAYS)


def test_only_what_was_measured_alike_is_counted_together() -> None:
    first, second, third = fake_sweep.family(3)
    shorter = replace(third, rows=tuple(replace(r, n_chunks=8, llama_cpp_commit="ffff") for r in third.rows))
    unknown = Swept("none", "", (row("plain", "Q4_0", None),))
    found = families.sections([first, second, shorter, unknown])
    assert [[c.model for c in s.cells] for s in found] == [["acme-1b", "acme-2b"], ["acme-4b"]]
    assert found[1].reasons == (
        "another number of chunks: 8, not 60",
        f"another llama.cpp: ffff, not {COMMIT[:12]}",
    )
    assert families.unmeasured([first, unknown]) == 1


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("qwen2.5-0.5b-instruct", "qwen2.5"),
        ("SmolLM2-135M", "smollm2"),
        ("llama-22m", "llama"),
        ("mine", "mine"),
        ("7b", "7b"),
    ],
)
def test_families_by_name(model: str, name: str) -> None:
    assert families.family(model) == name


def test_a_sweeps_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    cells = [("=m", "quick", fake_sweep.cell("=m")), ("b", "", fake_sweep.cell("b"))]
    text = swept.to_csv([(model, profile, tables.frame(found.rows)) for model, profile, found in cells])
    file = tmp_path / "sweep.csv"
    file.write_text(text)
    assert text.startswith("model,profile,name,variant,type,file,size_bytes,")
    assert "\n'=m,quick,'=m,plain,F16," in text
    assert [(c.model, c.profile, c.rows) for c in swept.read(file)] == [
        (m, p, found.rows) for m, p, found in cells
    ]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "model,profile\nm,\n", "\0"])
def test_what_is_no_table_of_a_sweep(tmp_path: Path, text: str) -> None:
    file = tmp_path / "old.csv"
    file.write_text(text)
    with pytest.raises(InputError, match="no table of a sweep"):
        swept.read(file)


def test_against_an_earlier_sweep() -> None:
    now = fake_sweep.cell("m")
    worse = {("plain", "Q4_0"): 0.5, ("gptq", "Q2_K"): 2.0}  # what it lost before, in parts of now
    before = [
        replace(r, kld_mean=r.kld_mean and r.kld_mean * worse.get((r.variant, r.type), 1.001)) for r in now.rows
    ]
    other_text = [replace(r, corpus_sha256="cd" * 32) if r.type == "Q8_0" else r for r in before]
    gone = row("plain", "Q5_K_M", 0.01, name="other")
    found = regressions.against([now], [replace(now, rows=tuple(other_text)), Swept("other", "", (gone,))])
    assert [(c.now.type, round(c.ratio, 2)) for c in found.worse] == [("Q4_0", 2.0)]
    assert [(c.now.type, round(c.ratio, 2)) for c in found.better] == [("Q2_K", 0.5)]
    assert found.sentence == (
        "Against the earlier sweep 1 of 20 files loses more, 1 less, 18 the same within the error; "
        "5 files not comparable: another text; 1 file no longer there."
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"n_chunks": 8}, "another number of chunks (60, not 8)"), ({"llama_cpp_commit": "ff"}, "another llama.cpp"),
     ({"n_ctx": 128}, "another context (512, not 128)")],
)  # fmt: skip
def test_what_cannot_be_compared_with_an_earlier_sweep(change: dict[str, object], reason: str) -> None:
    now = Swept("m", "", (base(), row("plain", "Q4_0", 0.03)))
    before = replace(now, rows=tuple(replace(r, **change) for r in now.rows))  # type: ignore[arg-type]  # of its fields
    found = regressions.against([now], [before])
    assert found.apart == {reason: 1}
    assert found.sentence.startswith(
        f"No file can be compared with the earlier sweep; 1 file not comparable: {reason}"
    )


def test_a_commit_that_is_written_shorter_is_the_same() -> None:
    now = Swept("m", "", (base(), row("plain", "Q4_0", 0.03)))
    before = replace(now, rows=tuple(replace(r, llama_cpp_commit=COMMIT[:12]) for r in now.rows))
    assert not regressions.against([now], [before]).apart


def test_another_base_is_another_question() -> None:
    now = Swept("m", "", (base(), row("plain", "Q4_0", 0.03)))
    before = replace(now, rows=(replace(base(), sha256="00"), now.rows[1]))
    assert regressions.against([now], [before]).apart == {"another base": 1}


def test_foreign_names_do_not_act_on_the_page() -> None:
    evil = "<script>alert(1)</script>\u202e"
    cells = [fake_sweep.cell(evil), replace(fake_sweep.cell("b"), profile=evil)]
    odd = replace(
        cells[0],
        rows=tuple(replace(r, file=evil, type=evil if r.type == "Q2_K" else r.type) for r in cells[0].rows),
    )
    found = regressions.against([odd], [replace(odd, rows=tuple(replace(r, kld_mean=9.0) for r in odd.rows))])
    page = sweep_page.render(evil, [odd, cells[1]], found, [evil])
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
