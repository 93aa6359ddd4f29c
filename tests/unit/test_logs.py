"""What the tools print -> records: recorded logs with the values that they show."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from ggufkit.core import failures
from ggufkit.core.errors import ToolOutputError
from ggufkit.core.process import ToolOutput
from ggufkit.llama import kld, logs
from ggufkit.llama.progress_lines import ChunkCounter
from tests.shared import SHARED, needs_shared

LOGS = Path(__file__).resolve().parents[1] / "logs"
KLD = (LOGS / "kld-cpu-llama-22m-Q8_0.log").read_text(encoding="utf-8")
PPL = (LOGS / "perplexity-cpu-llama-22m-F16.log").read_text(encoding="utf-8")


def output(stdout: str, stderr: str = "", code: int = 0) -> ToolOutput:
    """A finished run of llama-perplexity on some file."""
    return ToolOutput(("llama-perplexity", "-m", "/dir/some-Q8_0.gguf"), code, stdout, stderr, 1.0)


def test_divergence_has_every_printed_digit() -> None:
    d = kld.parse_divergence(output(KLD))
    shown = {line.split(":")[0].strip(): line for line in KLD.splitlines() if ":" in line}
    assert (d.n_chunks, d.n_ctx, len(d.rows)) == (60, 512, 60)
    for title, value in (("Mean PPL(Q)", d.ppl), ("Mean PPL(base)", d.ppl_base),
                         ("Mean ln(PPL(Q)/PPL(base))", d.ln_ppl_ratio), ("Mean    KLD", d.kld)):  # fmt: skip
        assert f"{value[0]:.6f} ±" in shown[title]
        assert shown[title].endswith(f"{value[1]:.6f}")
    for title, at in (("Maximum KLD", 1.0), ("99.0%   KLD", 0.99), ("Median  KLD", 0.5), ("Minimum KLD", 0.0)):
        assert shown[title].endswith(f"{d.kld_percentiles[at]:.6f}")
    assert f"{100 * d.same_top_p[0]:.3f} ± {100 * d.same_top_p[1]:.3f} %" in shown["Same top p"]
    assert f"{100 * d.rms_dp[0]:.3f} ± {100 * d.rms_dp[1]:.3f} %" in shown["RMS Δp"]


@needs_shared
def test_the_reference_divergence_log() -> None:
    text = (SHARED / "logs" / "cpu-kld-llama-22m-Q4_K_M.log").read_text(encoding="utf-8")
    d = kld.parse_divergence(output(text))
    assert d.kld == (0.020627, 0.000239)
    assert d.same_top_p == pytest.approx((0.90373, 0.00292))
    assert d.kld_percentiles[0.99] == 0.111219


def test_a_tail_lost_after_the_divergence_changes_nothing() -> None:
    """The two statistics that come last are in the last row, too."""
    cut = KLD[: KLD.index("====== Token probability")]
    assert kld.parse_divergence(output(cut)) == kld.parse_divergence(output(KLD))


def test_lost_statistics_are_an_error_and_worth_another_try() -> None:
    cut = KLD[: KLD.index("99.0%   KLD")]
    with pytest.raises(ToolOutputError, match="no KL divergence statistics"):
        kld.parse_divergence(output(cut))
    assert kld.lost_statistics(output(cut))
    assert not kld.lost_statistics(output(cut, code=1))
    assert kld.lost_statistics(output(KLD[: KLD.index("\n  40 ")]))
    assert not kld.lost_statistics(output(KLD))
    said = KLD[: KLD.index("\n  40 ")] + "\nkl_divergence: failed reading log-probs for chunk 39\n"
    assert not kld.lost_statistics(output(said))


def test_a_nan_is_named_by_file_and_chunk() -> None:
    lines = KLD.splitlines(keepends=True)
    row = next(i for i, line in enumerate(lines) if line.startswith("   7 "))
    lines[row] = (
        "   7          nan ±       nan           nan ±        nan           nan ±        nan       nan ±    nan %    90.000 ±  0.700 %\n"  # noqa: E501 - a line of the tool
    )
    with pytest.raises(ToolOutputError, match=r"some-Q8_0\.gguf .*chunk 7"):
        kld.parse_divergence(output("".join(lines)))
    chunks = PPL.replace("[9]", "[9]nan,[99]", 1)
    with pytest.raises(ToolOutputError, match=r"some-Q8_0\.gguf became nan at chunk 9"):
        logs.parse_perplexity(output(chunks))


def test_statistics_that_are_no_numbers_are_not_lost() -> None:
    """A file with NaN in its weights: another try, on a quieter machine, gives no others."""
    start = KLD.index("Mean    KLD:")
    text = KLD[:start] + "Mean    KLD:        nan ±   0.000000\nMaximum KLD:        nan\n"
    rows = "\n".join(line for line in text.splitlines() if not line.startswith("   "))
    assert not kld.lost_statistics(output(rows))
    with pytest.raises(ToolOutputError, match=r"some-Q8_0\.gguf has no finite perplexity"):
        kld.parse_divergence(output(rows))


def test_a_file_equal_to_its_base_has_errors_that_are_no_numbers() -> None:
    text = KLD.replace(
        KLD[KLD.index("Mean ln(PPL(Q)/PPL(base))") : KLD.index("Mean PPL(Q)/PPL(base)")],
        "Mean ln(PPL(Q)/PPL(base))     :  -0.000116 ±       -nan\n",
    )
    with pytest.raises(ToolOutputError):  # the rows say something else
        kld.parse_divergence(output(text))


def test_perplexity_and_where_it_ran() -> None:
    estimate = logs.parse_perplexity(output("", PPL))
    assert f"PPL = {estimate.ppl:.4f} +/- {estimate.stderr:.5f}" in PPL
    assert (estimate.n_chunks, estimate.n_ctx) == (60, 512)
    placement = logs.parse_placement(output("", PPL))
    assert (placement.buffers, placement.layers_on_gpu) == (("CPU_Mapped",), 0)


def test_perplexity_without_an_estimate() -> None:
    cut = PPL[: PPL.index("Final")]
    with pytest.raises(ToolOutputError, match="no final estimate"):
        logs.parse_perplexity(output(cut))
    assert logs.lost_tail(output(cut))
    assert not logs.lost_tail(output(cut.replace("[60]", "[60]nan,[61]", 1)))


@pytest.mark.parametrize("text", [KLD, PPL])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_are_counted_while_text_arrives_in_pieces(text: str, size: int) -> None:
    counter = ChunkCounter()
    for start in range(0, len(text), size):
        counter.feed(text[start : start + size])
    assert (counter.done, counter.total) == (60, 60)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            "llama_model_quantize: failed to quantize: Missing importance matrix for tensor blk.1.attn_k.weight in a very "
            "low-bit quantization\nllama_quantize: failed to quantize model from 'm.gguf'\n",
            "failed to quantize: Missing importance matrix for tensor blk.1.attn_k.weight",
        ),
        (
            "llama_model_quantize: failed to quantize: imatrix contains non-finite value nan\n\n"
            "main: failed to quantize model from 'm.gguf'\n",
            "imatrix contains non-finite value nan",
        ),
        (
            "unable to allocate KV cache\nmain: error: failed to load model 'm.gguf'\n",
            "unable to allocate KV cache",
        ),
        ("main: failed to load model from 'm.gguf'\n", "failed to load model from 'm.gguf'"),
        ("failed to quantize\n", "failed to quantize"),
    ],
)
def test_a_tools_reason_is_the_line_above_its_last(printed: str, reason: str) -> None:
    ended = ToolOutput(("llama-quantize",), 1, "", printed, 1.0)
    assert reason in failures.explain(ended, "quantizing m.gguf").message


def test_a_tensor_that_is_invalid() -> None:
    assert logs.invalid_tensor(
        output("llama_model_quantize: failed to quantize: tensor 'a.weight' has invalid data\n")
    ) == ("a.weight")
    assert logs.invalid_tensor(output("llama_model_quantize: failed to quantize: no\n")) is None


def test_bench_reads_both_tests() -> None:
    text = (LOGS / "bench-cpu.jsonl").read_text(encoding="utf-8")
    pp, tg = logs.parse_bench(output(text))
    assert (pp.n_prompt, pp.n_gen, tg.n_prompt, tg.n_gen) == (16, 0, 0, 4)
    assert pp.tps > tg.tps > 0
    assert pp.n_threads == 1


@pytest.mark.parametrize("text", ["", '{"avg_ts": 1', '{"avg_ts": 0, "n_prompt": 1}\n', '{"n_prompt": null}\n'])
def test_bench_without_speeds(text: str) -> None:
    with pytest.raises(ToolOutputError):
        logs.parse_bench(output(text))


@pytest.mark.parametrize(("key", "value"), [("stddev_ts", "-5.0"), ("n_threads", "9" * 18), ("n_prompt", "-1")])
def test_bench_of_numbers_that_cannot_be(key: str, value: str) -> None:
    text = re.sub(rf'"{key}": [\d.]+', f'"{key}": {value}', (LOGS / "bench-cpu.jsonl").read_text(encoding="utf-8"))
    with pytest.raises(ToolOutputError, match="gave no speeds"):
        logs.parse_bench(output(text))


def test_nothing_but_finite_numbers_is_consistent() -> None:
    d = kld.parse_divergence(output(KLD))
    assert all(math.isfinite(v) for v in (*d.ppl, *d.kld, *d.ln_ppl_ratio, *d.kld_percentiles.values()))


def test_what_a_tool_says_of_its_input() -> None:
    said = "perplexity: you need at least 1024 tokens for a context of 512 tokens"
    assert logs.too_short(said)
    assert not logs.too_short("Final estimate: PPL = 8.0000 +/- 0.10000")
    assert logs.not_loaded("main: error: failed to load model 'x.gguf'")
    assert logs.not_loaded("main: error: failed to create context with model 'x.gguf'")
    assert not logs.not_loaded("llama_model_loader: loaded meta data")


def test_a_fallback_to_f16_is_one_like_others() -> None:
    remark = "warning: a.weight - ncols     80 not divisible by 256 (required for type    q4_K) "
    printed = f"""{remark}(WARNING: must use F16 due to unusual shape) -> falling back to     f16
[   1/   1] a.weight - [    80,     4,     1,     1], type =    f32, size =     0.00 MiB ->     0.00 MiB (f16)
llama_model_quantize_impl: quant size  =     0.00 MiB (16.00 BPW)
llama_model_quantize_impl: WARNING: 1 of 1 tensor(s) required fallback quantization
"""
    assert logs.parse_quantize(output(printed)).fallbacks == (("a.weight", "Q4_K", "F16"),)


def test_what_is_pruned_is_counted_by_the_tool() -> None:
    printed = """[   1/   3] a.weight - [    64,     4,     1,     1], type =    f16, size =    0.000 MiB
llama_model_quantize_impl: quant size  =     0.00 MiB (16.00 BPW)
"""
    assert [t.name for t in logs.parse_quantize(output(printed), n_pruned=2).tensors] == ["a.weight"]
    with pytest.raises(ToolOutputError, match="incomplete"):
        logs.parse_quantize(output(printed))
