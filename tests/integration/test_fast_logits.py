"""The rewritten loops of GPU builds: the same values as llama-perplexity's own, several times as fast."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ggufkit.core import process
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import build, toolchain
from ggufkit.llama.programs import find_program

CMAKE = Path(build.__file__).parent / "cmake"
_HEAD = """
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>
"""
_MAIN = """
static double since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int main() {
    const int n_vocab = 40001, n_rows = 60;
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> base(n_vocab), file(n_vocab);
    std::vector<uint16_t> log_probs(n_vocab + 5);
    kl_divergence_result result;
    double nll = 0, stored = 0, perplexity_s = 0, base_s = 0, divergence_s = 0;
    for (int row = 0; row < n_rows; ++row) {
        for (int i = 0; i < n_vocab; ++i) {
            base[i] = normal(random);
            file[i] = base[i] + 0.1f*normal(random);
        }
        if (row == 1) { std::fill(file.begin(), file.end(), 2.0f); }                        // the first of equals
        if (row == 2) { file[n_vocab - 1] = base[n_vocab - 1] = 40; }                       // the last one of all
        if (row == 3) { file[5] = -std::numeric_limits<float>::infinity(); base[5] = -90; } // an impossible token
        if (row == 4) { std::fill(base.begin(), base.end(), -1.0f); }                       // no scale
        auto begin = std::chrono::steady_clock::now();
        log_softmax(n_vocab, base.data(), log_probs.data(), row);
        base_s += since(begin);
        stored += log_probs[4 + row] + log_probs[n_vocab + 3];
        begin = std::chrono::steady_clock::now();
        log_softmax(n_vocab, file.data(), log_probs.data(), row, result);
        divergence_s += since(begin);
        begin = std::chrono::steady_clock::now();
        nll -= log_softmax(n_vocab, file.data(), row).log_softmax;
        perplexity_s += since(begin);
    }
    file[70] = std::numeric_limits<float>::quiet_NaN();
    kl_divergence_result broken;
    log_softmax(n_vocab, file.data(), log_probs.data(), 1, broken);
    const bool hidden = broken.sum_kld == broken.sum_kld || !std::isnan(log_softmax(n_vocab, file.data(), 1).log_softmax);
    printf("{\\"kld\\": %.17g, \\"nll\\": %.17g, \\"nll_base\\": %.17g, \\"same_top\\": %zu, \\"nll_alone\\": %.17g, "
        "\\"stored\\": %.17g, \\"hides_nan\\": %d, \\"seconds\\": [%g, %g, %g]}\\n", result.sum_kld/n_rows,
        result.sum_nll/n_rows, result.sum_nll_base/n_rows, result.n_same_top, nll/n_rows, stored/n_rows, int(hidden),
        perplexity_s, base_s, divergence_s);
}
"""


@dataclass(frozen=True)
class Found:
    """What the sums over all rows are, and how long perplexity, the base pass and the divergence took."""

    kld: float
    nll: float
    nll_base: float
    same_top: int
    nll_alone: float
    stored: float
    hides_nan: int
    seconds: list[float]


@pytest.fixture(scope="module")
def source(tools: Toolchain) -> Path:
    """llama-perplexity's source at the pinned commit."""
    compiler = find_program("g++")
    if compiler is None or not process.run([compiler, "-dumpmachine"]).stdout.startswith("x86_64"):
        pytest.skip("the rewritten loops are for GCC on x86-64")
    return toolchain.converter_source(tools, SilentReporter()) / "tools" / "perplexity" / "perplexity.cpp"


def rewritten(source: Path, to: Path) -> process.ToolOutput:
    """Run the script that GPU builds run."""
    script = CMAKE / "fast_logits.cmake"
    return process.run(
        [str(find_program("cmake")), f"-DSOURCE={source}", f"-DTO={to}", "-P", str(script)],
    )


def flags() -> list[str]:
    """The compiler options that GPU builds are given."""
    found = re.search(r"set\(GGUFKIT_FAST_FLAGS\s+([^)]+)\)", (CMAKE / "tools.cmake").read_text())
    assert found is not None
    return found[1].split()


def sums(source: Path, work: Path, flags: Sequence[str] = ()) -> Found:
    """Compile the functions that sum over the logits, out of a source, and run them on made-up logits."""
    text = source.read_text(encoding="utf-8")
    functions = text[
        text.index("struct results_log_softmax") : text.index("static void process_logits(int n_vocab")
    ]
    while "static void process_logits(" in functions:
        start = functions.index("static void process_logits(")
        functions = functions[:start] + functions[functions.index("\n}\n", start) + 3 :]
    include = text[: text.index("\n")] if "fast_sums" in text.partition("\n")[0] else ""
    work.mkdir()
    program = work / "sums.cpp"
    threads = "#include <mutex>\n#include <thread>\n#include <ostream>\n"
    program.write_text(f"{_HEAD}{threads}{include}\n{functions}{_MAIN}", encoding="utf-8")
    compiled = process.run(["g++", "-O3", *flags, str(program), "-o", str(work / "sums")])
    assert compiled.returncode == 0, compiled.text
    return Found(**json.loads(process.run([str(work / "sums")]).stdout))


@pytest.mark.alone
def test_the_rewritten_loops_give_the_same_values_faster(source: Path, tmp_path: Path) -> None:
    assert rewritten(source, tmp_path / "perplexity.cpp").returncode == 0
    own = sums(source, tmp_path / "own")
    fast = sums(tmp_path / "perplexity.cpp", tmp_path / "fast", flags())
    assert fast.same_top == own.same_top
    assert fast.nll == pytest.approx(own.nll, rel=1e-7)
    assert fast.nll_base == pytest.approx(own.nll_base, rel=1e-7)
    assert fast.nll_alone == pytest.approx(own.nll_alone, rel=1e-7)
    assert fast.stored == pytest.approx(own.stored, rel=1e-4)
    assert fast.kld == pytest.approx(own.kld, rel=1e-5)
    assert not fast.hides_nan, "a GPU that computes NaN is found out"
    assert all(theirs > 2 * ours for theirs, ours in zip(own.seconds, fast.seconds, strict=True))


def test_another_llama_cpp_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cpp"
    shutil.copyfile(source, other)
    other.write_text(other.read_text().replace("if (logits[i] > max_logit) {", "if (max_logit < logits[i]) {"))
    done = rewritten(other, tmp_path / "perplexity.cpp")
    assert done.returncode != 0
    assert not (tmp_path / "perplexity.cpp").exists()
