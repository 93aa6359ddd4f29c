"""A build with a method of one's own, beside ggufkit's: `python build_own_method.py [MODEL] [OUT]`.

The package of the method has to be installed: `python -m pip install ./own_method`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ggufkit
from ggufkit import demo


def main(model: str, out: str) -> None:
    """Make and measure three variants of two types, and print what they lose."""
    result = ggufkit.build(
        model,
        types="q4_k_m,q8_0",
        variants="plain,fewer_bits,smaller_norms",
        variant_option="fewer_bits.bits=4",
        metrics="weight_sqnr",
        corpus=demo.evaluation_text(),
        chunks=4,
        bench=False,
        out=out,
    )
    print(result.df[["type", "variant", "kld_mean", "weight_sqnr"]].to_string(index=False))
    print(f"The report: {result.out / 'report.html'}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else str(demo.checkpoint()), given[1] if len(given) > 1 else str(Path("own-method")))
