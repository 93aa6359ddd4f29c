"""What is said of files that are larger than their names promise."""

from __future__ import annotations

from dataclasses import replace

from ggufkit.core.progress import grouped
from ggufkit.core.records import ResultRow
from ggufkit.pipeline import oversized
from ggufkit.pipeline.resources import PlannedFile, Smaller

SMALLER = Smaller("IQ4_XS", 6.92)
FILE = PlannedFile("m-Q4_K_M.gguf", "plain", "Q4_K_M", 1, 7.3, 4.9, 36, {}, 1, smaller=SMALLER, is_warned_of=True)
FILES = [
    replace(FILE, type="Q8_0", is_warned_of=False), FILE, replace(FILE, variant="imatrix"),
    replace(FILE, type="Q4_0", smaller=None, bpw=6.94, nominal_bpw=4.64),
]  # fmt: skip


def row(variant: str, kind: str, kld: float) -> ResultRow:
    return ResultRow("m", variant, kind, f"m-{variant}-{kind}.gguf", 1, 1, 7.0, kld_mean=kld)


def test_each_type_once_in_one_warning() -> None:
    (warning,) = grouped(oversized.warnings(FILES, []))
    assert warning.startswith("Larger than their names promise, as widths")
    assert warning.endswith(
        "blocks: Q4_K_M promises 4.90 bits/weight, has 7.30 (IQ4_XS has 6.92); "
        "Q4_0 promises 4.64 bits/weight, has 6.94 (nothing nearby is smaller)."
    )


def test_what_the_smaller_type_loses_where_both_were_measured() -> None:
    rows = [row("imatrix", "Q4_K_M", 0.0041), row("imatrix", "IQ4_XS", 0.00931)]
    said, *_ = oversized.remarks(FILES, rows)
    assert said == "Q4_K_M promises 4.90 bits/weight, has 7.30 (IQ4_XS has 6.92 at KLD 0.00931, not 0.0041)"
    of_another_variant = [replace(rows[0], variant="awq"), rows[1]]
    assert "KLD" not in oversized.remarks(FILES, of_another_variant)[0]
