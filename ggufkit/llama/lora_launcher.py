"""Run the toolchain's unmodified converter of adapters in a process of its own; `launcher` tells what it says there."""

from __future__ import annotations

import argparse
import runpy
import sys
from functools import partial
from pathlib import Path

from ggufkit.core.errors import GgufkitError, UnsupportedArchitecture
from ggufkit.core.imports import uncollected
from ggufkit.llama import launcher


def main(argv: list[str]) -> int:
    """Convert; a failure that ggufkit can explain is printed as one marked JSON line, and exits with 1."""
    args = _parse(argv)
    try:
        sys.path[:0] = [str(args.script.parent), str(args.script.parent / "gguf-py")]
        launcher.explaining(args.base, partial(_run, args))
    except GgufkitError as error:
        launcher.tell(error)
        return 1
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ggufkit.llama.lora_launcher")
    parser.add_argument("script", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--outfile", type=Path, required=True)
    parser.add_argument("--outtype", required=True)
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> None:
    with uncollected():
        launcher.refuse_own_code(args.base)
        options = [f"--base={args.base.absolute()}", f"--outfile={args.outfile}", "--outtype", args.outtype]
        sys.argv = [str(args.script), *options, "--", str(args.adapter.absolute())]
        try:
            runpy.run_path(str(args.script), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                message = f"llama.cpp's converter of adapters refuses that of {args.base}."
                hint = "The log tells why; merge the adapter into its base instead: ggufkit convert BASE --lora ADAPTER."
                raise UnsupportedArchitecture(message, hint=hint) from None


if __name__ == "__main__":
    launcher.end(main(sys.argv[1:]))
