"""The HTML report in a real browser: no errors, nothing fetched, sorting works, fits a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ggufkit import report
from ggufkit.report import results
from tests.fake_results import write_results

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]  # fmt: skip
OWN_HOSTS = re.compile(r"https?://[^/]*\.(google|googleapis|gvt1)\.com/")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

# The page is loaded into frames as wide as a screen and a phone, used as a reader would, and looked at.
PROBE = """<!doctype html><title>probe</title><body><pre id="seen"></pre><script>
const page = PAGE, seen = {};
const open = width => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.srcdoc = page;
  frame.onload = () => done(frame.contentDocument);
  document.body.append(frame);
});
(async () => {
  for (const width of [1280, 390]) {
    const doc = await open(width), table = doc.getElementById("table");
    const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].querySelector("small").textContent);
    const head = name => [...table.tHead.rows[0].cells].find(cell => cell.textContent.startsWith(name));
    const click = name => { head(name).querySelector("button").click(); return names(); };
    const found = { before: names(), overflow: doc.documentElement.scrollWidth - width };
    found.up = click("KLD"); found.sorted = head("KLD").getAttribute("aria-sort"); found.down = click("KLD");
    found.file = click("File");
    const memory = doc.getElementById("memory"), choice = doc.getElementById("choice");
    found.quiet = choice.hidden;
    memory.value = "1"; memory.dispatchEvent(new Event("input"));
    found.choice = choice.textContent;
    memory.value = "0.001"; memory.dispatchEvent(new Event("input"));
    found.nothing = choice.textContent;
    const sizes = [...doc.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height);
    found.text = Math.min(...sizes.filter(size => size));
    seen[width] = found;
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_results(tmp_path_factory.mktemp("browser") / "out")
    report.write(results.collect(root), root)
    return root / "report.html"


def browse(page: Path, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Chromium on a page with a profile of its own."""
    flags = [*FLAGS, f"--user-data-dir={directory / 'profile'}", *options]
    return subprocess.run(
        [CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )


@needs_chromium
def test_the_page_works(page: Path, tmp_path: Path) -> None:
    source = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("PAGE", source), encoding="utf-8")
    netlog = tmp_path / "net.json"
    ran = browse(probe, tmp_path, "--dump-dom", "--virtual-time-budget=10000", f"--log-net-log={netlog}")
    assert "CONSOLE" not in ran.stderr, ran.stderr
    found = re.search(r'<pre id="seen">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stdout[-500:]
    seen: dict[str, dict[str, Any]] = json.loads(html.unescape(found[1]))
    for width in ("1280", "390"):
        look(seen[width])
    assert requests(netlog) == []


def look(seen: dict[str, Any]) -> None:
    assert seen["overflow"] <= 0
    assert seen["sorted"] == "ascending"
    assert seen["up"][0] == "tiny-Q8_0.gguf"
    assert seen["up"][-1] == seen["down"][-1] == "tiny-F16.gguf"  # not measured: last either way
    assert seen["down"][:-1] == seen["up"][:-1][::-1]
    assert seen["file"] == sorted(seen["before"], key=str.lower)
    assert seen["quiet"]
    assert seen["choice"].startswith("Take tiny-F16.gguf: 25 MiB with 4,096 tokens of context")
    assert seen["nothing"].startswith("Nothing fits: the smallest file needs ")
    assert seen["text"] >= 8


def requests(netlog: Path) -> list[str]:
    """Addresses that were asked for over the network, but for those that the browser asks its maker."""
    text = netlog.read_text(encoding="utf-8", errors="replace")
    return [url for url in re.findall(r'"url":"(https?://[^"]+)"', text) if not OWN_HOSTS.match(url)]


@needs_chromium
def test_requests_would_be_noticed(tmp_path: Path) -> None:
    page, netlog = tmp_path / "page.html", tmp_path / "net.json"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("here")</script>')
    ran = browse(page, tmp_path, "--dump-dom", "--virtual-time-budget=2000", f"--log-net-log={netlog}")
    assert "CONSOLE" in ran.stderr
    assert "http://127.0.0.1:9/x.png" in requests(netlog)


@needs_chromium
@pytest.mark.parametrize(("width", "theme"), [(1280, 0), (1280, 1)])
def test_screenshots_in_both_themes(page: Path, tmp_path: Path, width: int, theme: int) -> None:
    picture = tmp_path / "page.png"
    scheme = f"--blink-settings=preferredColorScheme={1 - theme}"
    ran = browse(page, tmp_path, f"--screenshot={picture}", f"--window-size={width},1600", scheme)
    assert picture.is_file(), ran.stderr
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 30_000
