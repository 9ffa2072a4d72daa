"""The live view: one page, and a stream of events with the state of the machine. Nothing runs while nobody looks."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tokenworks.serving.http import HttpError, head
from tokenworks.simulation.layout import device_layout

if TYPE_CHECKING:
    import asyncio

    from tokenworks.engine.progress import Levels
    from tokenworks.serving.http import Connection, HttpRequest
    from tokenworks.serving.server import Server

EVERY_S = 0.5
"""Time between two states [s]."""
MOST_VIEWERS = 32
"""Viewers at the same time; the next one gets 503 [count]."""
HTML = "text/html; charset=utf-8"


@cache
def page() -> tuple[bytes, dict[str, str]]:
    """The page, and the headers that let it load nothing but its own script, style and events."""
    text = files("tokenworks.serving").joinpath("files/live.html").read_text(encoding="utf-8")
    hashes = {
        tag: base64.b64encode(
            hashlib.sha256(re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0].encode()).digest()
        )
        for tag in ("script", "style")
    }
    policy = "; ".join((
        "default-src 'none'", *(f"{tag}-src 'sha256-{own.decode()}'" for tag, own in hashes.items()),
        "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    ))  # fmt: skip
    return text.encode(), {"content-security-policy": policy, "referrer-policy": "no-referrer"}


class LiveStream:
    """The events of one viewer. A viewer that reads slowly misses states.

    Parameters
    ----------
    live : the live view
    connection, request : where the viewer is
    """

    def __init__(self, live: LiveView, connection: Connection, request: HttpRequest) -> None:
        self.live, self.connection, self.chunked, self.paused = live, connection, request.chunked, False
        headers = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}
        if self.chunked:
            headers["transfer-encoding"] = "chunked"
        connection.answer, connection.closing = self, True
        connection.transport.write(head(200, headers | {"connection": "close"}))

    def send(self, event: bytes) -> None:
        """Send an event."""
        if not self.paused:
            self.connection.transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self.chunked else event)

    def gone(self) -> None:
        """The viewer has left."""
        self.live.viewers.discard(self)

    def resume(self) -> None:
        """The viewer reads again: it gets the next state."""


class LiveView:
    """What viewers see: the machine once, and its state every `EVERY_S`.

    Parameters
    ----------
    server : the server
    """

    def __init__(self, server: Server) -> None:
        self.server, self.viewers = server, set[LiveStream]()
        self._timer: asyncio.TimerHandle | None = None
        self._before: tuple[float, Levels, int, tuple[Any, ...]] | None = None
        self._shown: list[int] = []
        served = server.served
        self._layout = device_layout(served.deployment, served.site.machine)
        self._ranks = [
            [self._layout.engine_rank(instance, rank) for rank in range(ranks)]
            for instance, (_, ranks, _) in enumerate(self._layout.instances)
        ]

    def watch(self, connection: Connection, request: HttpRequest) -> None:
        """A viewer has come."""
        if len(self.viewers) >= MOST_VIEWERS:
            raise HttpError(503, f"{MOST_VIEWERS} viewers look already", headers={"retry-after": "5"})
        stream = LiveStream(self, connection, request)
        stream.send(_event("machine", self.machine()))
        self.viewers.add(stream)
        if self._timer is None:
            self._before, self._shown = None, self._owners()
            self.state()  # rates need an earlier state
            self._timer = self.server.loop.call_later(EVERY_S, self._tick)

    def _tick(self) -> None:
        """Send the state to all viewers; without viewers, stop."""
        self._timer = None
        if not self.viewers or self.server.stopping:
            return
        event, owners = _event("state", self.state()), self._owners()
        if owners != self._shown:  # an instance has moved to other cards
            self._shown, event = owners, _event("machine", self.machine()) + event
        for viewer in list(self.viewers):
            viewer.send(event)
        self._timer = self.server.loop.call_later(EVERY_S, self._tick)

    # ---- what is shown

    def _owners(self) -> list[int]:
        """The instance of each device; -1: none."""
        owners = [-1] * len(self._layout.places)
        for one in self.server.faults.states:
            for device in one.devices:
                owners[device] = one.instance
        return owners

    def machine(self) -> dict[str, Any]:
        """What seldom changes: model, roles, and the instance of each device, by domain and host."""
        server, layout = self.server, self._layout
        served, machine = server.served, server.served.site.machine
        owners = self._owners()
        domains = [
            [own[at : at + layout.per_host] for at in range(0, len(own), layout.per_host)]
            for own in (owners[first : first + layout.domain] for first in range(0, len(owners), layout.domain))
        ]
        roles = [
            {
                "name": role.name, "split": str(role.parallel), "instances": role.replicas,
                "max_sequences": role.max_sequences,
            }
            for role in served.deployment.roles
        ]  # fmt: skip
        price = server.settings.usd_per_device_hour
        return {
            "model": server.model, "machine": machine.name, "device": machine.device, "devices": machine.devices,
            "domains": domains, "roles": roles, "role_of": [role for role, _, _ in layout.instances],
            "slo": str(server.settings.slo), "speed": server.settings.speed,
            "usd_per_hour": None if price is None else price * served.deployment.devices,
            "version": server.settings.version,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """The state now. Rates are means since the state before, on the logical clock."""
        server = self.server
        metrics, driver = server.metrics, server.driver
        levels, tiers, now = driver.levels(), driver.simulator.counts().tiers, driver.now()
        made = int(metrics.generated().sum())
        then, before, earlier, tiers_before = self._before or (now, levels, made, tiers)
        if before.busy_s.sum() > levels.busy_s.sum() or len(tiers_before) != len(tiers):  # the cache was flushed
            then, before, earlier, tiers_before = now, levels, made, tiers
        self._before = (now, levels, made, tiers)
        per_s = 1 / (now - then) if now > then else 0.0
        first = [own[0] for own in self._ranks]
        busy = np.clip((levels.busy_s - before.busy_s) * per_s, 0, 1)[first]
        kv = [float(levels.kv_used[own].sum() / max(levels.kv_total[own].sum(), 1)) for own in self._ranks]
        times = np.array(metrics.recent or [(np.nan, np.nan)])
        p50, p99 = 1e3 * np.percentile(times, 50, axis=0), 1e3 * np.percentile(times, 99, axis=0)
        answered, queries = metrics.answered_tokens, int(levels.query_tokens.sum())
        price = server.settings.usd_per_device_hour
        cost = None if price is None else price * server.served.deployment.devices * now / 3600
        size = server.served.block_bytes
        stores = [
            {
                "name": store.name, "used": one.used / max(one.total, 1), "bytes": one.total * size,
                "read_bytes_per_s": (one.read_blocks - old.read_blocks) * size * per_s,
                "written_bytes_per_s": (one.written_blocks - old.written_blocks) * size * per_s,
            }
            for store, one, old in zip(server.served.cluster.tiers.stores, tiers, tiers_before, strict=False)
        ]  # fmt: skip
        return {
            "seconds": _short(now), "ready": server.ready, "asleep": server.asleep,
            "condition": [one.word for one in server.faults.states],
            "running": [int(levels.running[own].sum()) for own in self._ranks],
            "waiting": [int(levels.waiting[own].sum()) for own in self._ranks],
            "busy_share": [_short(one) for one in busy.tolist()], "kv_used": [_short(one) for one in kv],
            "tokens_per_s": _short((made - earlier) * per_s),
            "prefill_per_s": _short(float((levels.prefill_tokens - before.prefill_tokens).sum()) * per_s),
            "effective_share": _short(metrics.effective / answered) if answered else None,
            "requests": metrics.kept + metrics.missed, "missed": metrics.missed, "rejected": metrics.rejected,
            "tokens": made, "usd": None if cost is None else round(cost, 6),
            "hit_share": _short(int(levels.hit_tokens.sum()) / queries) if queries else None,
            "ttft_ms": [_short(p50[0]), _short(p99[0])], "tpot_ms": [_short(p50[1]), _short(p99[1])], "tiers": stores,
        }  # fmt: skip


def _short(value: float) -> float | None:
    """A figure with five digits; None if it is not a number."""
    return None if math.isnan(value) else float(f"{value:.5g}")


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
