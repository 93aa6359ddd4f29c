"""A sweep on hosts that share nothing, whose workers and scheduler are killed."""

from __future__ import annotations

import pytest

from benchmarks import hosts, sweep_hosts
from benchmarks.sweep_hosts import Asked
from ggufkit.core.records import Toolchain


@pytest.mark.alone
def test_nothing_is_lost_when_hosts_die(tools: Toolchain) -> None:
    pytest.importorskip("distributed")
    if (reason := hosts.missing()) is not None:
        pytest.skip(f"no hosts can be made here: {reason}")
    asked = Asked(models=1, types=("q8_0",), variants=("imatrix",), kills=1, scheduler_kills=1)
    found = sweep_hosts.run(asked, calm=False)["killed"]
    assert found.is_right, found
    assert found.jobs
