"""TABLE of readers and parsers for `benchmarks.fuzz`: valid samples, how they are changed, and how they are read."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.fuzzing.reader import Reader


def readers(home: Path) -> list[Reader]:
    """All of them; what they need is made below `home`, also caches."""
    from benchmarks.fuzzing import asked, checkpoints, ggufs, hubs, results, templates, texts, tools, typed

    os.environ["GGUFKIT_CACHE"] = str(home / "cache")
    plain = [*tools.readers(), *texts.readers(), *templates.readers(), *typed.readers(), *hubs.readers()]
    return [*plain, *ggufs.readers(home), *checkpoints.readers(home), *results.readers(home), *asked.readers(home)]
