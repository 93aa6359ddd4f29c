"""How `benchmarks/peers.py` makes files, counts what they took, and shows what they lose."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest

from benchmarks.peer_steps import OURS, VARIANTS, Inputs, iterations, last_step, order, steps_of
from benchmarks.peer_table import Row, markdown, to_csv, verdict

_TYPES = ("Q4_K_M", "Q4_0")
_INPUTS = Inputs(
    "model", "text.txt", 64, _TYPES, "cuda", "cpu", ("ggufkit",), ("python", "driver.py", "tokens.npy")
)
_ROWS = (
    Row("Q4_0", "imatrix", 100, 20.0, 30.0, 200.0, 0.2, 0.002, 0.8),
    Row("Q4_0", "gptq", 100, 90.0, 150.0, 900.0, 0.1, 0.001, 0.85),
    Row("Q4_0", "awq+gptq", 100, 130.0, 200.0, 950.0, 0.06, 0.001, 0.86),
    Row("Q4_0", "auto-round-50", 99, 100.0, 120.0, 1900.0, 0.12, 0.001, 0.83),
    Row("Q4_0", "auto-round-200", 99, 400.0, 420.0, 1900.0, 0.15, 0.001, 0.82),
    Row("Q4_K_M", "imatrix", 110, 20.0, 30.0, 200.0),
)


@pytest.mark.parametrize("method", OURS)
def test_every_step_that_a_file_takes_comes_once_and_after_what_it_reads(method: str) -> None:
    steps = steps_of(_INPUTS, OURS)
    names = order(steps, last_step(method, "Q4_0"))
    assert len(names) == len(set(names))
    assert names[-1] == last_step(method, "Q4_0")
    for i, name in enumerate(names):
        assert set(steps[name].reads) <= set(names[:i])


def test_refinement_after_awq_is_of_the_scaled_checkpoint_with_its_own_matrix() -> None:
    steps = steps_of(_INPUTS, OURS)
    names = order(steps, "awq+gptq-Q4_0")
    assert names == [
        "awq+imatrix:checkpoint", "awq+imatrix:convert", "awq+imatrix:matrix", "awq+imatrix-Q4_0", "awq+gptq-Q4_0",
    ]  # fmt: skip
    assert "--for-imatrix" in steps["awq+imatrix:checkpoint"].argv
    assert "Q4_K_M,Q4_0" in steps["awq+imatrix:checkpoint"].argv  # one search for all types
    assert order(steps, "plain-Q4_0") == ["convert", "plain-Q4_0"]
    assert order(steps, "awq-Q4_0") == ["awq:checkpoint", "awq:convert", "awq-Q4_0"]


def test_what_a_refinement_is_asked_for_follows_from_its_name() -> None:
    steps = steps_of(_INPUTS, OURS)
    options = {"--include-output", "--tune-norms"}
    given = {method: options & set(steps[last_step(method, "Q4_0")].argv) for method in OURS}
    assert given["gptq+output"] == given["awq+gptq+output"] == {"--include-output"}
    assert given["gptq+output+norms"] == options
    assert not any(given[method] for method in VARIANTS)


def test_a_command_has_the_paths_of_what_it_reads() -> None:
    step = steps_of(_INPUTS, OURS)["gptq-Q4_K_M"]
    products = {name: Path(f"/out/{name}.gguf") for name in step.reads}
    command = step.command({**products, "here": Path("/out/there")})
    assert command[:4] == ("ggufkit", "refine", "/out/imatrix-Q4_K_M.gguf", "--base")
    assert command[-1] == "/out/there/refined.gguf"
    assert not any("{" in word for word in command)


def test_the_peer_is_told_type_and_iterations() -> None:
    step = steps_of(_INPUTS, ["auto-round-50"])["auto-round-50-Q4_0"]
    assert step.reads == ()
    assert step.command({"here": Path("/o")}) == ("python", "driver.py", "tokens.npy", "/o", "Q4_0", "50")


@pytest.mark.parametrize("method", ["auto-round-", "auto-round", "auto-round-x", "awg"])
def test_an_unknown_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="no method"):
        iterations(method)


def test_rows_are_kept_as_csv_empty_where_nothing_is_known() -> None:
    read = list(csv.DictReader(StringIO(to_csv(_ROWS))))
    assert [row["method"] for row in read] == [row.method for row in _ROWS]
    assert float(read[0]["kld"]) == _ROWS[0].kld
    assert read[-1]["kld"] == ""


def test_ratios_are_of_one_type_and_of_the_peers_best() -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(_ROWS).splitlines()]
    by_method = {(cells[0], cells[1]): cells for cells in lines[2:]}
    assert by_method["Q4_0", "gptq"][4:6] == ["0.500", "0.833"]
    assert by_method["Q4_0", "auto-round-200"][5] == "1.250"
    assert by_method["Q4_K_M", "imatrix"][3:7] == ["", "", "", ""]


def test_the_verdict_compares_with_the_peer_and_within_its_time() -> None:
    said = verdict(_ROWS).splitlines()
    assert said[0].startswith("Q4_0: awq+gptq has 0.500 of auto-round-50's divergence in 1.30 of its time")
    assert "gptq, the best in at most its time, 0.833" in said[0]
    assert "awq+gptq has 0.300 of imatrix's; awq+gptq has 0.600 of gptq's" in said[0]
    assert said[1] == "Q4_K_M: nothing to compare."


def test_files_of_other_sizes_are_not_compared_unsaid() -> None:
    larger = (*_ROWS[:3], Row("Q4_0", "auto-round-50", 109, 100.0, 120.0, 1900.0, 0.05, 0.001, 0.83))
    assert "auto-round-50's file has +9.0% bytes, so this compares no methods" in verdict(larger)
    assert "bytes" not in verdict(_ROWS)
