"""The embedded demo model: a small trained Llama checkpoint, and text to measure and to calibrate it with.

All of it is made by `scripts/train_demo.py`, on text that `scripts/demo_text.py` writes.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def checkpoint() -> Path:
    """The Hugging Face checkpoint directory: bf16, one shard, byte-level BPE, a ChatML template."""
    return _HERE / "tales-2m"


def evaluation_text() -> Path:
    """UTF-8 text that the model was not trained on, more than 40 chunks of 512 tokens."""
    return _HERE / "evaluation.txt"


def calibration_text() -> Path:
    """UTF-8 text of the same kind, used neither in training nor in `evaluation_text()`."""
    return _HERE / "calibration.txt"
