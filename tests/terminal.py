"""A command at a pseudo-terminal of 80 columns, typed to and read."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from types import TracebackType

_PROMPT = "\r\n> "
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`ggufkit` with arguments, at work for the length of a context."""

    def __init__(self, *args: object) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        argv = [sys.executable, "-m", "ggufkit", *map(str, args)]
        self._command = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._command.kill()
        self._command.wait()
        os.close(self._ours)

    def say(self, *lines: str) -> None:
        """Type lines."""
        os.write(self._ours, "".join(f"{line}\n" for line in lines).encode())

    def more(self) -> str:
        """What is shown next."""
        return os.read(self._ours, 1000).decode(errors="replace")

    def until(self, end: str) -> str:
        """What is shown up to and with an end."""
        shown = ""
        while not shown.endswith(end):
            shown += self.more()
        return shown

    def answer(self, *lines: str) -> str:
        """Type lines, and read what is shown for them up to the next prompt, without the echo and without styles."""
        self.say(*lines)
        shown = self.until(_PROMPT)
        return _STYLE.sub("", shown.removesuffix(_PROMPT)).replace("\r\n", "\n").split(lines[-1] + "\n", 1)[-1]

    def interrupt(self) -> str:
        """As Ctrl-C does, until the prompt is shown: one that comes while it begins to wait for a line is not heard."""
        shown = ""
        self._command.send_signal(signal.SIGINT)
        while not shown.endswith(_PROMPT):
            if select.select([self._ours], [], [], 2)[0]:
                shown += self.more()
            else:
                self._command.send_signal(signal.SIGINT)
        return shown

    def ended(self) -> int:
        """Its exit code, when it ends."""
        return self._command.wait(20)
