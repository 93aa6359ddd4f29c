"""Command lines of llama.cpp's tools."""

from __future__ import annotations

from pathlib import Path

from ggufkit.core.records import Toolchain
from ggufkit.llama import argv
from ggufkit.llama.argv import Compute, EarlierRun, Excerpt, Overrides, Quantization

TOOLS = Toolchain(Path("/t"), "built", "abc", "cpu", "1")
BASE, TO = Path("/m/base.gguf"), Path("/m/to.gguf")


def test_a_quantization_and_its_dry_run_say_the_same() -> None:
    plain = Quantization(BASE, "Q4_0")
    assert argv.quantize(TOOLS, plain, TO, 2) == ["/t/llama-quantize", "/m/base.gguf", "/m/to.gguf", "Q4_0", "2"]
    weighed = Quantization(BASE, "IQ2_XS", Path("/m/x.imatrix"), allow_requantize=True)
    how = ["--imatrix", "/m/x.imatrix", "--allow-requantize"]
    assert argv.quantize(TOOLS, weighed, TO, 2)[1:4] == how
    assert argv.quantize_plan(TOOLS, weighed) == ["/t/llama-quantize", "--dry-run", *how, "/m/base.gguf", "IQ2_XS"]


def test_overrides_in_the_order_in_which_they_count() -> None:
    pairs, kv = (("^a$", "Q4_K"), ("b", "F16")), ("k=int:1",)
    every = Overrides(pairs, "Q8_0", "IQ4_NL", leave_output=True, pure=True, kv=kv, prune_layers=(1, 2))
    words = "--tensor-type ^a$=q4_k --tensor-type b=f16 --output-tensor-type q8_0 --token-embedding-type iq4_nl"
    words += " --leave-output-tensor --pure --override-kv k=int:1 --prune-layers 1,2"
    assert Quantization(BASE, "Q4_0", overrides=every).options() == words.split()


def test_an_importance_matrix_goes_on_from_an_earlier_run() -> None:
    excerpt, compute = Excerpt(Path("text.txt"), 512, 8), Compute(threads=2)
    first = argv.imatrix(TOOLS, BASE, TO, excerpt, compute)
    later = argv.imatrix(TOOLS, BASE, TO, excerpt, compute, EarlierRun(4, Path("/m/a,b.sums")))
    assert later == [*first, "--chunk", "4", "--in-file", '"/m/a,b.sums"']
