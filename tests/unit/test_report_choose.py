"""Pareto front, memory, and the sentence that answers «which one should I take?»."""

from __future__ import annotations

from ggufkit.core.records import ResultRow
from ggufkit.report.choose import GIB, MIB, MemoryBudget
from ggufkit.report.data import Entry, Extent, Footprint
from ggufkit.report.recommend import advise, pareto


def entry(kind: str, size: int, kld: float | None, ppl: float | None = 30.0, base: bool = False) -> Entry:
    row = ResultRow(
        "m", "plain", kind, f"m-{kind}.gguf", size, 1000, size * 8 / 1000, ppl=ppl, kld_mean=kld,
        ppl_base=ppl if base or kld is not None else None, same_top_p=None if kld is None else 1 - 0.63 * kld**0.5,
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


def pick(files: list[Entry], budget: MemoryBudget | None = None) -> str | None:
    """The type of the file to take."""
    found = advise(files, budget).pick
    return None if found is None else found.entry.row.type


def test_the_best_that_fits_counts_cache_and_buffers() -> None:
    assert pick(FILES, MemoryBudget(500 * MIB, 1)) == "Q5_K_M"
    assert pick(FILES, MemoryBudget(506 * MIB, 1)) == "Q8_0"
    assert pick(FILES, MemoryBudget(506 * MIB, 8192)) == "Q5_K_M"
    assert pick(FILES, MemoryBudget(1, 1)) is None


def test_the_base_is_for_where_no_file_that_fits_is_nearly_lossless() -> None:
    assert pick(FILES, MemoryBudget(2 * GIB, 1)) == "Q8_0"
    assert pick([FILES[0], FILES[-1]], MemoryBudget(2 * GIB, 1)) == "F16"
    assert pick([FILES[0], FILES[-1]], MemoryBudget(GIB // 2, 1)) == "Q4_K_M"


def test_the_answer_names_the_file_and_what_it_takes() -> None:
    said = advise(FILES, MemoryBudget(GIB // 2, 4096)).answer
    assert said == (
        "With 512 MiB of memory, take m-Q5_K_M.gguf: the best that fits, hard to tell from the base (350 MiB, 367 MiB of "
        "memory at 4,096 tokens, KLD 0.006, same top token 95.1%)."
    )
    assert "the smallest file needs 317 MiB" in advise(FILES, MemoryBudget(100 * MIB)).answer


def test_without_a_budget_there_is_a_ladder() -> None:
    found = advise(FILES)
    assert [r.entry.row.type for r in found.ladder] == ["Q4_K_M", "Q5_K_M", "F16"]
    assert [r.name for r in found.ladder] == ["balanced", "nearly lossless", "the base"]
    assert [r.is_pick for r in found.ladder] == [True, False, False]
    assert found.answer.startswith("Take m-Q4_K_M.gguf: the best balance of size and loss, good for most uses (")


def test_without_kld_perplexity_decides_and_without_that_size() -> None:
    by_ppl = [entry("Q8_0", 50, None, 30.5), entry("Q5_0", 40, None, 30.2)]
    assert pick(by_ppl, MemoryBudget(GIB)) == pick(by_ppl) == "Q5_0"
    unmeasured = [entry("Q8_0", 50, None, None), entry("Q5_0", 40, None, None)]
    assert pick(unmeasured, MemoryBudget(GIB)) == pick(unmeasured) == "Q8_0"
    assert pareto(unmeasured) == []
