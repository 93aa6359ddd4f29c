"""Reference models and texts beside the checkout; tests that need them skip where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
LLAMA = SHARED / "models" / "llama-22m"
QWEN2 = SHARED / "models" / "qwen2-26m"
WIKI_TEST = SHARED / "data" / "wikitext-2-raw" / "wiki.test.raw"
CALIBRATION = SHARED / "data" / "calibration-en.txt"
OTHER_DOMAIN = SHARED / "data" / "calibration-other-domain.txt"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared reference models are not beside the checkout"
)
