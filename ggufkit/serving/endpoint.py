"""Where a served model is reached, and how: addresses, who asks there, and what to type."""

from __future__ import annotations

import ipaddress
import json
import shlex
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

KEY = "LLAMA_API_KEY"
"""The variable that llama-server reads its key from: not on its command line, which others on the machine can read."""
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses of all interfaces, and the one by which this machine reaches itself then."""
_QUESTION = "What is a llama?"


@dataclass(frozen=True)
class Endpoint:
    """A server's address, the name of its model, and the key that it asks for.

    `embeds` is true of a model that gives embeddings instead of answers.
    """

    host: str
    port: int
    model: str
    api_key: str | None = None
    embeds: bool = False

    @property
    def root(self) -> str:
        """The server as it is reached from this machine: "http://127.0.0.1:8080"."""
        return _url(_ANYWHERE.get(self.host, self.host), self.port)

    @property
    def base_url(self) -> str:
        """What clients of OpenAI's protocol are told, from this machine."""
        return f"{self.root}/v1"

    @property
    def public_url(self) -> str:
        """The same as other machines see it."""
        host = socket.gethostname() if self.host in _ANYWHERE else self.host
        return f"{_url(host, self.port)}/v1"

    def session(self) -> requests.Session:
        """Who asks the server from this machine, with its key."""
        import requests

        asking = requests.Session()
        asking.trust_env = False  # no proxy is between this machine and itself
        if self.api_key:
            asking.headers["Authorization"] = f"Bearer {self.api_key}"
        return asking

    def curl(self) -> str:
        """A first request, for a shell."""
        body = {"model": self.model, **self._asked()}
        key = f' -H "Authorization: Bearer ${KEY}"' if self.api_key else ""
        path = "embeddings" if self.embeds else "chat/completions"
        said = shlex.quote(json.dumps(body, ensure_ascii=False))
        return f"curl {self.public_url}/{path}{key} -H 'Content-Type: application/json' -d {said}"

    def python(self) -> str:
        """A first request, through the `openai` package."""
        key = f'os.environ["{KEY}"]' if self.api_key else '"none"'
        asked = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self._asked().items()
        )
        call, shown = (
            ("embeddings", "data[0].embedding")
            if self.embeds
            else ("chat.completions", "choices[0].message.content")
        )
        return "\n".join([
            *(["import os"] if self.api_key else []),
            "from openai import OpenAI",
            f'client = OpenAI(base_url="{self.public_url}", api_key={key})',
            f"reply = client.{call}.create(model={json.dumps(self.model, ensure_ascii=False)}, {asked})",
            f"print(reply.{shown})",
        ])  # fmt: skip

    def _asked(self) -> dict[str, object]:
        if self.embeds:
            return {"input": _QUESTION}
        return {"messages": [{"role": "user", "content": _QUESTION}]}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
