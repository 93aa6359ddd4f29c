"""The command for Ollama: modelfile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufkit.cli import parameter_types
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import console, emit, reporting
from ggufkit.commands.places import beside
from ggufkit.core import extras
from ggufkit.core.errors import InputError, ToolchainError
from ggufkit.core.part_names import part_name, whole_of
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.llama import toolchain
from ggufkit.llama.adapter import Adapter, require_kin
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.llama.mmproj import of_model

if TYPE_CHECKING:
    from ggufkit.modelfile.grammar import Modelfile
    from ggufkit.modelfile.proven import ModelfileOptions

_MERGE = "Join them first, with `ggufkit merge`."
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def _wanted(given: dict[str, Any]) -> ModelfileOptions:
    from ggufkit.modelfile.proven import ModelfileOptions

    kind = given["template"]
    return ModelfileOptions(None if kind == "auto" else kind, given["model"], given["system"], given["force"])


modelfile_options = grouped(
    "wanted",
    _wanted,
    click.option("--template", type=click.Choice(["auto", "go", "native"]), default="auto", show_default=True,
                 help="go: a Go template, for every Ollama; native: the GGUF's own, for Ollama 0.30 and later."),
    click.option("--model", type=parameter_types.PATH,
                 help="The original checkpoint: its tokenizer joins the proof."),
    click.option("--system", help="A system message of your own."),
    click.option("--force", is_flag=True,
                 help="Write it even if the template cannot be proven, with a comment that says so."),
)  # fmt: skip


beside_options = grouped(
    "beside",
    lambda given: given,
    click.option("--mmproj", type=parameter_types.FILE,
                 help="What reads images or sound.  [default: mmproj-NAME-*.gguf beside GGUF]"),
    click.option("--no-mmproj", "alone", is_flag=True, help="For text alone."),
    click.option("--lora", type=parameter_types.FILE, help="A GGUF adapter, as `lora` makes it."),
)  # fmt: skip


@click.command("modelfile")
@click.argument("gguf", type=parameter_types.FILE)
@click.option("--out", type=parameter_types.FILE, help="Write FILE instead of printing.")
@modelfile_options
@beside_options
@click.option("--create", metavar="NAME", help="Create the model NAME in Ollama, and check it.")
def modelfile_command(
    gguf: Path, out: Path | None, wanted: ModelfileOptions, beside: dict[str, Any], create: str | None
) -> None:
    """Print an Ollama Modelfile for GGUF whose chat template is proven.

    The prompts of some hundred conversations, rendered by the model's own template and by Ollama's, must be
    identical, and so must their token ids; otherwise the difference is shown and nothing is written.

    \b
    Examples:
        ggufkit modelfile model-Q4_K_M.gguf --out Modelfile
        ggufkit modelfile model-Q4_K_M.gguf --create my-model
    """
    from dataclasses import replace

    from ggufkit.modelfile import grammar
    from ggufkit.modelfile.proven import make_modelfile

    gguf = read_gguf(gguf).path
    projector, lora = of_model(gguf, beside["mmproj"], alone=beside["alone"]), beside["lora"]
    if lora is not None:
        require_kin(Adapter(lora), read_header(gguf))
    if out is not None and out.exists() and out.samefile(gguf):
        raise InputError(f"{out} is the GGUF itself.", hint="Give with --out the Modelfile to write.")
    in_parts = part_name(gguf) is not None
    if in_parts and create is not None:
        raise InputError(f"{gguf} is in parts, which Ollama does not read.", hint=_MERGE)
    if wanted.checkpoint is not None:
        _require_tokenizer(wanted.checkpoint)
    with reporting() as reporter:
        tools = _tools(reporter)
        with reporter.step(f"Proving the chat template of {gguf.name}"):
            made = make_modelfile(gguf, _named_from(whole_of(gguf), out), wanted, tools)
        reporter.info(made.why)
        if in_parts:
            reporter.warn(f"Ollama reads no parts. {_MERGE}")
    named = [None if file is None else _named_from(file, out) for file in (projector, lora)]
    text = grammar.write(replace(made.modelfile, projector=named[0], adapter=named[1]))
    if out is not None:
        out.write_text(text, encoding="utf-8")
        console().print(f"Wrote {out}")
    elif create is None:
        emit(text)
    if create is not None:
        named = [None if file is None else str(file.resolve()) for file in (projector, lora)]
        whole = replace(made.modelfile, base=str(gguf.resolve()), projector=named[0], adapter=named[1])
        _create(create, gguf, whole)


def _require_tokenizer(checkpoint: Path) -> None:
    """The original's tokenizer, and what reads it, are there before the proof begins."""
    if not any((checkpoint / name).is_file() for name in _TOKENIZERS):
        raise InputError(f"{checkpoint} holds no tokenizer.", hint="Give with --model the original checkpoint.")
    if (checkpoint / _TOKENIZERS[0]).is_file():
        extras.require("convert", modules=("tokenizers",), purpose="Reading a checkpoint's tokenizer")


def _tools(reporter: Reporter) -> Toolchain | None:
    """The toolchain proves token ids and the native kind; without one a Go template can still be proven."""
    try:
        return toolchain.find("auto", reporter)
    except ToolchainError as error:
        reporter.warn(f"Token ids are not compared: {error.message}")
        return None


def _named_from(gguf: Path, out: Path | None) -> str:
    """How the Modelfile names the GGUF: relative to where it will lie."""
    home = (out or Path("Modelfile")).resolve().parent
    target = gguf.resolve()
    return f"./{target.relative_to(home)}" if target.is_relative_to(home) else str(target)


def _create(name: str, gguf: Path, wanted: Modelfile) -> None:
    import tempfile

    from ggufkit.modelfile import grammar, install

    program = install.find_ollama()
    if program is None:
        hint = "Install Ollama, or write the Modelfile with --out."
        raise InputError("There is no `ollama` on PATH to create the model with.", hint=hint)
    template = read_header(gguf).metadata.get("tokenizer.chat_template")
    with tempfile.TemporaryDirectory(prefix="ggufkit-ollama-") as directory:
        path = Path(directory) / "Modelfile"
        path.write_text(grammar.write(wanted), encoding="utf-8")
        log = beside(gguf) / "logs" / f"ollama-create-{name.replace('/', '-').replace(':', '-')}.log"
        install.create(program, name, path, wanted, template if isinstance(template, str) else None, log)
    console().print(f"Created {name}: ollama run {name}")
