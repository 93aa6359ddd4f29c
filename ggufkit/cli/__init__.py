"""The command line. Commands live in modules that are imported when they are used."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import signal
import sys
import textwrap
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from ggufkit.core import escape, oserrors
from ggufkit.core.errors import GgufkitError, Interrupted
from ggufkit.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "build": "build",
    "convert": "steps",
    "lora": "lora",
    "awq": "engines",
    "imatrix": "steps",
    "quantize": "steps",
    "merge": "steps",
    "refine": "engines",
    "recipe": "recipe",
    "sweep": "sweep",
    "demo": "build",
    "perplexity": "measure",
    "bench": "measure",
    "tasks": "tasks",
    "inspect": "inspect",
    "report": "report",
    "compare": "report",
    "modelfile": "modelfile",
    "publish": "publish",
    "chat": "chat",
    "serve": "serve",
    "models": "models",
    "toolchain": "toolchain",
    "doctor": "doctor",
}
"""Each command and the module of this package that defines it, in the order of the help."""

SUMMARIES = {
    "build": "Everything: convert, quantize, measure, report.",
    "convert": "HF checkpoint to one high-precision GGUF.",
    "lora": "LoRA adapter of peft's to a GGUF adapter.",
    "awq": "HF checkpoint to AWQ-scaled one, same function.",
    "imatrix": "Importance matrix from calibration text.",
    "quantize": "One GGUF to one per type.",
    "merge": "Parts of a GGUF to one file.",
    "refine": "The same file re-rounded by GPTQ, less loss.",
    "recipe": "Which type each tensor should get, for so many bytes.",
    "sweep": "Many models x types x variants, here or on a cluster.",
    "demo": "Build the embedded model: the first thing to run.",
    "perplexity": "Perplexity of GGUF files.",
    "bench": "Prompt-processing and generation tokens/s.",
    "tasks": "HellaSwag, Winogrande, ARC, MMLU, TruthfulQA, and flips.",
    "inspect": "Architecture, parameters, BPW, tensors per type.",
    "report": "Tables and plots again from what was measured.",
    "compare": "Result directories, or GGUFs of one model, side by side.",
    "modelfile": "An Ollama Modelfile with a proven template.",
    "publish": "Upload what is complete, with its model card.",
    "chat": "A conversation, or one answer as a smoke test.",
    "serve": "An OpenAI-compatible endpoint.",
    "models": "The aliases, and what each stands for.",
    "toolchain": "The llama.cpp in use: status, install, path.",
    "doctor": "What is missing here, and how to fix it.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used: help stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command of a name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        from ggufkit.cli.options import QUIET

        module = importlib.import_module(f"ggufkit.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        for one in command.commands.values() if isinstance(command, click.Group) else (command,):
            if QUIET not in one.params:
                one.params.append(QUIET)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, without importing any of them, and this group's options."""
        from click.shell_completion import CompletionItem

        fitting = [CompletionItem(n, help=said) for n, said in SUMMARIES.items() if n.startswith(incomplete)]
        return [*fitting, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The list of commands, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ggufkit")
def cli() -> None:
    """One command from a Hugging Face checkpoint to GGUF files you can trust.

    \b
    Start here:
        ggufkit demo                          on the embedded model
        ggufkit build MODEL --types q4_k_m    your own
        ggufkit doctor                        what is missing on this machine
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line; the one place where errors become messages and exit codes."""
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments or bool(os.environ.get("GGUFKIT_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack a letter; that is no reason to stop
    signal.signal(signal.SIGTERM, _interrupt)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:  # nohup ignores it
        signal.signal(hangup, _interrupt)
    suspend = getattr(signal, "SIGTSTP", None)
    if suspend is not None and signal.getsignal(suspend) == signal.SIG_DFL:
        signal.signal(suspend, _pause)
    code = _run([a for a in arguments if a != "--debug"], debug)
    _drop_what_cannot_be_printed()
    sys.exit(code)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="ggufkit", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is found now, and not when Python ends
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, click.Abort, Interrupted):
        return _stopped()
    except click.ClickException as error:
        object.__setattr__(error, "message", escape.terminal(error.message))  # what was typed is part of it
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except BrokenPipeError:
        return 0
    except Exception as error:
        explained = oserrors.explained(error)
        return _failed(explained, debug) if explained is not None else _bug(error, debug)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _pause(suspend: int, _frame: FrameType | None) -> None:
    """Ctrl-Z: the tools, which have process groups of their own, pause and go on with ggufkit."""
    from ggufkit.core import process

    with process.paused():
        signal.signal(suspend, signal.SIG_DFL)
        os.kill(os.getpid(), suspend)  # returns when ggufkit goes on
        signal.signal(suspend, _pause)


def _stopped() -> int:
    from ggufkit.core import process

    process.stop_all()
    _say("Stopped. What was finished is kept; the same command goes on from there.")
    return Interrupted.exit_code


def _failed(error: GgufkitError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(f"Error: {error.message}", fg="red")
    for line in error.details:
        _say(line)
    if error.hint:
        _say(f"  {error.hint}")
    if error.log is not None:
        _say(f"  Log: {error.log}")
    return error.exit_code


def _bug(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(f"Error: {type(error).__name__}: {error}", fg="red")
    _say("  This is a bug in ggufkit. Repeat the command with --debug and report what it prints.")
    return 1


def _say(text: str, fg: str | None = None) -> None:
    """One line on stderr, whatever foreign names are in it; the exit code stays right where nobody reads it.

    Where somebody looks, it is broken between words.
    """
    shown = escape.terminal(text)
    if sys.stderr is not None and sys.stderr.isatty():
        indent = shown[: len(shown) - len(shown.lstrip())]
        width = shutil.get_terminal_size().columns
        shown = textwrap.fill(
            shown, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    with contextlib.suppress(OSError):
        click.secho(shown, fg=fg, err=True)


def _drop_what_cannot_be_printed() -> None:
    """Python would try again at its end, and change the exit code when it fails."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
