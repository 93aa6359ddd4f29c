"""Tables and plots for people: `report.md` and `report.html`, beside `results.csv` and `results.json`.

What was measured becomes rows (`results`) and entries (`data`, `lineage`, `commands`), of which a `summary` says what a
report says (`recommend`, `verdict`, `compare`, `anchors`, `recipes`, `reproduce`), to be laid out (`markdown`, `html`,
`maps`, `plots`, `card`).
"""

from ggufkit.report.choose import MemoryBudget
from ggufkit.report.files import FILES, is_current, load, refresh, require_writable, summary_of, write

__all__ = ["FILES", "MemoryBudget", "is_current", "load", "refresh", "require_writable", "summary_of", "write"]
