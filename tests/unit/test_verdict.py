"""The sentence for each type says what the paired numbers can bear, no more."""

from __future__ import annotations

from ggufkit.core.records import ResultRow
from ggufkit.report.scatter import variant_title
from ggufkit.report.verdict import in_short, verdicts


def row(variant: str, kld: float, stderr: float = 0.0002, kind: str = "Q4_K_M", n_chunks: int = 60) -> ResultRow:
    return ResultRow(
        "m", variant, kind, f"m-{variant}-{kind}.gguf", 1000, 10, 4.8, kld_mean=kld, kld_stderr=stderr,
        n_chunks=n_chunks, n_ctx=512, corpus_sha256="c",
    )  # fmt: skip


def test_one_variant_needs_no_verdict() -> None:
    assert verdicts([row("plain", 0.02)]) == ()


def test_a_gain_outside_the_error() -> None:
    (v,) = verdicts([row("plain", 0.020533), row("imatrix", 0.0190)])
    assert (v.type, v.best) == ("Q4_K_M", "imatrix")
    assert v.sentence == (
        "Q4_K_M: imatrix is best, KLD 0.01900 ± 0.00020, 7.5% below plain's 0.02053 (more than the error)."
    )


def test_a_gain_within_the_error_is_no_gain() -> None:
    (v,) = verdicts([row("plain", 0.0205), row("imatrix", 0.0203)])
    assert v.best == "imatrix"
    assert "no variant stands out" in v.sentence
    assert "within the error" in v.sentence


def test_plain_can_be_best() -> None:
    (v,) = verdicts([row("plain", 0.0200), row("awq", 0.0230)])
    assert v.best == "plain"
    assert v.sentence.startswith("Q4_K_M: plain is best")
    assert "AWQ made it worse (15.0% more)" in v.sentence


def test_awq_within_the_error_did_not_help() -> None:
    (v,) = verdicts([row("plain", 0.0205), row("awq", 0.0204), row("gptq", 0.0120), row("awq+gptq", 0.0119)])
    assert v.best == "awq+gptq"
    assert "AWQ did not help (0.5% less, within the error)" in v.sentence
    assert "AWQ did not help with gptq (0.8% less, within the error)" in v.sentence


def test_awq_that_helps_is_praised() -> None:
    (v,) = verdicts([row("plain", 0.24), row("awq", 0.02)])
    assert v.sentence.endswith("; AWQ helped (91.7% less).")


def test_without_plain_the_best_is_held_against_the_second() -> None:
    (v,) = verdicts([row("imatrix", 0.0190), row("gptq", 0.0120)])
    assert v.best == "gptq"
    assert "below imatrix's" in v.sentence


def test_other_chunks_are_not_compared() -> None:
    assert verdicts([row("plain", 0.02), row("imatrix", 0.01, n_chunks=100)]) == ()


def test_equal_files_without_errors() -> None:
    (v,) = verdicts([row("plain", 0.0, 0.0), row("imatrix", 0.0, 0.0)])
    assert "no variant stands out" in v.sentence


def test_a_treated_variant_is_to_be_taken_where_it_beats_the_plainest() -> None:
    (v,) = verdicts([row("plain", 0.0210), row("imatrix", 0.0206), row("gptq", 0.0203)])
    assert (v.best, v.take) == ("gptq", "gptq")  # below plain; imatrix is not
    assert "gptq is best, KLD 0.02030 ± 0.00020, 3.3% below plain's 0.02100 (more than the error)" in v.sentence
    (tied,) = verdicts([row("plain", 0.0207), row("imatrix", 0.0206), row("gptq", 0.0203)])
    assert tied.take == "plain"
    assert "no variant stands out; gptq is lowest" in tied.sentence


def test_scaled_weights_are_less_plain_than_a_matrix() -> None:
    (v,) = verdicts([row("plain", 0.0210), row("awq", 0.0150), row("imatrix", 0.0151)])
    assert (v.best, v.take) == ("awq", "imatrix")


def test_what_is_lowest_by_chance_is_not_to_be_taken() -> None:
    (v,) = verdicts([row("plain", 0.0205), row("gptq", 0.0120), row("awq+gptq", 0.0119)])
    assert (v.best, v.take) == ("awq+gptq", "gptq")
    assert v.sentence.startswith("Q4_K_M: awq+gptq is lowest, KLD 0.01190 ± 0.00020, 42.0% below plain's")
    assert "; gptq is as good within the error; AWQ did not help with gptq" in v.sentence


def test_all_verdicts_in_three_lines() -> None:
    rows = [row("gptq", 0.0004, kind="Q8_0"), row("plain", 0.0004, kind="Q8_0")]
    for kind, loss in {"Q2_K": 0.2, "Q3_K_S": 0.09, "Q3_K_M": 0.07, "Q3_K_L": 0.06, "Q4_K_M": 0.03}.items():
        rows += [
            row("plain", loss, kind=kind),
            row("awq", 1.1 * loss, kind=kind),
            row("gptq", loss / 2, kind=kind),
        ]
    rows += [
        row("plain", 0.01, kind="Q6_K"),
        row("imatrix", 0.0075, kind="Q6_K"),
        row("gptq", 0.0074, kind="Q6_K"),
    ]
    assert in_short(verdicts(rows)) == (
        "By KL divergence gptq wins for Q2_K, Q3_K_S, Q3_K_M and 2 more (50% below plain); imatrix wins for Q6_K "
        "(25% below plain).",
        "Nothing beats plain for Q8_0 by more than the error.",
        "awq is best nowhere; awq loses more for Q2_K, Q3_K_S, Q3_K_M and 2 more.",
    )
    assert in_short(()) == ()


def test_titles_are_words() -> None:
    assert variant_title("awq+imatrix") == "AWQ + importance matrix"
