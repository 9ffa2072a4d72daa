"""The live view: events say what the engine says, nothing runs while nobody looks, the page loads nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.serving.client import ask, connected, get, idle, post
from tests.serving.conftest import DEPLOYMENT, Endpoint, built, running
from tokenworks.serving.live import EVERY_S, MOST_VIEWERS, page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOOK = get("/live/events", host="localhost")
SPLIT: dict[str, Any] = {
    **DEPLOYMENT, "system": "hgx-h100:4", "engine": "sglang", "tiers": "hicache",
    "roles": [{"name": "prefill"}, {"name": "decode", "replicas": 2, "max_sequences": 64}],
}  # fmt: skip


@pytest.fixture(scope="module")
def priced(kernel: None) -> Iterator[Endpoint]:
    """An endpoint of two roles on three of four cards, with KV tiers and a price."""
    yield from running(built(SPLIT, usd_per_device_hour=2.0, drain_s=0.1))


OPEN = list[socket.socket]()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the viewers of a test, also if it fails."""
    yield
    while OPEN:
        OPEN.pop().close()


class Viewer:
    """Reads events."""

    def __init__(self, endpoint: Endpoint, request: bytes = LOOK) -> None:
        self.sock, self.data = connected(endpoint), b""
        OPEN.append(self.sock)
        self.sock.sendall(request)
        self.machine = self.next("machine")

    def next(self, name: str) -> Any:
        """Data of the next event, which must have this name."""
        came, data = self.any()
        assert came == name
        return data

    def any(self) -> tuple[str, Any]:
        """Name and data of the next event."""
        while True:
            match = re.search(rb"event: (\w+)\ndata: (.*)\n\n", self.data)
            if match:
                self.data = self.data[match.end() :]
                return match[1].decode(), json.loads(match[2])
            more = self.sock.recv(65536)
            assert more, self.data
            self.data += more


def test_states_say_what_the_engine_says(priced: Endpoint) -> None:
    viewer = Viewer(priced)
    machine = viewer.machine
    assert machine["domains"] == [[[0, 1, 2, -1]]]
    assert [role["name"] for role in machine["roles"]] == ["prefill", "decode"]
    assert machine["role_of"] == [0, 1, 1]
    assert machine["usd_per_hour"] == 6.0
    body = {"prompt": "a prompt that comes again " * 100, "max_tokens": 2000}
    threads = [threading.Thread(target=ask, args=(priced, post("/v1/completions", body))) for _ in range(6)]
    for thread in threads:
        thread.start()
    states = [viewer.next("state") for _ in range(3)]
    for thread in threads:
        thread.join()
    states += [viewer.next("state") for _ in range(2)]
    assert max(sum(state["running"][1:]) for state in states) == 6
    assert max(min(state["busy_share"][1:]) for state in states) > 0.5
    last = states[-1]
    assert (last["tokens"], last["requests"], last["missed"]) == (6 * 2000, 6, 0)
    assert last["running"] == last["waiting"] == [0, 0, 0]
    assert last["effective_share"] == 1.0
    assert last["usd"] == pytest.approx(6 * last["seconds"] / 3600, abs=1e-5)
    assert last["hit_share"] > 0
    assert [tier["name"] for tier in last["tiers"]] == [
        store.name for store in priced.server.served.cluster.tiers.stores
    ]
    assert last["tiers"][0]["used"] > 0
    produced = sum(state["tokens_per_s"] for state in states) * EVERY_S * 20
    assert produced == pytest.approx(12000, rel=0.5)  # states of a busy computer come late
    assert all(0 <= share <= 1 for state in states for key in ("busy_share", "kv_used") for share in state[key])
    viewer.sock.close()
    assert idle(priced)


def test_nothing_runs_while_nobody_looks(priced: Endpoint) -> None:
    live = priced.server.live
    viewers = [Viewer(priced), Viewer(priced, LOOK.replace(b"HTTP/1.1", b"HTTP/1.0"))]
    for viewer in viewers:
        viewer.next("state")
    assert len(live.viewers) == 2
    viewers[0].sock.close()
    viewers[1].next("state")
    viewers[1].next("state")
    viewers[1].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    viewers[1].sock.close()
    until = time.monotonic() + 10
    while live.viewers or live._timer is not None:
        assert time.monotonic() < until
        time.sleep(0.02)
    again = Viewer(priced)
    assert again.next("state")["tokens_per_s"] == 0
    again.sock.close()


def test_faults_are_shown(kernel: None) -> None:
    """A lost card stops its instance, and the instance moves to the spare card."""
    plan = {**DEPLOYMENT, "system": "hgx-h100:3", "spares": 1}
    for endpoint in running(built(plan, drain_s=0.1)):
        viewer = Viewer(endpoint)
        assert viewer.machine["domains"] == [[[0, 1, -1]]]
        assert viewer.next("state")["condition"] == ["running", "running"]
        fault = {"part": "device 1", "for": "1 h"}
        answer = ask(endpoint, post("/admin/faults", fault, host="localhost"))
        assert answer.status == 200, answer.body
        seen, domains = set[str](), viewer.machine["domains"]
        while domains != [[[0, -1, 1]]] or not seen & {"lost", "starting"}:
            name, data = viewer.any()
            if name == "machine":
                domains = data["domains"]
            else:
                seen.add(data["condition"][1])
        viewer.sock.close()


def test_a_flushed_cache_and_too_many_viewers(priced: Endpoint) -> None:
    viewers = [Viewer(priced) for _ in range(MOST_VIEWERS)]
    assert ask(priced, LOOK).status == 503
    viewers[0].next("state")
    assert idle(priced)
    priced.server.loop.call_soon_threadsafe(priced.server.driver.flush)
    assert [viewers[0].next("state")["tokens_per_s"] for _ in range(2)] == [0, 0]
    for viewer in viewers:
        viewer.sock.close()


def test_who_may_look(endpoint: Endpoint, guarded: Endpoint) -> None:
    """With keys: who has one. Without keys: this computer. The page itself has no figures, so everybody may have it."""
    assert ask(guarded, LOOK).status == 401
    viewer = Viewer(guarded, get("/live/events", headers="authorization: Bearer other\r\n"))
    assert viewer.machine["devices"] == 2
    viewer.sock.close()
    assert ask(guarded, get("/live")).status == 200
    for other in (get("/live/events"), LOOK.replace(b"\r\n\r\n", b"\r\norigin: http://elsewhere\r\n\r\n")):
        refused = ask(endpoint, other)
        assert refused.status == 403
        assert "--api-key" in refused.json["error"]["message"]
    assert ask(endpoint, get("/live/events", method="POST")).status == 405


def test_the_page_loads_nothing_else(endpoint: Endpoint) -> None:
    response = ask(endpoint, get("/live"))
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    text = page()[0].decode()
    assert re.findall(r"https?://|src=|href=|@import|url\(|innerHTML|eval\(| style=| on\w+=", text) == []
    names = set(re.findall(r"\bstate\.(\w+)", text))
    seen = Viewer(endpoint)
    assert names <= set(seen.next("state"))
    assert set(re.findall(r"\b(?:machine|data)\.(\w+)", text)) - {"view"} <= set(seen.machine)
    seen.sock.close()


async def _shown(url: str, until: str, folder: Path) -> str:
    """The document that Chromium shows, as soon as it holds a text; after 60 s as it is.

    `--dump-dom` would not do: its clock runs ahead of the events that the server sends.
    """
    browser = await asyncio.create_subprocess_exec(
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0",
        f"--user-data-dir={folder}", url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(120), aiohttp.ClientSession() as session:
            port = folder / "DevToolsActivePort"
            while not (port.exists() and port.read_text().count("\n")):  # one line with the port, one with a path
                await asyncio.sleep(0.1)
            async with session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list") as response:
                target = next(one for one in await response.json() if one["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket_:
                ends = time.monotonic() + 60
                while True:
                    ask_ = {"expression": "document.documentElement.outerHTML"}
                    await socket_.send_json({"id": 1, "method": "Runtime.evaluate", "params": ask_})
                    shown = str((await socket_.receive_json())["result"]["result"]["value"])
                    if until in shown or time.monotonic() > ends:
                        return shown
                    await asyncio.sleep(0.2)
    finally:
        browser.kill()
        await browser.wait()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; `apt install chromium`")
def test_a_browser_shows_it(priced: Endpoint, tmp_path: Path) -> None:
    body = {"prompt": "x", "max_tokens": 8000, "stream": True}
    socks = [connected(priced) for _ in range(20)]
    for sock in socks:
        sock.sendall(post("/v1/completions", body))
    shown = asyncio.run(_shown(f"{priced.url}/live", 'class="dot ready"', tmp_path))
    assert re.search(r'<h1 id="model">meta-llama/Meta-Llama-3.1-8B</h1>', shown)
    assert 'class="dot ready"' in shown
    cards = re.findall(r'<div class="(card[ \w]*)" (?:style="background: rgb\([^"]*" )?title="([^"]*)"', shown)
    assert [kind for kind, _ in cards] == ["card", "card", "card", "card idle"]
    assert "decode instance 2, running: busy" in cards[1][1]
    assert re.search(r'<strong id="tokens">[\d,.]+( k)?/s</strong>', shown)
    assert re.search(r'<strong id="cost">\$0\.\d{4}</strong>', shown)
    for sock in socks:
        sock.close()
    assert idle(priced)
