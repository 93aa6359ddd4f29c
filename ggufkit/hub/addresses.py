"""Where the files of a repository are had, on the hub that is in use: Hugging Face, ModelScope, or a mirror of them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from ggufkit.core.errors import InputError
from ggufkit.hub import huggingface, modelscope

_MODELSCOPE = "ms:"
_REPO = re.compile(r"(ms:)?[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")


@dataclass(frozen=True)
class Address:
    """A repository of models: OWNER/NAME on Hugging Face, or ms:OWNER/NAME on ModelScope."""

    repo: str

    @property
    def on_modelscope(self) -> bool:
        """Whether it is ModelScope's."""
        return self.repo.startswith(_MODELSCOPE)

    @property
    def name(self) -> str:
        """OWNER/NAME."""
        return self.repo.removeprefix(_MODELSCOPE)

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.name.partition("/")[0]

    @property
    def host(self) -> str:
        """The hub in use, which may be a mirror."""
        return modelscope.host() if self.on_modelscope else huggingface.host()

    @property
    def page(self) -> str:
        """What a browser shows of it."""
        return f"{self.host}/models/{self.name}" if self.on_modelscope else f"{self.host}/{self.name}"

    def link(self, file: str) -> str:
        """Where the content of a file is had."""
        return f"{self.page}/resolve/{'master' if self.on_modelscope else 'main'}/{quote(file)}"

    @property
    def ollama(self) -> str | None:
        """What Ollama calls it; None for a mirror that it would not speak with, for want of TLS."""
        if self._is_mirror:
            split = urlsplit(self.host)
            return f"{split.netloc}{split.path}/{self.name}" if split.scheme == "https" else None
        return f"{'modelscope.cn' if self.on_modelscope else 'hf.co'}/{self.name}"

    @property
    def environment(self) -> str:
        """What stands before a command that knows the hub itself, but not its mirror; "" for the hub itself."""
        variable = "MODELSCOPE_ENDPOINT" if self.on_modelscope else "HF_ENDPOINT"
        return f"{variable}={shlex.quote(self.host)} " if self._is_mirror else ""

    def download(self, files: str) -> str:
        """The command that brings a file, or all files of a pattern, into the current directory."""
        if self.on_modelscope:
            return f"{self.environment}modelscope download --model {self.name} {_chosen(files)} --local_dir ."
        return f"{self.environment}hf download {self.name} {_chosen(files)} --local-dir ."

    @property
    def _is_mirror(self) -> bool:
        return self.host != (modelscope.DEFAULT_HOST if self.on_modelscope else huggingface.DEFAULT_HOST)


def require_repo(given: str, what: str = "a repository") -> str:
    """A name of a repository. Raises InputError, which says what it is not, for any other."""
    if _REPO.fullmatch(given) is None:
        raise InputError(f"{given!r} is not {what}.", hint="Write OWNER/NAME, or ms:OWNER/NAME for ModelScope.")
    return given


def _chosen(files: str) -> str:
    return f"--include {shlex.quote(files)}" if "*" in files else shlex.quote(files)
