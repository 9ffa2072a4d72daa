"""From the text of `--on` to a `Machine`: systems over a network, with resolved, missing and assumed numbers."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenworks import units
from tokenworks.errors import NoPrediction, NotPublished, SpecError
from tokenworks.specs import given, load
from tokenworks.specs.device import Device
from tokenworks.specs.edits import edited, leaves
from tokenworks.specs.given import Assume, Given
from tokenworks.specs.machine import Assumption, HostNode, Link, Machine, Wiring
from tokenworks.specs.provenance import Quantity, Spec
from tokenworks.specs.system import Network, System

On = str | Path | Mapping[str, Any] | System | Machine
"""Every form of a machine: `[Nx]SYSTEM[@NETWORK][:DEVICES]`, a YAML file, the content of such a file, or a machine."""

_ON = re.compile(r"(?:(?P<count>[+-]?[0-9]+)x)?(?P<system>[^@:]+)(?:@(?P<network>[^@:]+))?(?::(?P<part>[+-]?[0-9]+))?")
_MOST_DIGITS = 7
_EXAMPLES = ("hgx-h100@ndr", "hgx-mi300x")  # systems that publish most numbers; messages take examples from them
PARTS = ("device", "network")
"""Fields of a system whose numbers have the name of the field in their path, such as `device.nic`."""

_WORDS = ("name", "title", "vendor", "aliases", "checkpoints", "cooling", "facts", "note")


@dataclass(frozen=True, slots=True)
class Parts:
    """The files that `--on` names, before the numbers are resolved.

    Parameters
    ----------
    on : the name, as the user gave it
    count : number of systems [count]
    system, device, network : the specs, with the numbers that the user set; network None: there is no network
    part : devices in use; None: all devices of all systems [count]
    given : numbers of the files that the user replaced
    """

    on: str
    count: int
    system: System
    device: Device
    network: Network | None
    part: int | None = None
    given: tuple[Given, ...] = ()

    @property
    def devices(self) -> int:
        """Devices in use."""
        return self.count * self.system.devices if self.part is None else self.part

    @property
    def domain(self) -> int:
        """Devices in use in one scale-up domain."""
        return min(self.system.domain, self.devices)

    def quantities(self) -> dict[str, Quantity]:
        """Every number with its source, by dotted path, such as `scale_up.hop` or `device.nic`."""
        system = self.system.model_copy(update={"device": "", "network": None})
        numbers = dict(_quantities(system)) | dict(_quantities(self.device, "device."))
        return numbers | (dict(_quantities(self.network, "network.")) if self.network else {})


def machine(
    on: On, *, assume: Assume = None, devices: int | None = None, needs: Collection[str] | None = None
) -> Machine:
    """Read a machine from a name, a file or plain data.

    Parameters
    ----------
    on : such as "scalex40", "5xhgx-h100", "4xscalex40@xdr", "2xmy-box.yaml", "hgx-h200:2"; the content of the
        YAML file of a machine, as a dict; or a machine, which is returned unchanged
    assume : numbers that replace numbers of the files: a YAML file of `path: value` lines, such as
        `device.peak.bf16: 350 TFLOP/s`, or a dict
    devices : number of devices to use; None: all [count]
    needs : paths of the numbers that the caller reads; None: all numbers that a step reads. Other numbers may be
        missing (NaN)

    Raises
    ------
    SpecError : bad name, count or file
    NotPublished : a needed number is not published. The message names all missing numbers
    NoPrediction : the scale-up links form a torus
    """
    if isinstance(on, Machine):
        if given.of("machine", given.given(assume)) or devices is not None:
            hint = "give `assume` and `devices` to load_machine"
            raise SpecError("a loaded machine cannot be changed", where=on.name, hint=hint)
        return on
    read = parts(on, assume=assume, devices=devices)
    composed, missing = resolve(read)
    if needs is None:
        _must_not_be_a_torus(read)
    else:
        missing = {path: unit for path, unit in missing.items() if path in needs}
        kept = tuple(item for item in composed.assumed if item.path in needs)
        composed = dataclasses.replace(composed, assumed=kept)
    if missing:
        numbers = ", ".join(f"{path} [{unit}]" for path, unit in missing.items())
        path, unit = next(iter(missing.items()))
        raise NotPublished(
            f"a prediction needs numbers that are not published: {numbers}",
            where=composed.name,
            hint=f"give your own numbers with --set machine.PATH=VALUE, or with --assume FILE, one per line, such as "
            f"`{path}: {_example(path, unit)}`",
        )
    return composed


def _must_not_be_a_torus(of: Parts) -> None:
    """Raise an error for a machine whose scale-up links form a torus: no cost function computes a torus."""
    if of.system.scale_up.topology == "torus" and of.domain > 1:
        raise NoPrediction(
            "the scale-up links form a torus, and tokenworks has no cost model of a torus",
            where=f"{of.on}: scale_up.topology",
            hint="write a machine file with an equal switched fabric: tokenworks systems --new my-box "
            f"--like {of.system.name} --out my-box.yaml",
        )


def times(on: str, count: int) -> str:
    """The text of `--on` for several equal machines: 2 x 5xhgx-h100@xdr is 10xhgx-h100@xdr.

    Parameters
    ----------
    on : text of one machine
    count : number of machines [count]
    """
    match = _ON.fullmatch(on.strip())
    if match is None or match["part"]:
        return f"{count} x {on}"
    network = f"@{match['network']}" if match["network"] else ""
    return f"{count * int(match['count'] or 1)}x{match['system']}{network}"


def parts(on: str | Path | Mapping[str, Any] | System, *, assume: Assume = None, devices: int | None = None) -> Parts:
    """Read the files that `on` names, and replace the numbers of `assume`.

    Parameters
    ----------
    on, assume, devices : as `machine` takes them

    Raises
    ------
    SpecError : bad name, count or file
    """
    if isinstance(on, (str, Path)):
        whole = _named(str(on))
    else:
        system = on if isinstance(on, System) else load.validate(System, dict(on), "machine")
        whole = Parts(system.name, 1, system, _device(system, Path()), _network(system.network, Path()))
    if devices is not None:
        if whole.part is not None:
            raise SpecError(f"{whole.on} names its devices already", where="--devices", hint="leave one of the two out")
        whole = dataclasses.replace(whole, on=f"{whole.on}:{devices}", part=devices)
    _must_be_a_part(whole)
    return _changed(dataclasses.replace(whole, given=given.of("machine", given.given(assume))))


def _named(on: str) -> Parts:
    match = _ON.fullmatch(on.strip())
    if match is None:
        hint = "write [Nx]SYSTEM[@NETWORK][:DEVICES], as in 4xscalex40@xdr or hgx-h200:2"
        raise SpecError(f"cannot read {on!r}", where="--on", hint=hint)
    count = match["count"] or "1"
    if len(count) > _MOST_DIGITS or int(count) < 1:
        raise SpecError(
            f"{count} systems in {on!r}",
            where="--on",
            hint=f"write a count of 1 or more, and at most {_MOST_DIGITS} digits",
        )
    _must_not_be_a_device(match["system"])
    path = load.locate("system", match["system"])
    system = load.load(System, path)
    network = match["network"] or system.network
    folder = Path() if match["network"] else path.parent
    part = int(match["part"][:_MOST_DIGITS]) if match["part"] else None
    return Parts(on.strip(), int(count), system, _device(system, path.parent), _network(network, folder), part)


def _must_not_be_a_device(name: str) -> None:
    """Raise an error for the name of a device. The message names the machines of the device, and `systems --new`."""
    systems = load.catalog_names("system")
    device = None if load.is_path(name) or name in systems else load.find_device(name)
    if device:
        machines = [one for one in systems if load.load_system(one).device == device]
        known = f"machines of this device: {', '.join(machines)}; " if machines else ""
        like = machines[0] if machines else "hgx-h200"
        raise SpecError(
            f"{name!r} is a device, not a machine",
            where="--on",
            hint=f"{known}for a machine of your own: tokenworks systems --new my-box --like {like} --out my-box.yaml",
        )


def _device(system: System, folder: Path) -> Device:
    if isinstance(system.device, Device):
        return system.device
    inside = load.is_path(system.device)
    return load.load(Device, folder / system.device if inside else load.locate("device", system.device))


def _network(network: str | Network | None, folder: Path) -> Network | None:
    if isinstance(network, str):
        return load.load(Network, folder / network if load.is_path(network) else load.locate("network", network))
    return network


def _must_be_a_part(of: Parts) -> None:
    """Raise an error for a part of a machine that is not in one domain, and not a multiple of a domain."""
    whole, domain = of.count * of.system.devices, of.system.domain
    if not 1 <= of.devices <= whole:
        raise SpecError(f"{of.devices} of {whole} devices", where="--devices", hint=f"write 1 to {whole}")
    if of.devices > domain and of.devices % domain:
        less = of.devices // domain * domain
        hint = f"write at most {domain}, or a multiple of {domain}, such as {less}"
        raise SpecError(
            f"{of.devices} devices are not a multiple of a domain of {domain}", where="--devices", hint=hint
        )


def resolve(of: Parts) -> tuple[Machine, dict[str, str]]:
    """Resolve all numbers of a machine.

    Returns
    -------
    machine : the machine, with its assumed numbers; missing numbers are NaN
    missing : path -> unit of each number that a step needs and that is not published
    """
    system, device, take = of.system, of.device, _Take()
    published = [(str(dtype), rate) for dtype, rate in device.peak.items() if rate.value is not None]
    peak = {dtype: take(f"device.peak.{dtype}", rate) for dtype, rate in published}
    if "bf16" not in peak:  # attention and norms compute in bf16 for every format of the weights
        take.missing["device.peak.bf16"] = "FLOP/s"
    share = of.devices / system.devices  # of one system
    composed = Machine(
        name=of.on,
        device=device.name,
        family=device.family,
        devices=of.devices,
        domain=of.domain,
        host=_host(of, take),
        peak=peak,
        hbm_bytes=take("device.hbm.capacity", device.hbm.capacity),
        hbm_bandwidth=take("device.hbm.bandwidth", device.hbm.bandwidth),
        scale_up=_scale_up(of, take),
        scale_out=_scale_out(of, take) if of.devices > of.domain else None,
        assumed=(),
        hbm_sold=take.spare("device.hbm.sold", device.hbm.sold),
        network=of.network.name if of.network else None,
        tdp=take.spare("device.tdp", device.tdp),
        tdp_assumed=Assumption("device.tdp", device.tdp.written, device.tdp.source) if device.tdp.assumed else None,
        price=_all(share, take.spare("price", system.price)),
        power=_all(share, take.spare("power", system.power)),
        weight=_all(share, take.spare("weight", system.weight)),
        given=of.given,
        checkpoints={stored: served.value for stored, served in device.checkpoints.items()},
        wiring=_wiring(of, take),
    )
    quantities = of.quantities()
    words = (item for item in of.given if item.path not in quantities)  # values without a source, such as layers
    plain = tuple(Assumption(item.path, item.value, item.why) for item in words)
    return dataclasses.replace(composed, assumed=(*take.assumed, *plain)), take.missing


@dataclass(slots=True)
class _Take:
    """Takes the values of quantities, and collects the assumed and the missing ones."""

    assumed: list[Assumption] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def __call__(self, path: str, quantity: Quantity | None) -> float:
        if quantity is None or quantity.value is None:
            self.missing[path] = quantity.unit if quantity else "byte/s"
            return math.nan
        if quantity.assumed:
            self.assumed.append(Assumption(path, quantity.written, quantity.source))
        return self.spare(path, quantity) or 0.0

    def spare(self, path: str, quantity: Quantity) -> float | None:
        """The value of a number that no step reads. It may be missing, and outputs do not list it as assumed."""
        if quantity.value is not None and quantity.value < 1 and quantity.unit != "s":
            unit = f" {quantity.unit}".rstrip()
            raise SpecError(
                f"must be at least 1{unit}", where=path, hint="write `value: null` for a number that is not known"
            )
        return quantity.value


def _host(of: Parts, take: _Take) -> HostNode:
    """One host node, with the published numbers of its memory and storage."""
    host = of.system.host
    numbers = {
        name: getattr(host, name) for name in ("link", "dram", "dram_bandwidth", "ssd", "ssd_bandwidth", "fabric")
    }
    assumed = tuple(Assumption(f"host.{name}", one.written, one.source) for name, one in numbers.items() if one.assumed)
    known = {name: take.spare(f"host.{name}", one) for name, one in numbers.items()}
    return HostNode(devices=min(host.devices, of.devices), assumed=assumed, **known)


def _wiring(of: Parts, take: _Take) -> Wiring:
    """Switches and cables of the interconnect. They may be missing: no step reads them."""
    system, fabric = of.system, of.system.scale_up
    numbers = {"scale_up.switches": fabric.switches, "cables": system.cables}
    switches, cables = take.spare("scale_up.switches", fabric.switches), system.cables.value
    return Wiring(
        topology=fabric.topology,
        switches=None if switches is None else int(switches),
        cables=None if cables is None else int(cables),
        optical=fabric.optical,
        system_devices=system.devices,
        radix=int(of.network.radix.value) if of.network and of.network.radix.value else None,
        assumed=tuple(Assumption(path, one.written, one.source) for path, one in numbers.items() if one.assumed),
    )


def _all(systems: float, one: float | None) -> float | None:
    """A number of one system times the number of systems, which may be a fraction; None if the number is missing."""
    return None if one is None else systems * one


def _scale_up(of: Parts, take: _Take) -> Link:
    """The link inside a domain. In a domain of one device there is no communication, and the link takes no time."""
    fabric, device = of.system.scale_up, of.device
    if of.domain == 1:
        return Link(math.inf, math.inf, 0.0, 0.0, 0, fabric.semantics, False)
    bandwidth = pair = take("device.scale_up.bandwidth", device.scale_up.bandwidth)
    if fabric.topology == "mesh":  # a smaller mesh leaves links of the device unused
        pair = take("device.scale_up.pair", device.scale_up.pair)
        bandwidth = min(bandwidth, pair * (of.domain - 1))
    hop, endpoint = take("scale_up.hop", fabric.hop), take("scale_up.endpoint", fabric.endpoint)
    return Link(
        bandwidth=bandwidth,
        pair=pair,
        latency=_path(fabric.layers, hop, endpoint),
        overhead=take("scale_up.overhead", fabric.overhead),
        layers=fabric.layers,
        semantics=fabric.semantics,
        in_switch_reduce=fabric.in_switch_reduce,
        box_latency=_path(1, hop, endpoint) if fabric.layers > 1 else None,
    )


def _scale_out(of: Parts, take: _Take) -> Link:
    """The link between domains. Its bandwidth is the smaller one of the NIC and the port of the network."""
    network, endpoints = of.network, of.devices
    if network is None:
        names = ", ".join(load.catalog_names("network"))
        raise SpecError("has several domains, but no network", where=of.on, hint=f"add @NETWORK, one of {names}")
    bandwidth = min(take("device.nic", of.device.nic), take("network.port", network.port))
    layers = _layers(endpoints, int(take("network.radix", network.radix)), of.on, network.name)
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
    """One-way latency between the farthest two devices: 1, 3 or 5 switches for 1, 2 or 3 layers, none in a mesh [s]."""
    return endpoint + max(2 * layers - 1, 0) * hop


def _layers(endpoints: int, radix: int, on: str, network: str) -> int:
    """Layers of a non-blocking folded Clos: 1, 2, 3 layers of r-port switches connect r, r^2/2, r^3/4 endpoints.

    References
    ----------
    [1] Al-Fares et al., A Scalable, Commodity Data Center Network Architecture, SIGCOMM 2008, section 2.2.
    """
    for layers in (1, 2, 3):
        if endpoints <= 2 * (radix // 2) ** layers:
            return layers
    most = 2 * (radix // 2) ** 3
    raise SpecError(
        f"{endpoints:,} ports, but three layers of {network} switches connect at most {most:,}",
        where=on,
        hint="take fewer systems",
    )


def _example(path: str, unit: str) -> str:
    """An example of a number: its value in a well-known system, else any value of its unit."""
    for on in _EXAMPLES:
        quantity = parts(on).quantities().get(path)
        if quantity and quantity.value is not None:
            return quantity.written
    return units.KINDS[unit][1]


def _changed(of: Parts) -> Parts:
    """Replace the numbers that the user set, in the device, the network and the system."""
    numbers = given.of("machine", of.given)
    mine: dict[str, list[Given]] = {"device": [], "network": [], "": []}
    for item in numbers:
        head = item.path.partition(".")[0]
        mine[head if head in mine else ""].append(item)
    if mine["network"] and of.network is None:
        first = mine["network"][0]
        raise SpecError(f"{of.on} has no network", where=first.where, hint="it is one domain; add @NETWORK to --on")
    also = [path for path, _ in settable(of)]
    return dataclasses.replace(
        of,
        system=edited(of.system, mine[""], but=(*PARTS, *_WORDS), also=also),
        device=edited(of.device, mine["device"], prefix="device.", but=_WORDS, also=also),
        network=of.network and edited(of.network, mine["network"], prefix="network.", but=_WORDS, also=also),
    )


def settable(of: Parts) -> Iterator[tuple[str, Any]]:
    """Every path that a user can set, with its value."""
    yield from ((path, leaf) for path, leaf in leaves(of.system) if path.partition(".")[0] not in (*PARTS, *_WORDS))
    yield from ((f"device.{path}", leaf) for path, leaf in leaves(of.device))
    if of.network:
        yield from ((f"network.{path}", leaf) for path, leaf in leaves(of.network))


def _quantities(spec: Spec, prefix: str = "") -> Iterator[tuple[str, Quantity]]:
    for name, value in spec:
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            path = f"{prefix}{name}.{key}" if key else f"{prefix}{name}"
            if isinstance(item, Quantity):
                yield path, item
            elif isinstance(item, Spec):
                yield from _quantities(item, f"{path}.")
