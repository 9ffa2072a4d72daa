"""`--on` to a Machine: systems over a network, with every number resolved, or named as missing or assumed."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tokenworks import units
from tokenworks.errors import SpecError
from tokenworks.specs import load
from tokenworks.specs.device import Device
from tokenworks.specs.machine import Assumption, HostNode, Link, Machine
from tokenworks.specs.provenance import Quantity, Spec
from tokenworks.specs.system import Network, System

SpecT = TypeVar("SpecT", bound=Spec)

_ON = re.compile(r"(?:(?P<count>[+-]?[0-9]+)x)?(?P<system>[^@]+)(?:@(?P<network>[^@]+))?")
_MOST_DIGITS = 7
_EXAMPLES = ("hgx-h100@ndr", "hgx-mi300x")  # systems that publish most numbers, to show how one is written
# What an assumption may add, beside every number that stands in the files.
_OPTIONAL = {f"device.peak.{dtype}": "FLOP/s" for dtype in ("fp4", "fp8", "int8", "bf16", "tf32", "fp32")} | {
    "device.scale_up.pair": "byte/s"
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What `--on` names, before its numbers are needed: `count` systems, their device, and the network if any.

    given : numbers that a user put in place of those of the files, value by path
    """

    on: str
    count: int
    system: System
    device: Device
    network: Network | None
    given: Mapping[str, str] = field(default_factory=dict)

    def quantities(self) -> dict[str, Quantity]:
        """Every number with provenance by dotted path: `hop` of the fabric is `scale_up.hop`, `nic` is `device.nic`."""
        found = dict(_quantities(self.system)) | dict(_quantities(self.device, "device."))
        return found | (dict(_quantities(self.network, "network.")) if self.network else {})

    def replace(self, path: str, quantity: Quantity) -> Parts:
        """The same parts with one number replaced."""
        head, *rest = path.split(".")
        if head == "device":
            return dataclasses.replace(self, device=_replace(self.device, rest, quantity))
        if head == "network" and self.network:
            return dataclasses.replace(self, network=_replace(self.network, rest, quantity))
        return dataclasses.replace(self, system=_replace(self.system, [head, *rest], quantity))


def machine(
    on: str, *, assume: Path | Mapping[str, str] | None = None, needs: Collection[str] | None = None
) -> Machine:
    """The machine that `--on` means: `[Nx]SYSTEM[@NETWORK]`, where SYSTEM and NETWORK are catalog names or YAML files.

    Parameters
    ----------
    on : such as "scalex40", "5xhgx-h100", "4xscalex40@xdr", "2xmy-box.yaml"
    assume : YAML file of numbers to use instead, `path: value` a line, such as `device.peak.bf16: 350 TFLOP/s`; or
        such lines as a plan file keeps them
    needs : paths of the numbers that will be read, all that a step reads where None; others may be missing (NaN)

    Raises
    ------
    SpecError : bad name, count or file; or a needed number is not published: all of them are named
    """
    made, missing = resolve(parts(on, assume=assume))
    if needs is not None:
        missing = {path: unit for path, unit in missing.items() if path in needs}
        made = dataclasses.replace(made, assumed=tuple(item for item in made.assumed if item.path in needs))
    if missing:
        named = ", ".join(f"{path} [{unit}]" for path, unit in missing.items())
        path, unit = next(iter(missing.items()))
        raise SpecError(
            f"not published, and a prediction needs it: {named}",
            where=made.name,
            hint=f"supply your own with --assume FILE, a line each, such as `{path}: {_example(path, unit)}`",
        )
    return made


def times(on: str, count: int) -> str:
    """The `--on` of so many machines: 2 of 5xhgx-h100@xdr are 10xhgx-h100@xdr."""
    match = _ON.fullmatch(on.strip())
    assert match is not None
    network = f"@{match['network']}" if match["network"] else ""
    return f"{count * int(match['count'] or 1)}x{match['system']}{network}"


def parts(on: str, *, assume: Path | Mapping[str, str] | None = None) -> Parts:
    """Read the files that `on` names, and put the numbers of `assume` in place."""
    match = _ON.fullmatch(on.strip())
    if match is None:
        raise SpecError(f"cannot read {on!r}", where="--on", hint="write [Nx]SYSTEM[@NETWORK], as in 4xscalex40@xdr")
    count = match["count"] or "1"
    if len(count) > _MOST_DIGITS or int(count) < 1:
        raise SpecError(
            f"{count} systems in {on!r}",
            where="--on",
            hint=f"write a count of 1 or more, and at most {_MOST_DIGITS} digits",
        )
    path = load.locate("system", match["system"])
    system = load.load(System, path)
    device = path.parent / system.device if load.is_path(system.device) else load.locate("device", system.device)
    network = match["network"] or system.network
    found = Parts(
        on.strip(), int(count), system, load.load(Device, device), load.load_network(network) if network else None
    )
    return _assume(found, assume) if assume else found


def resolve(found: Parts) -> tuple[Machine, dict[str, str]]:
    """The machine, assumed numbers named in it, and the path and unit of each needed number that is missing (NaN)."""
    system, device, take = found.system, found.device, _Take()
    published = [(str(dtype), rate) for dtype, rate in device.peak.items() if rate.value is not None]
    peak = {dtype: take(f"device.peak.{dtype}", rate) for dtype, rate in published}
    if "bf16" not in peak:  # attention and norms run in it, whatever the weights are stored in
        take("device.peak.bf16", None)
    made = Machine(
        name=found.on,
        device=device.name,
        family=device.family,
        devices=found.count * system.devices,
        domain=system.domain,
        host=_host(system, take),
        peak=peak,
        hbm_bytes=take("device.hbm.capacity", device.hbm.capacity),
        hbm_bandwidth=take("device.hbm.bandwidth", device.hbm.bandwidth),
        scale_up=_scale_up(system, device, take),
        scale_out=_scale_out(found, take) if found.count * system.devices > system.domain else None,
        assumed=tuple(take.assumed),
        hbm_sold=take.spare("device.hbm.sold", device.hbm.sold),
        network=found.network.name if found.network else None,
        tdp=take.spare("device.tdp", device.tdp),
        price=_all(found.count, take.spare("price", system.price)),
        power=_all(found.count, take.spare("power", system.power)),
        weight=_all(found.count, take.spare("weight", system.weight)),
        given=found.given,
    )
    return made, take.missing


@dataclass(slots=True)
class _Take:
    """Takes numbers out of their provenance, and remembers which were assumed and which were not there."""

    assumed: list[Assumption] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def __call__(self, path: str, quantity: Quantity | None) -> float:
        if quantity is None or quantity.value is None:
            self.missing[path] = quantity.unit if quantity else _OPTIONAL[path]
            return math.nan
        if quantity.assumed:
            self.assumed.append(Assumption(path, quantity.written, quantity.source))
        return self.spare(path, quantity) or 0.0

    def spare(self, path: str, quantity: Quantity) -> float | None:
        """A number that no step reads: it may be missing, and is not named where it is assumed."""
        if quantity.value is not None and quantity.value < 1 and quantity.unit != "s":
            unit = f" {quantity.unit}".rstrip()
            raise SpecError(f"must be at least 1{unit}", where=path, hint="a number that is not known is `value: null`")
        return quantity.value


def _host(system: System, take: _Take) -> HostNode:
    """One host node, with what is published of its memory and storage."""
    numbers = ("link", "dram", "dram_bandwidth", "ssd", "ssd_bandwidth")
    known = {name: take.spare(f"host.{name}", getattr(system.host, name)) for name in numbers}
    return HostNode(devices=system.host.devices, **known)


def _all(systems: int, one: float | None) -> float | None:
    """A number of one system, for all of them."""
    return None if one is None else systems * one


def _scale_up(system: System, device: Device, take: _Take) -> Link:
    """The link inside a domain. A domain of one device has nobody to talk to: no time is lost there."""
    fabric = system.scale_up
    if system.domain == 1:
        return Link(math.inf, math.inf, 0.0, 0.0, 0, fabric.semantics, False)
    bandwidth = pair = take("device.scale_up.bandwidth", device.scale_up.bandwidth)
    if fabric.topology == "mesh":  # a smaller mesh leaves links of the device unused
        pair = take("device.scale_up.pair", device.scale_up.pair)
        bandwidth = min(bandwidth, pair * (system.domain - 1))
    return Link(
        bandwidth=bandwidth,
        pair=pair,
        latency=_path(fabric.layers, take("scale_up.hop", fabric.hop), take("scale_up.endpoint", fabric.endpoint)),
        overhead=take("scale_up.overhead", fabric.overhead),
        layers=fabric.layers,
        semantics=fabric.semantics,
        in_switch_reduce=fabric.in_switch_reduce,
    )


def _scale_out(found: Parts, take: _Take) -> Link:
    """The link between domains: as fast as the slower of the device's NIC and the network's port."""
    network, endpoints = found.network, found.count * found.system.devices
    if network is None:
        names = ", ".join(load.catalog_names("network"))
        raise SpecError("has no network to leave a domain by", where=found.on, hint=f"add @NETWORK, one of {names}")
    bandwidth = min(take("device.nic", found.device.nic), take("network.port", network.port))
    layers = _layers(endpoints, int(take("network.radix", network.radix)), found.on, network.name)
    return Link(
        bandwidth=bandwidth,
        pair=bandwidth,
        latency=_path(layers, take("network.hop", network.hop), take("network.endpoint", network.endpoint)),
        overhead=take("network.overhead", network.overhead),
        layers=layers,
        semantics="message",
        in_switch_reduce=network.in_switch_reduce,
    )


def _path(layers: int, hop: float, endpoint: float) -> float:
    """One-way latency between the farthest two [s]: up and down again, 1, 3 or 5 switches; none in a mesh."""
    return endpoint + max(2 * layers - 1, 0) * hop


def _layers(endpoints: int, radix: int, on: str, network: str) -> int:
    """Layers of a non-blocking folded Clos: r, r^2/2, r^3/4 endpoints hang on 1, 2, 3 layers of r-port switches.

    References
    ----------
    [1] Al-Fares et al., A Scalable, Commodity Data Center Network Architecture, SIGCOMM 2008, section 2.2.
    """
    for layers in (1, 2, 3):
        if endpoints <= 2 * (radix // 2) ** layers:
            return layers
    most = 2 * (radix // 2) ** 3
    raise SpecError(
        f"{endpoints:,} ports; three layers of {network} hold {most:,}", where=on, hint="take fewer systems"
    )


def _example(path: str, unit: str) -> str:
    """How such a number is written: as it stands for a well-known system, else any of its unit."""
    for on in _EXAMPLES:
        quantity = parts(on).quantities().get(path)
        if quantity and quantity.value is not None:
            return quantity.written
    return units.KINDS[unit][1]


def _assume(found: Parts, assume: Path | Mapping[str, str]) -> Parts:
    """Put assumed numbers in place, each marked as assumed, with where it was written as its source."""
    file, source = ("the plan file",) * 2 if isinstance(assume, Mapping) else (str(assume), f"--assume {assume}")
    lines = assume if isinstance(assume, Mapping) else load.read_yaml(assume)
    if not isinstance(lines, Mapping):
        raise SpecError("wants one `path: value` a line", where=file, hint='such as "scale_up.hop: 0.2 us"')
    known = _OPTIONAL | {path: quantity.unit for path, quantity in found.quantities().items()}
    for path, value in lines.items():
        where = f"{file}: {path}"
        if path not in known:
            near = difflib.get_close_matches(str(path), known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise SpecError("no such number", where=where, hint=hint)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise SpecError("wants a value with its unit", where=where, hint=f'such as "{_example(path, known[path])}"')
        number = units.parse(str(value), known[path], where=where)
        quantity = Quantity(value=number, status="assumed", source=source, written=str(value), unit=known[path])
        found = found.replace(path, quantity)
    return dataclasses.replace(found, given={path: str(value) for path, value in lines.items()})


def _quantities(spec: Spec, prefix: str = "") -> Iterator[tuple[str, Quantity]]:
    for name, value in spec:
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            path = f"{prefix}{name}.{key}" if key else f"{prefix}{name}"
            if isinstance(item, Quantity):
                yield path, item
            elif isinstance(item, Spec):
                yield from _quantities(item, f"{path}.")


def _replace(spec: SpecT, keys: list[str], quantity: Quantity) -> SpecT:
    head, *rest = keys
    current = getattr(spec, head)
    if rest and isinstance(current, dict):
        return spec.model_copy(update={head: {**current, rest[0]: quantity}})
    return spec.model_copy(update={head: _replace(current, rest, quantity) if rest else quantity})
