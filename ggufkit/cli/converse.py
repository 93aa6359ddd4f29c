"""A conversation at a terminal: what the user types, and what is shown of the answers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.cli.terminal import reporting, say, stream
from ggufkit.commands import chat
from ggufkit.core import escape
from ggufkit.core.errors import GgufkitError, ResourceError, ToolError
from ggufkit.llama.adapter import Adapter
from ggufkit.request import RunOptions
from ggufkit.serving.conversation import Answer, Conversation, Fitting, Piece
from ggufkit.serving.settings import CONTEXT, SETTINGS, Settings, changed, named

_ASKED, _GOES_ON, _QUOTES = "> ", "... ", '"""'
_QUOTED = re.compile(rf"(/set\s+\S+\s+)?{_QUOTES}")
_COMMAND = re.compile(r"/([a-z?]+)(?:\s+(.*))?", re.DOTALL)
_HINT = "/help tells what there is; Ctrl-C stops an answer, /bye or Ctrl-D ends."
_HELP = f"""\
/set              the settings
/set NAME VALUE   another value: /set temperature 0, /set system You are a pirate.
/clear            begin anew
/help             this
/bye              end; Ctrl-D does, too
{_QUOTES}…{_QUOTES}         a message of several lines
Ctrl-C            stops an answer; what was said until then counts"""


class _End(Exception):
    """The user ends the conversation."""


@dataclass
class _Talk:
    """A conversation, the server that answers, and how that is started again."""

    gguf: Path
    run: RunOptions
    settings: Settings
    loras: Sequence[Adapter]
    serving: ExitStack
    conversation: Conversation = field(init=False)

    def begin(self) -> None:
        """Load the model, with as much context as the settings say."""
        self.serving.close()
        with reporting() as reporter:
            served = chat.conversing(self.gguf, self.settings.num_ctx, self.loras, self.run, reporter)
            endpoint = self.serving.enter_context(served)
        turns = self.conversation.turns if hasattr(self, "conversation") else []
        self.conversation = Conversation(endpoint, self.settings, chat.is_templated(self.gguf), turns)

    def set(self, name: str, written: str) -> None:
        """Give a setting another value, and load the model again where it needs that."""
        before, now = self.settings, changed(self.settings, name, written)
        self._use(now)
        if now.num_ctx != before.num_ctx:
            try:
                self.begin()
            except (GgufkitError, KeyboardInterrupt) as error:
                self._use(before)
                self.begin()
                if not isinstance(error, ToolError):
                    raise
                raise ResourceError(
                    f"The model cannot be loaded with num_ctx {written}: it stays as it was."
                ) from error

    def _use(self, settings: Settings) -> None:
        self.settings = self.conversation.settings = settings

    def answer(self, said: str) -> None:
        """Ask, and show the answer as it comes."""
        talk, most = self.conversation, self.settings.num_predict
        fitting = talk.fitting(said)
        _tell_of_left_out(fitting, len(talk.turns), talk.n_ctx())
        answer, shown = Answer(), _Shown()
        with (
            contextlib.suppress(KeyboardInterrupt),
            contextlib.closing(talk.answer(said, fitting, answer)) as pieces,
        ):
            for piece in pieces:
                shown.add(piece)
        shown.end()
        if answer.is_cut(most):
            _remark(f"The context of {talk.n_ctx():,} tokens is full: the answer ends here. {_LARGER}")
        elif answer.ended == "length":
            _remark(f"The answer ends after {most} tokens: /set num_predict all takes the limit away.")
        elif not answer.text:
            _remark("Nothing was said: the message is left out of the conversation.")


_LARGER = "/set num_ctx NUMBER makes it larger."


def converse(gguf: Path, settings: Settings, loras: Sequence[Adapter], run: RunOptions) -> None:
    """Let the user talk to a GGUF, with adapters, until they end it. Raises GgufkitError where it cannot be loaded."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited, and come again
    with ExitStack() as serving:
        talk = _Talk(gguf, run, settings, loras, serving)
        talk.begin()
        templated = talk.conversation.templated
        say(_HINT if templated else f"It has no chat template: it goes on with what you write. {_HINT}")
        with contextlib.suppress(_End):
            for said in _messages():
                _answer(talk, said)


def _answer(talk: _Talk, said: str) -> None:
    """Do what the user says; what goes wrong is said, and the conversation goes on."""
    try:
        command = _COMMAND.fullmatch(said)
        if command is None:
            talk.answer(_unquoted(said))
        elif command[1] in _COMMANDS:
            _COMMANDS[command[1]](talk, command[2] or "")
        else:
            _remark(f"There is no command /{command[1]}. {_HINT}")
    except KeyboardInterrupt:
        say("")
    except ToolError:
        raise  # there is nobody to talk to any more
    except GgufkitError as error:
        _remark(" ".join(filter(None, [error.message, error.hint])))


def _set(talk: _Talk, told: str) -> None:
    name, _, written = told.partition(" ")
    if name == "parameter":  # as Ollama's users write it
        name, _, written = written.strip().partition(" ")
    if not name:
        _list(talk)
    elif named(name) and not written.strip() and name != "system":
        _remark(f"/set {name} wants a value: /set {name} VALUE.")
    else:
        talk.set(name, _unquoted(written.strip()))


def _list(talk: _Talk) -> None:
    """Print the settings, and how much of the context is used."""
    n_ctx = talk.conversation.n_ctx()
    for name, setting in SETTINGS.items():
        value = n_ctx if name == CONTEXT else getattr(talk.settings, name)
        shown = "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        stream(f"{name:<15} {escape.terminal(shown):<7} ")
        say(setting.meaning, dim=True)
    _remark(f"{talk.conversation.n_used:,} of {n_ctx:,} tokens of the context are used.")


def _clear(talk: _Talk, _told: str) -> None:
    talk.conversation.turns, talk.conversation.n_used = [], 0
    _remark("The conversation begins anew; settings stay.")


def _help(_talk: _Talk, _told: str) -> None:
    for line in _HELP.splitlines():
        say(line)


def _bye(_talk: _Talk, _told: str) -> None:
    raise _End


_COMMANDS: dict[str, Callable[[_Talk, str], None]] = {
    "set": _set, "clear": _clear, "help": _help, "?": _help, "bye": _bye,
}  # fmt: skip
"""TABLE of what begins with a slash."""


def _tell_of_left_out(fitting: Fitting, n_turns: int, n_ctx: int) -> None:
    n = fitting.n_left_out
    if n:
        what = "the oldest turn is" if n == 1 else f"the {n} oldest of {n_turns} turns are"
        _remark(f"The context of {n_ctx:,} tokens is full: {what} left out from here on. {_LARGER}")


def _messages() -> Iterator[str]:
    """What the user writes, message by message, to the end."""
    while True:
        try:
            said = _read()
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            stream(f"\n{_HINT}\n")
            continue
        if said:
            yield said


def _read() -> str:
    """One message: a line, or all lines up to the quotes that end it."""
    said = input(_ASKED).strip()
    opened = _QUOTED.match(said)
    while opened is not None and _QUOTES not in said[opened.end() :]:
        said += "\n" + input(_GOES_ON)
    return said


def _unquoted(said: str) -> str:
    """A message without the quotes around it."""
    return said.removeprefix(_QUOTES).removesuffix(_QUOTES).strip() if said.startswith(_QUOTES) else said


def _remark(text: str) -> None:
    """One line that the model did not say."""
    say(f"[{text}]", dim=True)


class _Shown:
    """An answer on the terminal: what the model thinks is dim."""

    def __init__(self) -> None:
        self.thinks = False
        self.at_start = True

    def add(self, piece: Piece) -> None:
        """Show a piece."""
        if self.thinks and not piece.is_thought:
            stream("\n" if self.at_start else "\n\n")
        self.thinks = piece.is_thought
        self.at_start = piece.text.endswith("\n")
        stream(piece.text, dim=piece.is_thought)

    def end(self) -> None:
        """Leave room for the next question."""
        stream("" if self.at_start else "\n")
