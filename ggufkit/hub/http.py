"""The door to hubs: how much of this machine and its time a hub may take, and who sees what lets the bearer in.

Redirects are followed here: a client reads whatever body they have, and takes cookies to other ports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin

from ggufkit.core.concurrency import run_within
from ggufkit.core.errors import SourceError
from ggufkit.core.jsonfile import parse_json
from ggufkit.version import __version__

if TYPE_CHECKING:
    import requests

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a hub may take.

    Args:
        answer_s: until the headers of an answer are there, and until all of a page is: one takes a second.
        page_bytes: of a page, unpacked: 1,000 files of Hugging Face take 0.4 MB, 3,000 of ModelScope 2 MB.
        listing_bytes: of all pages of a listing.
        listing_s: for all pages of a listing.
        pages: of a listing: Hugging Face advises against more than 100,000 files a repository, which are 100 of its
            pages and 500 of ModelScope's.
        redirects: from one address to the next: to a mirror, from there to the hub, and to its storage are three.
        slow_bytes_per_s: the least that content comes at, for as long as `slow_s`: a gigabyte would take eleven days.
        slow_s: long enough for a connection that hangs and comes back.
    """

    answer_s: float = 60.0
    page_bytes: int = 8 << 20
    listing_bytes: int = 64 << 20
    listing_s: float = 600.0
    pages: int = 500
    redirects: int = 5
    slow_bytes_per_s: int = 1 << 10
    slow_s: float = 30.0


LIMITS = Limits()
_BLOCK = 1 << 16
_ODD = "Repeat later, or have the files from elsewhere: a mirror, or the other hub (--from)."


class Refused(Exception):
    """An answer that is an error. `response` has its status and headers; what else it says is not read."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"HTTP {response.status_code}")
        self.response = response


class TooSlow(Exception):
    """Content that comes at less than LIMITS.slow_bytes_per_s."""

    def __init__(self) -> None:
        super().__init__(f"it sends less than {LIMITS.slow_bytes_per_s:,} bytes a second")


@dataclass(frozen=True)
class Access:
    """How a hub is asked.

    Args:
        host: its address, which alone sees `identity`: another scheme or port is another host.
        identity: headers that tell who asks.
        silence_s: how long a connection may be silent.
    """

    host: str
    identity: Mapping[str, str] = field(default_factory=dict, repr=False)
    silence_s: float = 10.0

    def __post_init__(self) -> None:
        """Raise SourceError for a token that cannot be sent: a client's own error would print it."""
        if not all(value.isascii() and value.isprintable() for value in self.identity.values()):
            message = f"The token for {self.host} has characters in it that no token has."
            raise SourceError(message, hint="Set it again: a line break or a quotation mark may have come along.")

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        """The answer to GET, its body not yet read.

        Raises:
            Refused: its status is an error.
            SourceError: one redirect leads to another.
            TimeoutError, requests.RequestException: it does not come.
        """
        with closing(run_within(LIMITS.answer_s, partial(self._follow, url, headers or {}))) as response:
            yield response

    def first_bytes(self, url: str, n_bytes: int) -> bytes:
        """The beginning of a file, of which no more is read even where the hub sends all. Raises as `open` does."""

        def read() -> bytes:
            asked = {"Accept-Encoding": "identity", "Range": f"bytes=0-{n_bytes - 1}"}
            with self.open(url, asked) as response:
                return _read_up_to(response, n_bytes)

        return run_within(LIMITS.answer_s, read)

    def _follow(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        import requests

        session, target = requests.Session(), url
        # Certificates are found as huggingface_hub finds them; requests' own variables come first.
        session.verify = os.environ.get("SSL_CERT_FILE") or True
        for _ in range(LIMITS.redirects + 1):
            response = self._ask(session, target, headers)
            if not response.is_redirect:
                return _accepted(response)
            response.close()
            target = urljoin(target, session.get_redirect_target(response) or "")
        message = f"{self.host} leads from one address to another and another, {LIMITS.redirects} times."
        raise SourceError(message, hint=_ODD)

    def _ask(self, session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
        import requests

        # An `auth` that does nothing: ~/.netrc is for other programs, and a name in an address that a hub gives is odd.
        asked = session.prepare_request(requests.Request("GET", url, headers=dict(headers), auth=lambda r: r))
        if _origin(str(asked.url)) == _origin(self.host):
            if any(own := requests.utils.get_auth_from_url(self.host)):
                asked.prepare_auth(own)
            asked.headers.update({"User-Agent": f"ggufkit/{__version__}", **self.identity})
        settings = session.merge_environment_settings(str(asked.url), {}, True, None, None)
        waits = (self.silence_s, self.silence_s)
        return session.send(asked, timeout=waits, allow_redirects=False, **settings)


def _accepted(response: requests.Response) -> requests.Response:
    if response.status_code >= 400:
        response.close()
        raise Refused(response)
    return response


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port, read as the client reads them: parsers disagree on what is odd."""
    from urllib3.util import parse_url

    parsed = parse_url(url)
    scheme = (parsed.scheme or "").lower()
    return scheme, (parsed.host or "").lower(), parsed.port or {"http": 80, "https": 443}.get(scheme, 0)


class Pages:
    """The pages of one listing, which share its limits."""

    def __init__(self, access: Access, what: str) -> None:
        self._access, self._what = access, what
        self._n_pages, self._n_bytes = 0, 0
        self._deadline = time.monotonic() + LIMITS.listing_s

    def get(self, url: str, shape: type[T]) -> tuple[T, str]:
        """A page in its shape, and the address of the next one that it names, or "".

        Raises:
            SourceError: it is not in that shape, or beyond the limits.
            Refused, TimeoutError, requests.RequestException: there is none.
        """
        self._n_pages += 1
        if self._n_pages > LIMITS.pages:
            raise self._endless(f"more than {LIMITS.pages} pages")
        if time.monotonic() > self._deadline:
            raise self._endless(f"no end within {LIMITS.listing_s / 60:.0f} minutes")
        body, following = run_within(LIMITS.answer_s, partial(self._read, url))
        self._n_bytes += len(body)
        said = f"What {self._access.host} answers for {self._what}"
        return parse_json(body, shape, said, SourceError, hint=_ODD), following

    def _read(self, url: str) -> tuple[bytes, str]:
        most = min(LIMITS.page_bytes, LIMITS.listing_bytes - self._n_bytes)
        with self._access.open(url, {"Accept-Encoding": "gzip"}) as response:
            body = _read_up_to(response, most + 1)
            if len(body) > most:
                raise self._endless(f"more than {most / 1e6:,.0f} MB")
            return body, urljoin(url, response.links["next"]["url"]) if "next" in response.links else ""

    def _endless(self, how: str) -> SourceError:
        return SourceError(f"{self._access.host} lists {self._what} without end: {how}.", hint=_ODD)


def _read_up_to(response: requests.Response, n_bytes: int) -> bytes:
    """The first bytes of a body, unpacked; packed ones are read in small pieces, whatever they unpack to."""
    body = bytearray()
    while len(body) < n_bytes and (block := response.raw.read(_BLOCK, decode_content=True)):
        body += block
    return bytes(body[:n_bytes])


class Meter:
    """How fast content comes."""

    def __init__(self) -> None:
        self._since, self._n_bytes = time.monotonic(), 0

    def count(self, n_bytes: int) -> None:
        """Add what came; raise TooSlow where it was too little for too long."""
        self._n_bytes += n_bytes
        took = time.monotonic() - self._since
        if took >= LIMITS.slow_s:
            if self._n_bytes < took * LIMITS.slow_bytes_per_s:
                raise TooSlow
            self._since, self._n_bytes = time.monotonic(), 0
