"""`--fits`: the size of the file that is made for a memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core import variants
from ggufkit.core.errors import UsageError
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import QuantType, Toolchain
from ggufkit.llama.gguf import GgufHeader, read_gguf, read_header
from ggufkit.pipeline import fitting
from ggufkit.pipeline.job import Job
from ggufkit.report.data import footprint
from ggufkit.request import BuildRequest, ReportOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from tests.fake_results import FAKES, write_results

KNOWN = (QuantType("Q4_0", "4.34G"),)


@pytest.fixture
def base(tmp_path: Path, private_cache: Path) -> Path:
    """A GGUF with the shape of a model."""
    return write_results(tmp_path / "results", FAKES[:1]) / "tiny-F16.gguf"


def fitted(base: Path, header: GgufHeader, **budget: Any) -> Job:
    request = BuildRequest(base, base.parent, ("q4_0",), **budget)
    session = Session(Toolchain(Path("bin"), "built", "c", "cpu", "1"), Workspace(base.parent), SilentReporter())
    return fitting.add(Job(request, read_gguf(base), "tiny", KNOWN, KNOWN, (), None, None, session), header)


def test_what_cache_and_buffers_leave_is_a_type(base: Path) -> None:
    header = read_header(base)
    beside = footprint(header).kv(100) + footprint(header).compute(100)
    job = fitted(base, header, fits=beside + 299_999, fits_ctx=100)
    assert job.types[0] == KNOWN[0]
    assert [kind.name for kind in job.types[1:]] == ["292.9KiB"]
    target = job.types[1].target
    assert target is not None
    assert 0.999 * 299_999 < target.number <= 299_999


def test_where_only_some_pairs_are_made_it_is_made_too(base: Path) -> None:
    header = read_header(base)
    beside = footprint(header).kv(100) + footprint(header).compute(100)
    job = replace(fitted(base, header), variants=variants.resolve(("plain",)), only=frozenset({("plain", "Q4_0")}))
    asked = replace(job.request, report=ReportOptions(beside + 299_999, 100))
    job = fitting.add(replace(job, request=asked), header)
    assert job.only == frozenset({("plain", "Q4_0"), ("plain", "292.9KiB")})


def test_sizes_are_rounded_down_to_few_digits(base: Path) -> None:
    large = replace(read_header(base), size_bytes=1 << 40)
    beside = footprint(large).kv(100) + footprint(large).compute(100)
    names = [
        fitted(base, large, fits=beside + n_bytes, fits_ctx=100).types[1].name
        for n_bytes in (5_662_310_400, 5_000_000_000, 777_777_777, 1_048_575)
    ]
    assert names == ["5.273GiB", "4.656GiB", "741.7MiB", "1023KiB"]


def test_where_all_fits_or_nothing_is_asked_no_type_is_added(base: Path) -> None:
    header = read_header(base)
    assert fitted(base, header).types == KNOWN
    job = fitted(base, header, fits=1 << 34)
    assert job.types == KNOWN
    encoder = replace(header, metadata={**header.metadata, "general.architecture": "bert"}, size_bytes=1 << 40)
    assert fitted(base, encoder, fits=1 << 34).types == KNOWN


def test_a_memory_that_cache_and_buffers_fill_is_refused(base: Path) -> None:
    with pytest.raises(UsageError, match="leave nothing of 1 MiB") as caught:
        fitted(base, read_header(base), fits=1 << 20)
    assert "--fits-ctx" in str(caught.value.hint)
