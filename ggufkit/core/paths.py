"""Where ggufkit keeps things: the cache outside every project, and the private directory inside an output directory."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The cache: `GGUFKIT_CACHE`, or the platform's user cache."""
    configured = os.environ.get("GGUFKIT_CACHE")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("ggufkit"))
