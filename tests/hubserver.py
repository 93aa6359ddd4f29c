"""Loopback servers that speak the hubs' APIs, and misbehave as real ones do.

Hugging Face: `api/models/ID/revision/REV`, `api/models/ID/tree/REV`, `ID/resolve/REV/FILE` (and `api/datasets`,
`datasets/ID/resolve`). ModelScope: `api/v1/models/ID/repo/files`, `api/v1/models/ID/repo?FilePath=FILE`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = 100_000
"""Files of more bytes than this are LFS files: the hub knows their SHA-256, and may redirect to storage."""


@dataclass(frozen=True)
class Asked:
    """One request as it arrived, and the bytes of the body that were sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    sent: list[int] = field(default_factory=list)

    @property
    def token(self) -> str | None:
        """What would let the bearer in: the header, or ModelScope's cookie."""
        return self.headers.get("authorization") or self.headers.get("cookie")


@dataclass
class Faults:
    """What goes wrong. Lists are used up, one entry a request; the rest holds for all requests.

    Args:
        cuts: by file, how many bytes of a response are sent before the connection breaks.
        answers: by file, (status, headers) to answer with instead of content.
        api_answers: the same for requests to the API.
        corrupt: files whose first byte is sent wrong.
        stall: by file, after how many bytes nothing more comes.
        slow: files that are answered after a second.
        refuse: (status, headers) for every request for content.
        storage: address that large files are redirected to.
        extra_entries: paths that the listing names besides the files.
        refuse_writes: (status, headers) for every upload.
        lost_uploads: how many large files are refused before they are taken.
        scripts: by part of an address, what is sent instead of any answer.
    """

    cuts: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    api_answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)
    stall: dict[str, int] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    refuse: tuple[int, dict[str, str]] | None = None
    storage: str | None = None
    extra_entries: list[str] = field(default_factory=list)
    refuse_writes: tuple[int, dict[str, str]] | None = None
    lost_uploads: int = 0
    scripts: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)


@dataclass
class HubServer:
    """A running server: what it holds, what goes wrong, and what it was asked."""

    repos: dict[str, dict[str, bytes]]
    faults: Faults = field(default_factory=Faults)
    asked: list[Asked] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def content_requests(self, file: str | None = None) -> list[Asked]:
        """Requests for the content of files."""
        gets = [a for a in self.asked if a.method == "GET" and ("/resolve/" in a.path or a.path.endswith("/repo"))]
        return [a for a in gets if file is None or a.path.endswith(f"/{file}") or a.query.get("FilePath") == file]


def files_of(directory: Path) -> dict[str, bytes]:
    """The files of a directory, as a repository holds them."""
    return {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}


@contextmanager
def serve(repos: Mapping[str, Mapping[str, bytes]], host: str = "127.0.0.1") -> Iterator[HubServer]:
    """Serve repositories, by id (`datasets/ID` for data sets), on a free port."""
    state = HubServer({name: dict(files) for name, files in repos.items()})

    class Handler(_Handler):
        hub = state

    server = _Server((host, 0), Handler)
    state.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news here."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_POST(self) -> None:
        self._write()

    def do_PUT(self) -> None:
        self._write()

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        split = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(split.query).items()}
        path = unquote(split.path).lstrip("/")
        self.asked = Asked(self.command, path, query, {k.lower(): v for k, v in self.headers.items()})
        self.hub.asked.append(self.asked)
        script = next((s for part, s in self.hub.faults.scripts.items() if part in self.path), None)
        if script is not None:
            self.close_connection = True
            script(self)
        elif path.startswith(("api/v1/models/", "api/v1/datasets/")):
            self._modelscope(path.removeprefix("api/v1/"), query)
        elif path.startswith("api/"):
            self._hf_api(path.removeprefix("api/"))
        elif "/resolve/" in path:
            repo, _, rest = path.partition("/resolve/")
            self._hf_content(repo, rest.partition("/")[2])
        elif path.startswith("storage/"):
            repo, _, file = path.removeprefix("storage/").partition("//")
            self._content(self.hub.repos[repo][file], file)
        else:
            self._answer(404)

    def _write(self) -> None:
        """The requests of an upload: make a repository, say how to send files, take large ones, commit."""
        path, body = unquote(urlsplit(self.path).path).lstrip("/"), self._body()
        self.asked = Asked(self.command, path, {}, {k.lower(): v for k, v in self.headers.items()}, [len(body)])
        self.hub.asked.append(self.asked)
        if self.hub.faults.refuse_writes is not None:
            self._answer(*self.hub.faults.refuse_writes)
        elif path == "api/repos/create":
            wanted = json.loads(body)
            self.hub.repos.setdefault(f"{wanted['organization']}/{wanted['name']}", {})
            self._json({"url": f"{self.hub.url}/{wanted['organization']}/{wanted['name']}"})
        elif path == "api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = [
                {"path": f["path"], "uploadMode": _mode(f), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [self._lfs_object(o, ms=path.startswith("api/v1/")) for o in json.loads(body)["objects"]]
            self._json(
                {"Code": 200, "Data": {"objects": objects}} if path.startswith("api/v1/") else {"objects": objects}
            )
        elif path.startswith("lfs/"):
            if self.hub.faults.lost_uploads:
                self.hub.faults.lost_uploads -= 1
                self._answer(400)
            else:
                self.hub.stored[_sha256(body)] = body
                self._json({"Code": 200, "Data": {}})
        elif path.startswith("api/v1/models"):
            wanted = json.loads(body)
            self.hub.repos.setdefault(f"{wanted['Path']}/{wanted['Name']}", {})
            self._json({"Code": 200, "Data": {"Path": wanted["Path"], "Name": wanted["Name"]}})
        elif path.startswith("api/v1/repos/models/"):
            self._commit(path.removeprefix("api/v1/repos/models/").partition("/commit/")[0], _ms_operations(body))
        else:
            self._commit(path.removeprefix("api/models/").partition("/commit/")[0], _hf_operations(body))

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _lfs_object(self, wanted: dict[str, Any], *, ms: bool) -> dict[str, Any]:
        known = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] in self.hub.stored:
            return known
        return {**known, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}}}}

    def _commit(self, repo: str, files: dict[str, bytes | str]) -> None:
        for path, content in files.items():
            self.hub.repos[repo][path] = self.hub.stored[content] if isinstance(content, str) else content
        url = f"{self.hub.url}/{repo}/commit/{COMMIT}"
        self._json(
            {"success": True, "commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "Code": 200, "Data": {}}
        )

    def _hf_api(self, path: str) -> None:
        if self.hub.faults.api_answers:
            self._answer(*self.hub.faults.api_answers.pop(0))
            return
        kind, _, rest = path.partition("/")
        repo, _, revision = rest.partition("/revision/")
        folder = ""
        if not revision:
            repo, _, revision = rest.partition("/tree/")
            revision, _, folder = revision.partition("/")
        files = self.hub.repos.get(repo if kind == "models" else f"datasets/{repo}")
        if files is None:
            self._answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("", "main", COMMIT):
            self._answer(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif "/tree/" in path:
            entries = _hf_tree(files, folder, recursive=self.asked.query.get("recursive") == "true")
            self._json([*entries, *map(_hf_extra, self.hub.faults.extra_entries)])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json({"_id": "1", "id": repo, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []})

    def _hf_content(self, repo: str, file: str) -> None:
        body = self.hub.repos.get(repo, {}).get(file)
        if body is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        etag = _sha256(body) if len(body) > LARGE else _git_sha1(body)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
        if len(body) > LARGE and self.hub.faults.storage:
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(body))}
            self._answer(302, {**headers, "Location": f"{self.hub.faults.storage}/storage/{repo}//{file}"})
            return
        self._content(body, file, headers)

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        if self.hub.faults.api_answers and path.endswith("/repo/files"):
            self._answer(*self.hub.faults.api_answers.pop(0))
            return
        kind, owner, name, *action = path.split("/")
        repo = f"{owner}/{name}" if kind == "models" else f"datasets/{owner}/{name}"
        files = self.hub.repos.get(repo)
        if files is None:
            self._json({"Code": 10010205001, "Message": "record not found", "Success": False}, 404)
        elif action in (["repo", "files"], ["repo", "tree"]):
            known = query.get("Revision", "master") in ("master", COMMIT)
            entries = [*map(_ms_entry, files.items()), *map(_ms_extra, self.hub.faults.extra_entries)]
            self._json(
                {
                    "Code": 200,
                    "Data": {"Files": entries if known else None},
                    "Success": True,
                    "TotalCount": len(entries),
                }
            )
        elif action == ["repo"] and query.get("FilePath") in files:
            body = files[query["FilePath"]]
            if len(body) > LARGE and self.hub.faults.storage:
                location = f"{self.hub.faults.storage}/storage/{repo}//{query['FilePath']}"
                self._answer(302, {"Location": location})
                return
            self._content(body, query["FilePath"])
        else:
            self._json({"Code": 10990101007, "Message": "file not found", "Success": False}, 404)

    def _content(self, body: bytes, file: str, headers: Mapping[str, str] | None = None) -> None:
        faults = self.hub.faults
        if file in faults.slow:
            self.hub.closing.wait(1)
        if faults.refuse is not None:
            self._answer(*faults.refuse)
            return
        if faults.answers.get(file):
            self._answer(*faults.answers[file].pop(0))
            return
        if file in faults.corrupt:
            body = bytes([body[0] ^ 0xFF]) + body[1:]
        start, end, status = self._range(len(body))
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            self._send(body[start:end], file)

    def _range(self, size: int) -> tuple[int, int, int]:
        asked = self.headers.get("Range", "")
        if not asked.startswith("bytes="):
            return 0, size, 200
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size, 206

    def _send(self, body: bytes, file: str) -> None:
        faults = self.hub.faults
        if file in faults.stall:
            self.wfile.write(body[: faults.stall[file]])
            self.wfile.flush()
            self.hub.closing.wait(120)
            self.close_connection = True
            return
        cuts = faults.cuts.get(file, [])
        length = min(cuts.pop(0), len(body)) if cuts else len(body)
        self.wfile.write(body[:length])
        self.wfile.flush()
        self.asked.sent.append(length)
        if length < len(body):
            self.close_connection = True

    def _json(self, data: Any, status: int = 200) -> None:
        self._answer(status, {"Content-Type": "application/json"}, json.dumps(data).encode())

    def _answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _git_sha1(body: bytes) -> str:
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()


def _mode(file: Mapping[str, Any]) -> str:
    return "lfs" if file["size"] > LARGE else "regular"


def _hf_operations(body: bytes) -> dict[str, bytes | str]:
    """Content of each file of a commit: bytes, or the SHA-256 of what was sent before."""
    files: dict[str, bytes | str] = {}
    for line in map(json.loads, body.decode().splitlines()):
        if line["key"] == "file":
            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "lfsFile":
            files[line["value"]["path"]] = line["value"]["oid"]
    return files


def _ms_operations(body: bytes) -> dict[str, bytes | str]:
    actions = json.loads(body)["actions"]
    return {a["path"]: a["sha256"] if a["type"] == "lfs" else base64.b64decode(a["content"]) for a in actions}


def _hf_entry(item: tuple[str, bytes]) -> dict[str, Any]:
    path, body = item
    entry: dict[str, Any] = {"type": "file", "oid": _git_sha1(body), "size": len(body), "path": path}
    if len(body) > LARGE:
        entry["lfs"] = {"oid": _sha256(body), "size": len(body), "pointerSize": 134}
    return entry


def _hf_tree(files: Mapping[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The entries below a folder: directories first, files of this level or of all."""
    prefix = f"{folder}/" if folder else ""
    below = {path.removeprefix(prefix): path for path in files if path.startswith(prefix)}
    inner = {prefix + rest.partition("/")[0] for rest in below if "/" in rest}
    directories = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(inner)]
    return [*directories, *(_hf_entry((p, files[p])) for rest, p in below.items() if recursive or "/" not in rest)]


def _hf_extra(path: str) -> dict[str, Any]:
    return {"type": "file", "oid": "0" * 40, "size": 1, "path": path}


def _ms_entry(item: tuple[str, bytes]) -> dict[str, Any]:
    path, body = item
    return {
        "Path": path, "Name": path.rpartition("/")[2], "Type": "blob", "Size": len(body), "Sha256": _sha256(body),
        "IsLFS": len(body) > LARGE, "Revision": COMMIT, "CommittedDate": int(time.time()),
    }  # fmt: skip


def _ms_extra(path: str) -> dict[str, Any]:
    return {"Path": path, "Name": path, "Type": "blob", "Size": 1, "Sha256": "0" * 64, "Revision": COMMIT}
