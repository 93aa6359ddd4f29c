"""Imports torch with OpenMP threads that sleep while they wait: spinning ones halve the speed of a busy machine.

The runtime reads the setting when it is loaded. Tools that are started later must not inherit it: llama.cpp's
own threads are to spin.
"""

import os

_unset = "OMP_WAIT_POLICY" not in os.environ
if _unset:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
import torch as torch  # noqa: E402, PLC0414 - after the setting that it reads; for others to import from here

if _unset:
    del os.environ["OMP_WAIT_POLICY"]
