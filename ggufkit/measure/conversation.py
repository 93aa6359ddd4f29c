"""A conversation at a terminal, a few turns long: the model stays loaded, and the file's own template is used.

Run as a module it is the process that talks: a request as JSON is its argument, the terminal is its own.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ggufkit.core import escape, limits, process
from ggufkit.core.errors import GgufError
from ggufkit.core.limits import Limits
from ggufkit.core.progress import Reporter
from ggufkit.core.records import Toolchain
from ggufkit.measure import chat
from ggufkit.measure.chat import ChatOptions

_END, _ASKED = "/bye", "> "
_HELP = f"{_END} or Ctrl-D ends; Ctrl-C stops an answer."


def converse(gguf: Path, options: ChatOptions, tools: Toolchain, reporter: Reporter) -> None:
    """Let the user talk to a GGUF until they end it.

    Raises:
        ToolchainError: there is no binding, or no shared library for it to use.
        GgufError: the model cannot be loaded, or its template cannot be used.
    """
    request, where = chat.request_of(gguf, options, tools), chat.surroundings(tools, reporter)
    argv = [sys.executable, "-m", "ggufkit.measure.conversation", json.dumps(request)]
    if process.attend(argv, where) != 0:
        raise GgufError(f"The conversation with {gguf} ended badly.", hint="Look at it with `ggufkit inspect`.")


def _main() -> None:
    """The process that loads the model."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it was started with Ctrl-C ignored
    request = json.loads(sys.argv[1])
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited
    model, formatter = chat.load(request)
    print(_HELP if _is_templated(model) else f"It has no chat template: it goes on with what you write. {_HELP}")
    _Talk(model, formatter, request).run()


def _is_templated(model: Any) -> bool:
    return "tokenizer.chat_template" in model.metadata


class _Talk:
    """The turns so far, and how the next one is answered."""

    def __init__(self, model: Any, formatter: Callable[..., Any], request: Mapping[str, Any]) -> None:
        self.model, self.formatter, self.request = model, formatter, request
        system = request["system"]
        self.messages = [{"role": "system", "content": system}] if system else []

    def run(self) -> None:
        """Ask and answer until the user ends it, or the context is full."""
        for said in _lines():
            self.messages.append({"role": "user", "content": said})
            prompt = self._prompt(said)
            room = self.model.n_ctx() - len(prompt)
            if room < 1:
                print("The context is full: a larger --ctx lets it go on.")
                return
            answer = self._answer(prompt, min(self.request["max_tokens"], room))
            self.messages.append({"role": "assistant", "content": answer})

    def _prompt(self, said: str) -> list[int]:
        if not _is_templated(self.model):
            return list(self.model.tokenize(said.encode(), add_bos=True, special=True))
        with limits.imposed(Limits(**self.request["limits"])):
            return chat.rendered(self.model, self.messages, self.formatter)

    def _answer(self, prompt: list[int], max_tokens: int) -> str:
        """Print an answer as it comes; Ctrl-C ends it, and what was said counts."""
        decoder, tokens, text = codecs.getincrementaldecoder("utf-8")("replace"), list[int](), ""
        with contextlib.suppress(KeyboardInterrupt):
            for token in chat.until_end(self.model, prompt, self.request["temperature"]):
                tokens.append(token)
                shown = decoder.decode(self.model.detokenize([token], prev_tokens=[*prompt, *tokens[:-1]]))
                text += shown
                sys.stdout.write(escape.terminal(shown, lines=True))
                sys.stdout.flush()
                if len(tokens) == max_tokens:
                    break
        print()
        return text


def _lines() -> Iterator[str]:
    """What the user writes, line by line, to the end."""
    while True:
        try:
            said = input(_ASKED).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print(f"\n{_HELP}")
            continue
        if said == _END:
            return
        if said:
            yield said


if __name__ == "__main__":
    _main()
