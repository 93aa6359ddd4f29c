"""A reporter that keeps what it is told."""

from __future__ import annotations

from ggufkit.core.progress import SilentReporter


class Listener(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def info(self, text: str) -> None:
        self.said.append(text)
