"""Hubs that want more than they are due: more time, more memory, more disk, a token, a place outside of the cache."""

from __future__ import annotations

import gzip
import json
import random
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ggufkit.core.errors import GgufkitError, SourceError, UsageError
from ggufkit.core.progress import SilentReporter
from ggufkit.hub import downloads, failures, http, huggingface, listing, modelscope, names
from ggufkit.hub.http import Access, Limits
from ggufkit.hub.listing import Hub, RemoteFile, Repo, needed
from ggufkit.hub.obtain import Place, Snapshot, Want, obtain
from tests import hubserver
from tests.hubserver import COMMIT, LARGE, HubServer
from tests.integration.run_cli import fails

ID, WEIGHTS = "acme/x", "model.safetensors"
FILES = {
    "config.json": b"{}",
    "README.md": b"# x\n",
    WEIGHTS: random.Random(0).randbytes(3_000_000),
}
SECRETS = {"HF_TOKEN": "hf_secret", "MODELSCOPE_API_TOKEN": "ms-secret"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_cache: Path) -> None:
    """Caches of the test's own, tokens to lose, no proxy in between, and no patience."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    places = {"HF_HOME": "hf", "MODELSCOPE_CACHE": "ms", "MODELSCOPE_HOME": "ms-home", "HOME": "home"}
    for name, value in {**{n: str(tmp_path / p) for n, p in places.items()}, "NO_PROXY": "*", **SECRETS}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(http, "LIMITS", Limits(answer_s=3, slow_s=0.4))
    monkeypatch.setattr(downloads, "pause", lambda _cancel, _s: None)
    monkeypatch.setattr(failures, "time", types.SimpleNamespace(sleep=lambda _s: None))


@pytest.fixture(params=["hf", "ms"])
def hub(request: pytest.FixtureRequest) -> Hub:
    if request.param == "ms":
        pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    found: Hub = {"hf": huggingface, "ms": modelscope}[request.param]
    return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hubserver.serve({ID: FILES}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running


def get(hub: Hub, wanted: Callable[..., list[RemoteFile]] = needed) -> Snapshot:
    return obtain([Place(hub, Repo(ID))], Want(wanted), SilentReporter())


def refused(call: Callable[[], object], *words: str) -> GgufkitError:
    """The error of a call: of exit code 3, with a way out, and soon."""
    started = time.monotonic()
    with pytest.raises(SourceError) as error:
        call()
    assert time.monotonic() - started < 12
    assert error.value.exit_code == 3
    assert error.value.hint
    assert all(word in error.value.message for word in words), error.value.message
    return error.value


def same(found: Snapshot, server: HubServer) -> bool:
    return all((found.path / name).read_bytes() == body for name, body in server.repos[ID].items())


# What is called alike, and what is alike


@pytest.mark.parametrize("size", [5_000, 500_000, 5_000_000])
def test_equal_contents_are_one_download(hub: Hub, server: HubServer, size: int) -> None:
    body = random.Random(size).randbytes(size)
    server.repos[ID] |= {"a.json": body, "b.json": body, "c.txt": body}
    server.faults.cuts["a.json"] = [size * 2 // 3]
    assert same(get(hub), server)
    sent = sum(sum(a.sent) for name in ("a.json", "b.json", "c.txt") for a in server.content_requests(name))
    assert sent == size


def test_two_names_that_are_one_on_this_disk(server: HubServer) -> None:
    """As on a disk that does not tell upper from lower case."""
    get(huggingface)
    found = huggingface.list_files(Repo(ID))
    as_one = [replace(file, path="same") for file in found.files if file.path in ("config.json", "README.md")]
    call = lambda: huggingface.fetch(Repo(ID), found, as_one, SilentReporter())  # noqa: E731 - short
    assert "lower case" in str(refused(call, "another of its files has that name").hint)


# Tokens


def other_origins(server: HubServer, other: str) -> list[str]:
    """Addresses that some program takes for the hub's own: all of them are not."""
    own = server.url.removeprefix("http://")
    port = other.rpartition(":")[2]
    return [other, f"http://{own}@127.0.0.1:{port}", f"//127.0.0.1:{port}", f"http://127.0.0.1:{port}\\@{own}"]


@pytest.mark.parametrize("which", range(4))
def test_the_next_page_elsewhere_does_not_see_the_token(which: int, server: HubServer) -> None:
    with hubserver.serve({}) as other:
        following = other_origins(server, other.url)[which]

        def page(handler: BaseHTTPRequestHandler) -> None:
            answer(handler, [], {"Link": f'<{following}/tree/next>; rel="next"'})

        server.faults.scripts["/tree/"] = page
        refused(lambda: get(huggingface))
        assert other.asked
        assert {request.token for request in other.asked} == {None}
        assert {request.token for request in server.asked} == {"Bearer hf_secret"}


@pytest.mark.parametrize("which", range(4))
def test_storage_at_another_port_does_not_see_the_token(hub: Hub, which: int, server: HubServer) -> None:
    with hubserver.serve({ID: FILES}) as storage:
        server.faults.storage = other_origins(server, storage.url)[which]
        if which != 3:
            assert same(get(hub), server)
        else:  # an address that cannot be opened is no success either
            refused(lambda: get(hub))
        assert {request.token for request in storage.asked} <= {None}


def test_another_scheme_is_another_host() -> None:
    hub = "https://hub.example"
    same_host = ["https://HUB.example:443/x", "https://hub.example/y"]
    others = [
        "http://hub.example/x",
        "https://hub.example:8443/x",
        "https://hub.example.evil/x",
        "https://evil/hub.example",
    ]
    assert {http._origin(url) == http._origin(hub) for url in same_host} == {True}
    assert {http._origin(url) == http._origin(hub) for url in others} == {False}


def test_a_token_that_cannot_be_sent_is_not_printed() -> None:
    error = refused(lambda: Access("https://hub.example", {"Authorization": "Bearer hf_secret\nX: y"}), "token")
    assert "secret" not in f"{error.message} {error.hint}"
    assert "secret" not in repr(Access("https://hub.example", {"Authorization": "Bearer hf_secret"}))


def test_who_has_no_token_shows_none(hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name)
    assert same(get(hub), server)
    assert {request.token for request in server.asked} == {None}


def test_logins_of_other_programs_are_left_alone(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login me password other-secret\n")
    get(huggingface)
    assert {request.token for request in server.asked} == {"Bearer hf_secret"}


# Listings


def answer(handler: BaseHTTPRequestHandler, data: Any, headers: dict[str, str] | None = None) -> None:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    handler.send_response(200)
    for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(body)


def says(server: HubServer, hub: Hub, data: Any, headers: dict[str, str] | None = None) -> None:
    """Let the server list so; data are the entries, or bytes of anything."""
    if hub is modelscope and not isinstance(data, bytes):
        keys = {"path": "Path", "size": "Size", "type": "Type", "oid": "Revision"}
        as_there = [{keys.get(k, k): v for k, v in e.items()} if isinstance(e, dict) else e for e in data]
        data = {"Code": 200, "Data": {"Files": as_there}}
    part = "/tree/" if hub is huggingface else "/repo/files"
    server.faults.scripts[part] = lambda handler: answer(handler, data, headers)


def entry(path: Any = "config.json", size: Any = 2, **more: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": size, "oid": "0" * 40, **more}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry(size=-5)], "-5 bytes"),
        ([entry(size=1 << 60)], "size of 1,152,921,504,606,846,976 bytes"),
        ([entry(size="2")], "Expected `int"),
        ([entry(size=1e400)], "Expected `int"),
        ([entry(path=7)], "Expected `str`"),
        ([entry(path=None)], "Expected `str`"),
        ([["config.json"]], "Expected `object`"),
        ([{"type": "file"}], "missing required field"),
        ([entry(), entry()], "'config.json' twice"),
        ([entry("a"), entry("a/b")], "'a' twice"),
        ([entry("a//b"), entry("a/./b")], "'a/b' twice"),
        ([entry("x\x1b[2J.json")], r"'x\x1b[2J.json' with control characters"),
        ([entry("x\n\u009bError: y.json")], "control characters"),
        ([entry("config.json"), entry("n" * 300 + ".json")], "too long"),
        ([entry("/etc/passwd")], "outside"),
        ([entry("..\\x")], "outside"),
    ],
)
def test_an_odd_entry(entries: list[Any], words: str, hub: Hub, server: HubServer) -> None:
    says(server, hub, entries)
    error = refused(lambda: get(hub), words)
    assert "\x1b" not in error.message
    assert server.content_requests() == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"<html>Sign in</html>", "not valid JSON"),
        (b"null", "Expected"),
        (b'{"a": 1' * 3, "answers for acme/x is not"),
        (b"[" * 100_000 + b"]" * 100_000, ""),
        (b"\xff\xfe[\x00]\x00", "UTF-16"),
        (b'[{"path": "\xff"}]', "answers for acme/x is not"),
    ],
)
def test_an_answer_that_is_no_listing(body: bytes, words: str, hub: Hub, server: HubServer) -> None:
    says(server, hub, body)
    if (hub, body) != (modelscope, b"null"):
        refused(lambda: get(hub), words)


def test_hashes_that_are_none(server: HubServer) -> None:
    for large in ({"oid": "../../../x"}, {"oid": "A" * 64}, {"oid": "0" * 63 + "\n"}):
        says(server, huggingface, [entry(lfs=large)])
        refused(lambda: get(huggingface), "hash")


def test_a_commit_that_is_none(hub: Hub, server: HubServer) -> None:
    if hub is modelscope:
        says(server, hub, [entry(oid="../../x\x1b")])
    else:
        server.faults.scripts["/revision/"] = lambda handler: answer(handler, {"sha": "../../x"})
    refused(lambda: get(hub), "no commit")


def test_pages_without_end(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LIMITS", Limits(pages=20))
    says(server, huggingface, [], {"Link": f'<{server.url}/api/models/{ID}/tree/again>; rel="next"'})
    refused(lambda: get(huggingface), "without end", "20 pages")
    assert len(server.asked) == 20


def test_pages_of_a_data_set_without_end(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    monkeypatch.setattr(http, "LIMITS", Limits(pages=5))
    page = {"Code": 200, "Data": {"Files": [{"Path": f"{n}.parquet"} for n in range(200)]}}
    server.faults.scripts["/repo/tree"] = lambda handler: answer(handler, page)
    refused(lambda: modelscope.list_files(Repo(ID, kind="dataset")), "without end", "5 pages")


def test_a_listing_that_modelscope_cuts_is_completed_at_its_top(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    monkeypatch.setattr(modelscope, "_CUT_AT", 2)
    parts = {"True": ["a/x.bin", "config.json"], "False": ["config.json", WEIGHTS]}

    def cut(handler: BaseHTTPRequestHandler) -> None:
        which = "True" if "Recursive=True" in handler.path else "False"
        answer(handler, {"Data": {"Files": [{"Path": name, "Revision": COMMIT} for name in parts[which]]}})

    server.faults.scripts["/repo/files"] = cut
    assert [f.path for f in modelscope.list_files(Repo(ID)).files] == ["a/x.bin", "config.json", WEIGHTS]


def test_more_files_than_any_repository_has(hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_FILES", 10)
    says(server, hub, [entry(f"{n}.json") for n in range(11)])
    refused(lambda: get(hub), "11 files")


def test_a_listing_without_end(hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.5 GB of it are as good as this: what is beyond the limit is not read."""
    monkeypatch.setattr(http, "LIMITS", Limits(page_bytes=1 << 20))
    sent = []

    def forever(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * (1 << 16))
            sent.append(1 << 16)

    server.faults.scripts["/repo/files"] = server.faults.scripts["/tree/"] = forever
    refused(lambda: get(hub), "without end", "1 MB")
    assert sum(sent) < 16 << 20


@pytest.mark.parametrize("layers", [1, 2])
def test_a_listing_that_is_a_bomb(layers: int, hub: Hub, server: HubServer) -> None:
    body = b" " * (16 << 20)
    for _ in range(layers):
        body = gzip.compress(body)
    says(server, hub, body, {"Content-Encoding": ", ".join(["gzip"] * layers)})
    refused(lambda: get(hub), "more than 8 MB")


def test_all_pages_together_have_a_limit(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LIMITS", Limits(listing_bytes=10_000))
    following = {"Link": f'<{server.url}/api/models/{ID}/tree/again>; rel="next"'}
    says(server, huggingface, b"[" + b" " * 3000 + b"]", following)
    refused(lambda: get(huggingface), "without end")


def drip(handler: BaseHTTPRequestHandler, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        handler.wfile.write(piece)
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["headers", "body"])
def test_a_listing_byte_by_byte(what: str, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LIMITS", Limits(answer_s=0.6))
    start = b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if what == "body" else b"X: ")
    script = lambda handler: drip(handler, iter([start, *[b" "] * 200]))  # noqa: E731 - short
    server.faults.scripts["/repo/files"] = server.faults.scripts["/revision/"] = script
    refused(lambda: get(hub), "stalled")


def test_headers_without_end(hub: Hub, server: HubServer) -> None:
    def many(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000)

    server.faults.scripts["/repo/files"] = server.faults.scripts["/revision/"] = many
    refused(lambda: get(hub), "headers")


@pytest.mark.parametrize("after", ["999999999999", "\xb2", "-1", "9" * 400, "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_patience_has_an_end(after: str, hub: Hub, server: HubServer) -> None:
    server.faults.api_answers = [(429, {"Retry-After": after})] * 9
    refused(lambda: get(hub), "429")


# Contents


def test_more_than_was_announced(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    def forever(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"\0" * (1 << 20))

    server.faults.scripts["config.json"] = forever
    refused(lambda: get(hub), "sends more than the 2 bytes", "config.json")
    assert sum(f.stat().st_size for f in tmp_path.rglob("config*") if f.is_file()) <= 2


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Content-Length": "2600000000"}, "offers 2,600,000,000 bytes where it lists 3,000,000"),
        ({"Content-Length": "1"}, "offers 1 bytes where it lists 3,000,000"),
        ({"Content-Encoding": "gzip"}, "packs a file (gzip)"),
        ({"Content-Encoding": "x\x1b[2J" * 9}, "packs a file"),
        ({"Content-Length": "-5"}, "of 3,000,000 bytes did not come"),
    ],
)
def test_a_body_that_cannot_be_the_file(headers: dict[str, str], words: str, hub: Hub, server: HubServer) -> None:
    def other(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(b"\0")

    server.faults.scripts[WEIGHTS] = other
    refused(lambda: get(hub), words, WEIGHTS)


@pytest.mark.parametrize("ranges", ["bytes 0-9/3000000", "bytes 5-", "", "bytes 1000000-2999999/3000001"])
def test_another_part_than_was_asked_for(ranges: str, hub: Hub, server: HubServer) -> None:
    server.faults.cuts[WEIGHTS] = [1_000_000]
    whole = server.repos[ID][WEIGHTS]

    def part(handler: BaseHTTPRequestHandler) -> None:
        if "Range" not in handler.headers:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(whole)))
            handler.end_headers()
            handler.wfile.write(whole[:1_000_000])
            return
        handler.send_response(206)
        handler.send_header("Content-Range", ranges)
        handler.end_headers()

    server.faults.scripts[WEIGHTS] = part
    refused(lambda: get(hub), WEIGHTS)
    del server.faults.scripts[WEIGHTS]
    assert same(get(hub), server)


def test_a_file_that_changes_between_two_parts_is_no_mixture(hub: Hub, server: HubServer) -> None:
    server.faults.cuts[WEIGHTS] = [1_000_000]
    before = server.repos[ID][WEIGHTS]
    after = before[::-1]

    def change(handler: BaseHTTPRequestHandler) -> None:
        part = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        start, body = int(part), after if int(part) else before
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        handler.wfile.write(body[start:] if start else body[:1_000_000])

    server.faults.scripts[WEIGHTS] = change
    assert "changed on the hub" in str(refused(lambda: get(hub), "SHA-256", "it was removed").hint)
    del server.faults.scripts[WEIGHTS]
    server.repos[ID][WEIGHTS] = after
    assert same(get(hub), server)


def test_a_body_byte_by_byte(hub: Hub, server: HubServer) -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"
        drip(handler, iter([start, *[b"x"] * 100]))

    server.faults.scripts[WEIGHTS] = slowly
    error = refused(lambda: get(hub), "less than 1,024 bytes a second", WEIGHTS)
    assert "goes on from there" in str(error.hint)


def test_a_hub_that_is_too_slow_is_replaced_by_the_other(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelscope_hub", reason="ModelScope's client is not installed")
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"
    server.faults.scripts[f"/resolve/{COMMIT}/{WEIGHTS}"] = lambda handler: drip(
        handler, iter([start, *[b"x"] * 100])
    )
    both = [Place(huggingface, Repo(ID)), Place(modelscope, Repo(ID))]
    found = obtain(both, Want(needed), SilentReporter())
    assert found.place.hub is modelscope
    assert same(found, server)


def test_a_name_in_the_hub_s_address_is_sent_to_it(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As private mirrors ask for."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_ENDPOINT", server.url.replace("//", "//me:secret@"))
    get(huggingface)
    assert {str(request.token).split()[0] for request in server.asked} == {"Basic"}


def test_a_connection_for_each_byte(hub: Hub, server: HubServer) -> None:
    server.faults.cuts[WEIGHTS] = [1] * 999
    refused(lambda: get(hub), WEIGHTS)
    assert len(server.content_requests(WEIGHTS)) <= 5


def test_redirects_without_end(hub: Hub, server: HubServer) -> None:
    def further(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{server.url}/storage/{WEIGHTS}")
        handler.end_headers()
        handler.wfile.write(b"\0" * (1 << 20))  # which nobody reads

    server.faults.scripts[WEIGHTS] = further
    refused(lambda: get(hub), "one address to another")


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://[", "http://127.0.0.1:99999/", "ftp://127.0.0.1/x"]
)
def test_redirects_to_nowhere(location: str, hub: Hub, server: HubServer) -> None:
    server.faults.answers[WEIGHTS] = [(302, {"Location": location})] * 9
    refused(lambda: get(hub), WEIGHTS)


# Headers of weights, which a plan reads


def with_header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + b"\0" * LARGE


@pytest.mark.parametrize(
    "body",
    [
        b"\0" * 4,
        with_header(b"{}", length=1 << 40),
        with_header(b"{}", length=20_000_000),
        with_header(b"[]"),
        with_header(b'{"a": 1}'),
        with_header(b'{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 99999999999]}}'),
        with_header(b'{"a": {"dtype": "F16", "shape": [1], "data_offsets": [2, 0]}}'),
        with_header(b'{"a": {"dtype": "F16", "shape": "x", "data_offsets": [0, 2]}}'),
    ],
)
def test_weights_with_an_odd_header(body: bytes, server: HubServer) -> None:
    server.repos[ID][WEIGHTS] = body
    file = RemoteFile(WEIGHTS, len(body), "0" * 64)
    refused(lambda: huggingface.read_header(Repo(ID), COMMIT, file), WEIGHTS)


def test_a_header_is_read_without_the_weights(server: HubServer) -> None:
    tensor = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
    text = json.dumps({"__metadata__": {"format": "pt"}, "a": tensor}).encode()

    def all_of_it(handler: BaseHTTPRequestHandler) -> None:  # whatever range was asked for
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(with_header(text))
        while True:
            handler.wfile.write(b"\0" * (1 << 20))

    server.faults.scripts[WEIGHTS] = all_of_it
    found = huggingface.read_header(Repo(ID), COMMIT, RemoteFile(WEIGHTS, 1 << 30, "0" * 64))
    assert found == {"a": {**tensor, "data_offsets": (0, 12)}}


# What users type, and what they see


@pytest.mark.parametrize("revision", ["../../../x", "/x", "a..b", "x\x1b[2J", "a\\b"])
def test_a_revision_that_leads_out_of_the_cache(revision: str) -> None:
    for model in ("acme/x", "ms:acme/x", "qwen2.5-0.5b"):
        with pytest.raises(UsageError, match="no branch, tag or commit"):
            names.places(f"{model}@{revision}")


def test_the_command_line_says_it_once(server: HubServer, tmp_path: Path) -> None:
    says(server, huggingface, [entry("x\x1b[2J.json", size=-5)])
    message = fails(3, "convert", ID, "--out", tmp_path / "out")
    assert "-5 bytes" in message
    assert "\x1b" not in message
    assert not (tmp_path / "out").exists()
