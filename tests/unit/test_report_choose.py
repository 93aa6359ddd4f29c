"""Pareto front, memory, and the sentence that answers «which one should I take?»."""

from __future__ import annotations

from ggufkit.core.records import ResultRow
from ggufkit.report.choose import GIB, MIB, MemoryBudget, answer, best_within, pareto
from ggufkit.report.data import Entry, Extent, Footprint


def entry(kind: str, size: int, kld: float | None, ppl: float | None = 30.0, base: bool = False) -> Entry:
    row = ResultRow(
        "m", "plain", kind, f"m-{kind}.gguf", size, 1000, size * 8 / 1000, ppl=ppl, kld_mean=kld,
        ppl_base=ppl if base or kld is not None else None, same_top_p=None if kld is None else 0.9,
    )  # fmt: skip
    return Entry(row, None, None, Extent(), {}, {}, Footprint(size, 1000, 5 * MIB, 2048))


FILES = [
    entry("F16", 900 * MIB, None, base=True),
    entry("Q8_0", 500 * MIB, 0.0004),
    entry("Q5_1", 400 * MIB, 0.009),
    entry("Q5_K_M", 350 * MIB, 0.006),
    entry("Q4_K_M", 300 * MIB, 0.02),
]


def test_the_front_leaves_out_what_another_beats() -> None:
    assert [e.row.type for e in pareto(FILES)] == ["Q4_K_M", "Q5_K_M", "Q8_0", "F16"]


def test_the_best_that_fits_counts_cache_and_buffers() -> None:
    assert best_within(FILES, MemoryBudget(500 * MIB, 1)).row.type == "Q5_K_M"  # type: ignore[union-attr]
    assert best_within(FILES, MemoryBudget(506 * MIB, 1)).row.type == "Q8_0"  # type: ignore[union-attr]
    assert best_within(FILES, MemoryBudget(506 * MIB, 8192)).row.type == "Q5_K_M"  # type: ignore[union-attr]
    assert best_within(FILES, MemoryBudget(2 * GIB, 1)).row.type == "F16"  # type: ignore[union-attr]
    assert best_within(FILES, MemoryBudget(1, 1)) is None


def test_the_answer_names_the_file_and_where_the_memory_goes() -> None:
    said = answer(FILES, MemoryBudget(GIB // 2, 4096))
    assert said.startswith("With 512 MiB of memory, take m-Q5_K_M.gguf (KLD 0.006, same top token 90.0%).")
    assert "350 MiB of weights" in said
    assert "the smallest file needs 317 MiB" in answer(FILES, MemoryBudget(100 * MIB))


def test_without_a_budget_there_is_a_ladder() -> None:
    said = answer(FILES, MemoryBudget())
    assert said.index("F16") < said.index("Q8_0") < said.index("Q5_K_M") < said.index("Q4_K_M")
    assert "Q5_1" not in said


def test_without_kld_perplexity_decides_and_without_that_size() -> None:
    by_ppl = [entry("Q8_0", 50, None, 30.5), entry("Q5_0", 40, None, 30.2)]
    assert best_within(by_ppl, MemoryBudget()).row.type == "Q5_0"  # type: ignore[union-attr]
    unmeasured = [entry("Q8_0", 50, None, None), entry("Q5_0", 40, None, None)]
    assert best_within(unmeasured, MemoryBudget()).row.type == "Q8_0"  # type: ignore[union-attr]
    assert pareto(unmeasured) == []
    assert "Q8_0" in answer(unmeasured, MemoryBudget())
