"""`/admin/faults`: see the faults of the simulated machine, let parts fail, and repair them while the endpoint runs."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tokenworks.errors import SpecError
from tokenworks.serving.http import Connection, HttpError, HttpRequest
from tokenworks.simulation.fault_effects import InstanceState
from tokenworks.simulation.recovery import Recovering
from tokenworks.specs.faults import load_faults

if TYPE_CHECKING:
    from tokenworks.serving.chaos import LiveFaults
    from tokenworks.serving.server import Server

MOST_SHOWN = 1000
"""Faults of the list; of faults that are over, the last ones [count]."""
_Result = TypeVar("_Result")


# ---- who may ask


def must_be_admin(server: Server, connection: Connection, request: HttpRequest) -> None:
    """Refuse a request that has no admin key; without such a key, one that does not come from this computer."""
    digests = server.admin_keys
    if digests:
        if not has_key(request, digests):
            raise HttpError(401, "the admin key is missing or wrong", headers={"www-authenticate": "Bearer"})
        return
    if not is_from_here(connection, request):
        raise HttpError(
            403, "faults are changed from this computer only; start the server with --admin-key to allow others"
        )


def is_from_here(connection: Connection, request: HttpRequest) -> bool:
    """Whether a request comes from this computer.

    A page of another site that a browser on this computer shows, and a proxy that runs here, come from this computer,
    too. The headers `host`, `origin` and `x-forwarded-for` give them away.
    """
    peer = connection.transport.get_extra_info("peername")
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    outside = {"origin", "x-forwarded-for", "forwarded"}.intersection(request.headers)
    return bool(peer and _is_here(str(peer[0])) and _is_here(host.strip("[]")) and not outside)


def has_key(request: HttpRequest, digests: Sequence[bytes]) -> bool:
    """Whether a request has one of the keys, compared in a time that does not depend on the key.

    Parameters
    ----------
    request : the key is in the header `authorization` after the word Bearer, or in `x-api-key`
    digests : SHA-256 of the keys
    """
    word, _, key = request.headers.get("authorization", "").partition(" ")
    if word.lower() != "bearer":
        key = request.headers.get("x-api-key", "")
    digest, found = key_digest(key.strip()), False
    for one in digests:
        found |= hmac.compare_digest(digest, one)
    return found


def key_digest(key: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode("latin-1", "replace")).digest()


def _is_here(host: str) -> bool:
    """Whether a name or an address means this computer."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


# ---- routes


def show_faults(server: Server, connection: Connection, request: HttpRequest) -> None:
    """GET /admin/faults: the faults of the machine, and the state of its instances."""
    must_be_admin(server, connection, request)
    server.send(connection, request, seen(server))


def add_faults(server: Server, connection: Connection, request: HttpRequest) -> None:
    """POST /admin/faults: let parts fail: one fault, or a schedule as `simulate --faults` takes it.

    Times count from now.
    """
    must_be_admin(server, connection, request)
    alter = server.faults.asked(load_faults(_schedule(request.body)))
    server.later(connection, request, _altered(server, connection, request, alter))


def repair_faults(server: Server, connection: Connection, request: HttpRequest) -> None:
    """DELETE /admin/faults: let the part of the fault ?id=N work again now; without an id, all parts."""
    must_be_admin(server, connection, request)
    name, _, text = request.query.partition("=")
    count = len(server.faults.effects)
    if request.query and (name != "id" or not text.isdecimal() or int(text) >= count):
        known = f"0 to {count - 1}" if count else "there is none"
        raise HttpError(404, f"?{request.query[:100]} names no fault; write ?id=N: {known}", param="id")
    chosen = [int(text)] if request.query else range(count)

    def alter(recovering: Recovering) -> list[int]:
        ended = [index for index in chosen if not recovering.effects[index].ended]
        for index in ended:
            recovering.repair(index)
        return ended

    server.later(connection, request, _altered(server, connection, request, alter))


async def _altered(
    server: Server, connection: Connection, request: HttpRequest, alter: Callable[[Recovering], list[int]]
) -> None:
    numbers = await change(server, alter)
    server.send(connection, request, {"changed": numbers, **seen(server)})


async def change(server: Server, alter: Callable[[Recovering], _Result]) -> _Result:
    """Change what fails, as soon as the engine has all step times that the change needs.

    Parameters
    ----------
    server : the server
    alter : the change
    """
    faults, driver = server.faults, server.driver
    async with server.changing:
        while missing := faults.missing(alter):
            for role, condition in missing:  # other requests go on meanwhile
                cost = await server.loop.run_in_executor(None, faults.cost, role, condition)
                faults.learn(driver.simulator, role, condition, cost)
            faults.advance(driver.now(), driver.simulator)
        faults.advance(driver.now(), driver.simulator)
        result = alter(faults.recovering)
        faults.settle(driver.now(), driver.simulator)
        driver.wake()
    return result


def _schedule(body: bytes) -> Any:
    """The content of a schedule: a list of faults, or an object with `faults`, or one fault."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, f"the body is no valid JSON: {error}") from None
    if isinstance(data, dict) and "faults" not in data:
        data = [data]
    faults = data.get("faults") if isinstance(data, dict) else data
    if not isinstance(faults, list) or not all(isinstance(one, dict) for one in faults):
        raise HttpError(400, 'write one fault, such as {"part": "device 7", "for": "3 min"}, or a list of them',
                        param="faults")  # fmt: skip
    faults = [{"at": "0 s", **one} for one in faults]
    return {**data, "faults": faults} if isinstance(data, dict) else faults


# ---- what is shown


def seen(server: Server) -> dict[str, Any]:
    """Faults and instances, as GET /admin/faults shows them."""
    faults = server.faults
    numbers = list(range(len(faults.effects)))
    over = [index for index in numbers if faults.word(index) == "over"]
    hidden = set(over[: max(0, len(numbers) - MOST_SHOWN)])
    return {
        "clock_s": server.driver.now(),
        "random_faults": faults.terms.seed is not None,
        "faults": [_fault(faults, index) for index in numbers if index not in hidden],
        "instances": [_instance(one) for one in faults.states],
    }


def _fault(faults: LiveFaults, index: int) -> dict[str, Any]:
    effect = faults.effects[index]
    fault, state = effect.fault.fault, faults.word(index)
    return {
        "id": index, "part": fault.part, "state": state, "at_s": fault.at, "for_s": effect.fault.lasts,
        "permanent": fault.permanent, "drained": fault.drained, "devices": effect.devices,
        "bandwidth_lost": effect.lost, "instances": sorted(effect.instances), "ranks": effect.ranks,
        "noticed_s": effect.noticed_s, "down_s": effect.down_s, "whole_s": effect.whole_s if state == "over" else None,
    }  # fmt: skip


def _instance(one: InstanceState) -> dict[str, Any]:
    return {
        "instance": one.instance, "role": one.role, "state": one.word, "ranks": one.ranks, "live_ranks": one.live,
        "scale_up_share": one.condition.up_share, "scale_out_share": one.condition.out_share,
        "devices": list(one.devices), "serving_devices": len(one.serving),
    }  # fmt: skip


def spec_error(error: SpecError) -> HttpError:
    """The error response for bad input."""
    return HttpError(400, str(error))
