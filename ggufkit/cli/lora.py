"""The command for adapters: lora."""

from __future__ import annotations

import click

from ggufkit.cli import completion, parameter_types, request_options
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import emit_path, reporting
from ggufkit.commands import lora
from ggufkit.commands.lora import Wanted
from ggufkit.request import RunOptions
from ggufkit.steps.lora import OUT_TYPES, LoraOptions


@click.command("lora")
@grouped(
    "wanted",
    lambda given: Wanted(**given),
    click.argument("adapter", type=parameter_types.DIRECTORY),
    click.option("--base", required=True, metavar="MODEL", shell_complete=completion.models,
                 help="The checkpoint that it was trained on."),
    click.option("--out", type=parameter_types.PATH, help="Output directory.  [default: beside ADAPTER]"),
)  # fmt: skip
@grouped(
    "how",
    lambda given: LoraOptions(given.pop("outtype"), **given),
    click.option("--outtype", type=click.Choice(OUT_TYPES), default=LoraOptions.out_type,
                 show_default=True, help="Type of its matrices."),
    click.option("--check-function/--no-check-function", default=None,
                 help="Compare the logits with peft's.  [default: below 1 B parameters]"),
    click.option("--force-toolchain", is_flag=True, help="Use a converter of another commit than the tools."),
)  # fmt: skip
@request_options.cpu_options
def lora_command(wanted: Wanted, how: LoraOptions, run: RunOptions) -> None:
    """Convert the LoRA adapter in ADAPTER, a directory of peft's, to a GGUF adapter.

    It goes with any GGUF of the model: `serve --lora`, `chat --lora`, an Ollama Modelfile's ADAPTER. What such a file cannot
    hold (DoRA, whole weights, new tokens) is refused: `convert MODEL --lora ADAPTER` merges it.

    \b
    Example:
        ggufkit lora ./my-adapter --base ./Qwen2.5-0.5B
    """
    with reporting() as reporter:
        made = lora.lora(wanted, how, run, reporter)
        reporter.info(lora.summary(made))
    emit_path(made.path)
