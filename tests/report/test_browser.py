"""Pages in a real browser: the charts are drawn, nothing is requested, and axe-core finds no violation.

The tests need Chromium (`apt install chromium`). The test of axe-core also needs the path of its axe.min.js in the
variable TOKENWORKS_AXE (`npm install axe-core`).
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.test_page import SAMPLES, Lang, html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = os.environ.get("TOKENWORKS_AXE", "")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-default-apps", "--virtual-time-budget=20000",
)  # fmt: skip

BROWSER = "not an origin"
"""What the log has as the origin of a request that no page asked for."""

RUN_AXE = """
axe.run(document).then((result) => {
  const lines = result.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`);
  const out = document.createElement("pre");
  out.id = "axe-result";
  out.textContent = "axe ran; " + lines.join("; ");
  document.body.append(out);
});
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; `apt install chromium`"),
]


def opened(page: Path, folder: Path, *flags: str) -> str:
    """The document as the browser shows it."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("kind", SAMPLES)
def test_charts_are_drawn_and_nothing_is_requested(kind: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html(kind), encoding="utf-8")
    log = tmp_path / "net.json"
    shown = opened(page, tmp_path, f"--log-net-log={log}")
    charts = set(re.findall(r'class="chart" id="chart-([\w-]+)"', page.read_text(encoding="utf-8")))
    assert charts
    assert len(re.findall(r'<svg [^>]*class="marks"', shown)) == len(charts)
    assert "failed" not in set(re.findall(r'class="chart ([\w ]+)"', shown))
    assert requested(log) == set()


def test_a_request_would_be_seen(tmp_path: Path) -> None:
    """The check of the other tests finds the request of a page that does load something."""
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>x</title><img src='http://127.0.0.1:9/x.png' alt=''>", encoding="utf-8")
    log = tmp_path / "net.json"
    opened(page, tmp_path, f"--log-net-log={log}")
    assert requested(log) == {"http://127.0.0.1:9/x.png"}


def requested(log: Path) -> set[str]:
    """Addresses that a page asked for. The log also has requests of the browser itself: these have no origin."""
    text = log.read_text(encoding="utf-8").rstrip()
    whole = text if text.endswith("}") else text.rstrip(",") + "]}"  # the browser may end before it ends the log
    params = [event.get("params", {}) for event in json.loads(whole)["events"]]
    return {
        one["url"]
        for one in params
        if "url" in one and one.get("initiator", BROWSER) != BROWSER and not one["url"].startswith(("file:", "data:"))
    }


def test_hostile_names_run_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = "<img src=x onerror=\"document.title='broken'\"></script><script>document.title='broken'</script>"
    page.write_text(html("compare", text=text), encoding="utf-8")
    shown = opened(page, tmp_path)
    assert "<title>broken</title>" not in shown
    assert 'class="marks"' in shown


@pytest.mark.skipif(not AXE, reason="set TOKENWORKS_AXE to the path of axe.min.js; `npm install axe-core`")
@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("kind", SAMPLES)
def test_axe_finds_no_violation(kind: str, lang: Lang, tmp_path: Path) -> None:
    document = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html(kind, lang))
    axe = Path(AXE).read_text(encoding="utf-8")
    before, _, after = document.rpartition("</body>")
    scripts = f"<script>{axe}</script><script>setTimeout(() => {{{RUN_AXE}}}, 3000)</script>"
    page = tmp_path / "page.html"
    page.write_text(f"{before}{scripts}</body>{after}", encoding="utf-8")
    shown = opened(page, tmp_path)
    (found,) = re.findall(r'<pre id="axe-result">(.*?)</pre>', shown, flags=re.DOTALL)
    assert found.strip() == "axe ran;"
