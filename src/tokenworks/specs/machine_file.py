"""Files of machines, which `systems NAME -o yaml` writes and `--on FILE` reads; and the template of a new machine."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tokenworks.errors import SpecError
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import Parts
from tokenworks.specs.load import catalog_names
from tokenworks.specs.provenance import Quantity, Spec, file_form
from tokenworks.specs.save import saved
from tokenworks.specs.system import System

HEAD = """\
A machine of your own. Replace the numbers of {like} by your numbers, and plan with --on {file}.
A plain number such as 4.8 TB/s counts as assumed, and every result that uses it lists it. Write a number with a source
as {{value: 4.8 TB/s, status: published, source: "datasheet of the vendor"}}. Write null for an unknown number.
"""

WORDS = {
    "name": "name of the machine in results",
    "devices": "devices of the whole machine",
    "domain": "devices that reach each other over scale-up; devices / domain domains make the machine",
    "device.family": "device family whose utilisations this device uses: {families}",
    "device.peak": "dense FLOP/s of one device; leave out dtypes that the device does not support",
    "device.hbm.capacity": "memory of one device that software sees",
    "device.hbm.sold": "memory of one device that the vendor prints; no prediction reads it",
    "device.hbm.bandwidth": "memory bandwidth of one device",
    "device.scale_up.bandwidth": "all scale-up links of one device, one direction",
    "device.scale_up.pair": "mesh only: links to one other device, one direction",
    "device.nic": "scale-out port of one device, one direction; only used between domains",
    "device.tdp": "largest power of one device",
    "scale_up.topology": "switched; mesh: a link between each two devices; torus: not computed; none: a domain of one",
    "scale_up.layers": "layers of switches, 0 in a mesh",
    "scale_up.semantics": "load-store or message",
    "scale_up.in_switch_reduce": "whether switches add up the parts of an all-reduce",
    "scale_up.switches": "switches of the topmost layer of one domain; availability and faults read it",
    "scale_up.optical": "whether the cables of a domain are optical; availability and faults read it",
    "scale_up.hop": "latency of one switch",
    "scale_up.endpoint": "latency of both ends of a path",
    "scale_up.overhead": "time that the software of a message takes; 0 us for load-store",
    "network": "between domains and between machines: ndr, xdr, roce400, scalefabric400, or a network of your own",
    "host.devices": "devices of one host node",
    "host.link": "host to one device, one direction",
    "price": "price of the whole machine",
    "power": "power of the whole machine",
    "rack_units": "height of the whole machine; costs need it",
    "cables": "cables and optical links inside the scale-up domains",
}


def machine_file(parts: Parts) -> str:
    """The text of a file that `--on` reads as the same machine. It contains device and network, with all sources."""
    return spec_file(_whole(parts))


def spec_file(spec: Spec) -> str:
    """The YAML text of a spec, with one line for each number and its source. The text gives an equal spec."""
    data = _inline(file_form(spec))
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))


def template(name: str, like: Parts, file: str) -> str:
    """The text of a file with comments for a new machine, with the numbers of a known machine.

    Parameters
    ----------
    name : name of the new machine
    like : machine whose numbers the file starts with
    file : path of the file, for the comment at the top
    """
    families = ", ".join(sorted({**load_calibration().families, **load_calibration().borrowed}))
    head = textwrap.indent(HEAD.format(like=like.on, file=file), "# ")
    empty: dict[str, Any] = {"title": "", "vendor": "", "note": ""}
    device = like.device.model_copy(update={"name": f"{name}-device", "aliases": (), **empty})
    known = like.network and like.network.name in catalog_names("network")
    network = like.network.name if like.network and known else like.network
    own = {"name": name, "facts": {}, "device": device, "network": network, **empty}
    system = _whole(like).model_copy(update=own)
    words = {path: text.format(families=families) for path, text in WORDS.items()}
    return head + "".join(f"{line}\n" for line in _lines(system, "", words))


def write_template(name: str, like: Parts, path: Path) -> None:
    """Write the template to a new file.

    Parameters
    ----------
    name, like : as `template` takes them
    path : path of the new file

    Raises
    ------
    SpecError : the file exists already, or cannot be written
    """
    if path.exists():
        raise SpecError("exists already", where=str(path), hint="name another file with --out")
    text = template(name, like, str(path))
    with saved(path) as part:
        part.write_text(text, encoding="utf-8")


def _whole(parts: Parts) -> System:
    """All systems and devices in use as one system that contains device and network."""
    system, share = parts.system, parts.devices / parts.system.devices

    def all_of(quantity: Quantity) -> Quantity:
        if share == 1 or quantity.value is None:
            return quantity
        written = f"{quantity.value * share!r} {quantity.unit}"
        return quantity.model_copy(update={"value": quantity.value * share, "written": written})

    return system.model_copy(
        update={
            "devices": parts.devices,
            "domain": parts.domain,
            "device": parts.device,
            "network": parts.network,
            "host": system.host.model_copy(update={"devices": min(system.host.devices, parts.devices)}),
            "price": all_of(system.price),
            "power": all_of(system.power),
            "weight": all_of(system.weight),
        }
    )


class _Inline(dict[str, Any]):
    """A number with its source. YAML writes it in one line."""


class _Dumper(yaml.SafeDumper):
    """Plain YAML, with one line for each number."""


_Dumper.add_representer(
    _Inline, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)


def _inline(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return _Inline(data) if data.keys() >= {"value", "status"} else {key: _inline(item) for key, item in data.items()}


def _lines(items: Iterable[tuple[str, Any]], prefix: str, words: Mapping[str, str]) -> Iterator[str]:
    """YAML lines with comments. Empty values without a comment are left out."""
    depth = "  " * prefix.count(".")
    for name, value in items:
        path = f"{prefix}{name}"
        comment = f"  # {words[path]}" if path in words else ""
        if isinstance(value, Quantity):
            if value.value is not None or comment:
                yield f"{depth}{name}: {value.written or 'null'}{comment}"
        elif isinstance(value, (Spec, dict)):
            inner = list(_lines(value.items() if isinstance(value, dict) else value, f"{path}.", words))
            if inner:
                yield from (f"{depth}{name}:{comment}", *inner)
        elif value not in ("", None, ()):
            yield f"{depth}{name}: {str(value).lower() if isinstance(value, bool) else value}{comment}"
