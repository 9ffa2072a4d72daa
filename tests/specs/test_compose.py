"""Composition: laws over any count and network, boxes of one's own, assumptions, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs import compose, load
from tokenworks.specs.machine import Link

BOXES = ["scalex40", "hgx-h100", "hgx-mi300x", "gb200-nvl72", "cloudmatrix384"]
NETWORKS = load.catalog_names("network")


def scale_out(on: str) -> Link:
    link = compose.machine(on).scale_out
    assert link is not None
    return link


@given(st.sampled_from(BOXES), st.integers(1, 150), st.sampled_from(["", *(f"@{name}" for name in NETWORKS)]))
def test_n_systems_are_n_times_the_devices_and_change_nothing_else(box: str, count: int, network: str) -> None:
    one, many = compose.machine(box), compose.machine(f"{count}x{box}{network}")
    assert many.devices == count * one.devices
    assert (many.domain, many.host, many.peak) == (one.domain, one.host, one.peak)
    assert (many.hbm_bytes, many.hbm_bandwidth) == (one.hbm_bytes, one.hbm_bandwidth)
    assert (many.scale_up, many.host) == (one.scale_up, one.host)
    assert (many.scale_out is None) == (count == 1)


@given(st.sampled_from(BOXES), st.integers(2, 100), st.integers(0, 60), st.sampled_from(NETWORKS))
def test_more_systems_are_never_nearer(box: str, count: int, more: int, network: str) -> None:
    near, far = (scale_out(f"{n}x{box}@{network}") for n in (count, count + more))
    assert near.latency <= far.latency
    assert near.bandwidth == far.bandwidth


@given(st.sampled_from(BOXES), st.sampled_from(NETWORKS))
def test_scale_out_is_as_fast_as_its_slower_end(box: str, network: str) -> None:
    found = compose.parts(f"2x{box}@{network}")
    ends = {"device.nic", "network.port"}
    slower = min(quantity.value or 0.0 for path, quantity in found.quantities().items() if path in ends)
    assert scale_out(f"2x{box}@{network}").bandwidth == slower > 0


@pytest.mark.parametrize(("count", "layers", "hops"), [(2, 1, 1), (8, 1, 1), (9, 2, 3), (256, 2, 3), (257, 3, 5)])
def test_layers_follow_from_ports(count: int, layers: int, hops: int) -> None:
    """Radix 64: 64 ports on one layer, 64^2/2 = 2048 on two, 64^3/4 = 65,536 on three; 0.45 us a hop, 1 us of ends."""
    link = scale_out(f"{count}xhgx-h100@ndr")
    assert link.layers == layers
    assert link.latency == pytest.approx(1e-6 + hops * 0.45e-6)


def test_more_than_three_layers_hold() -> None:
    assert compose.machine("8192xhgx-h100@ndr").devices == 65_536
    with pytest.raises(SpecError, match=r"65,544 ports, but three layers of ndr switches connect at most 65,536"):
        compose.machine("8193xhgx-h100@ndr")


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("0xhgx-h100", "0 systems"),
        ("-2xhgx-h100", "-2 systems"),
        ("99999999999xhgx-h100", "write a count of 1 or more, and at most 7 digits"),
        ("", "cannot read ''"),
        ("@ndr", "cannot read"),
        ("hgx-h100@", "cannot read"),
        ("hgx-h100@ndr@xdr", "cannot read"),
        ("１xhgx-h100", "unknown system"),  # noqa: RUF001 (a wide digit is no digit)
        ("none.yaml", "none.yaml: no such file"),
    ],
)
def test_what_on_cannot_mean(on: str, words: str) -> None:
    with pytest.raises(SpecError) as error:
        compose.machine(on)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("on", "near"), [("hgx-h10", "hgx-h100"), ("3xscalx40", "scalex40"), ("2xhgx-h100@nrd", "ndr")]
)
def test_unknown_names_suggest_the_near_ones(on: str, near: str) -> None:
    with pytest.raises(UnknownName, match=near):
        compose.machine(on)


def test_a_domain_of_one_has_no_link_to_wait_for(tmp_path: Path) -> None:
    nothing = {"value": "0 us", "status": "derived", "source": "nobody to talk to"}
    fabric = {"topology": "none", "layers": 0, "semantics": "load-store"}
    fabric |= dict.fromkeys(("hop", "endpoint", "overhead"), nothing)
    box = own_box(tmp_path, device="a10", devices=1, domain=1, host=_host(1), network=None, scale_up=fabric)
    link = compose.machine(box).scale_up
    assert (link.bandwidth, link.latency, link.overhead) == (math.inf, 0.0, 0.0)
    with pytest.raises(SpecError, match=r"my-box.yaml: has several domains, but no network; add @NETWORK"):
        compose.machine(f"2x{box}")
    with pytest.raises(SpecError, match=r"device.nic \[byte/s\]"):
        compose.machine(f"2x{box}@ndr")


def own_box(folder: Path, **changes: Any) -> str:
    """A user's own system file: the H100 host with changes."""
    data = load.read_yaml(load.locate("system", "hgx-h100")) | {"name": "my-box"} | changes
    folder.mkdir(exist_ok=True)
    (folder / "my-box.yaml").write_text(json.dumps(data))  # which is YAML
    return str(folder / "my-box.yaml")


def test_a_box_of_ones_own(tmp_path: Path) -> None:
    file = own_box(tmp_path, devices=4, domain=4, host=_host(4))
    assert compose.machine(file).devices == 4
    machine = compose.machine(f"3x{file}@xdr")
    assert (machine.devices, machine.device, machine.name) == (12, "h100", f"3x{file}@xdr")


def _host(devices: int) -> Any:
    return load.read_yaml(load.locate("system", "hgx-h100"))["host"] | {"devices": devices}


def test_the_least_that_a_box_must_say(tmp_path: Path) -> None:
    (tmp_path / "least.yaml").write_text("""
name: least
title: Two cards on one desk
vendor: me
device: rtx-pro-6000
devices: 2
domain: 2
scale_up:
  topology: switched
  layers: 1
  semantics: message
  hop:      {value: 0.3 us, status: assumed, source: a guess}
  endpoint: {value: 1 us, status: assumed, source: a guess}
  overhead: {value: 1 us, status: assumed, source: a guess}
host:
  devices: 2
  dram: {value: 256 GiB, status: measured, source: free}
  link: {value: 64 GB/s, status: published, source: PCIe 5.0 x16}
""")
    machine = compose.machine(str(tmp_path / "least.yaml"))
    assert machine.devices == 2
    assert [assumption.path for assumption in machine.assumed] == [
        f"scale_up.{x}" for x in ("hop", "endpoint", "overhead")
    ]


def test_a_box_with_a_card_of_its_own(tmp_path: Path) -> None:
    card = load.read_yaml(load.locate("device", "h100")) | {"name": "my-card", "family": "other-npu"}
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "my-card.yaml").write_text(yaml.safe_dump(card))
    machine = compose.machine(own_box(tmp_path, device="cards/my-card.yaml"))  # beside the file, not the shell
    assert (machine.device, machine.family) == ("my-card", "other-npu")
    with pytest.raises(UnknownName, match=r"unknown device 'h10'.*did you mean h100"):
        compose.machine(own_box(tmp_path, device="h10"))


def test_a_system_of_several_domains_needs_its_network(tmp_path: Path) -> None:
    assert compose.machine(own_box(tmp_path, devices=40)).scale_out is not None
    with pytest.raises(SpecError, match=r"but no network"):
        compose.machine(own_box(tmp_path, devices=40, network=None))


def test_a_smaller_mesh_leaves_links_unused(tmp_path: Path) -> None:
    mesh = load.read_yaml(load.locate("system", "hgx-mi300x"))["scale_up"]
    link = compose.machine(
        own_box(tmp_path, device="mi300x", scale_up=mesh, devices=4, domain=4, host=_host(4))
    ).scale_up
    assert (link.bandwidth, link.pair) == (3 * 64e9, 64e9)
    with pytest.raises(SpecError, match=r"device.scale_up.pair \[byte/s\]"):
        compose.machine(own_box(tmp_path, scale_up=mesh))


def test_a_zero_is_not_a_null(tmp_path: Path) -> None:
    host = _host(8) | {"link": {"value": "0 GB/s", "status": "published", "source": "x"}}
    with pytest.raises(
        SpecError, match=r"host.link: must be at least 1 byte/s; write `value: null` for a number that is not known"
    ):
        compose.machine(own_box(tmp_path, host=host))


ALL_OF_S600 = {
    "device.peak.bf16": "500 TFLOP/s", "device.hbm.capacity": "144 GB", "device.hbm.bandwidth": "3.6 TB/s",
    "device.scale_up.bandwidth": "400 GB/s", "scale_up.hop": "0.25 us", "scale_up.endpoint": "0.45 us",
}  # fmt: skip


def assumptions(folder: Path, lines: Any) -> Path:
    (folder / "mine.yaml").write_text(yaml.safe_dump(lines))
    return folder / "mine.yaml"


def test_an_unpublished_card_is_refused_with_all_that_is_missing() -> None:
    with pytest.raises(SpecError) as error:
        compose.machine("metax-s600")
    assert all(path in str(error.value) for path in ALL_OF_S600)
    assert "--assume FILE" in str(error.value)


@pytest.mark.parametrize(
    ("given_up", "example"),
    [
        ("device.peak.bf16", "989 TFLOP/s"),
        ("device.scale_up.bandwidth", "450 GB/s"),
        ("scale_up.hop", "0.25 us"),
        ("device.hbm.capacity", "79.2 GiB"),
    ],
)
def test_the_example_is_one_of_the_number_that_is_missing(given_up: str, example: str, tmp_path: Path) -> None:
    rest = {path: value for path, value in ALL_OF_S600.items() if path != given_up}
    with pytest.raises(SpecError, match=rf"one per line, such as `{given_up}: {example}"):
        compose.machine("metax-s600", assume=assumptions(tmp_path, rest))


def test_what_no_step_reads_may_be_missing_and_is_not_named() -> None:
    """The Atlas 950 lacks only its host's memory and link."""
    machine = compose.machine("atlas-950")
    assert (machine.host.link, machine.host.dram, machine.price) == (None, None, None)
    assert not [item for item in compose.machine("scalex40").assumed if item.path.startswith("host.")]


def test_a_caller_needs_what_it_reads() -> None:
    """The link of the BW1000 is not published, its memory is."""
    with pytest.raises(SpecError, match=r"device.scale_up.bandwidth"):
        compose.machine("bw1000-8")
    assert compose.machine("bw1000-8", needs={"device.hbm.capacity"}).hbm_bytes == 64e9
    assert compose.machine("scalex40").assumed
    assert compose.machine("scalex40", needs={"device.hbm.capacity"}).assumed == ()
    with pytest.raises(SpecError, match=r"device.hbm.capacity \[byte\];"):
        compose.machine("metax-s600", needs={"device.hbm.capacity"})


def test_assumptions_in_a_dict() -> None:
    machine = compose.machine("metax-s600", assume=ALL_OF_S600)
    assert {(item.path, item.value, item.why) for item in machine.assumed} == {
        (path, value, "given by the user") for path, value in ALL_OF_S600.items()
    }
    with pytest.raises(SpecError, match=r"^given by the user: scale_up.hopp: no such path; did you mean scale_up.hop"):
        compose.machine("metax-s600", assume={"scale_up.hopp": "1 us"})


@pytest.mark.parametrize(
    ("on", "many"),
    [("scalex40", "3xscalex40"), ("5xhgx-h100@xdr", "15xhgx-h100@xdr"), ("2xmy-box.yaml", "6xmy-box.yaml")],
)
def test_several_of_a_machine(on: str, many: str) -> None:
    assert compose.times(on, 3) == many


def test_assume_supplies_and_names_them(tmp_path: Path) -> None:
    file = assumptions(tmp_path, ALL_OF_S600)
    machine = compose.machine("metax-s600", assume=file)
    assert machine.hbm_bytes == 144e9
    named = {assumption.path: (assumption.value, assumption.why) for assumption in machine.assumed}
    assert named == {path: (value, f"--assume {file}") for path, value in ALL_OF_S600.items()}


def test_assume_overrides_what_is_published_and_adds_a_rate(tmp_path: Path) -> None:
    file = assumptions(tmp_path, {"device.nic": "100 GB/s", "device.peak.fp4": "4 PFLOP/s", "network.hop": "0.3 us"})
    machine = compose.machine("2xhgx-h100@xdr", assume=file)
    assert machine.scale_out is not None
    assert machine.scale_out.bandwidth == 100e9
    assert machine.peak["fp4"] == 4e15
    assert compose.machine("2xhgx-h100@xdr").peak.get("fp4") is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"scale_up.hopp": "0.2 us"}, ["mine.yaml: scale_up.hopp: no such path", "did you mean scale_up.hop"]),
        ({"devices": 9}, ["mine.yaml devices=9: 9 devices are not a multiple of domain = 8"]),
        ({"scale_up.hop": "0.2 GB"}, ['mine.yaml: scale_up.hop: "0.2 GB" is a size, not a time']),
        ({"scale_up.hop": None}, ["mine.yaml: scale_up.hop: must be a value with its unit", "scale_up.hop: 0.2 us"]),
        ({"scale_up.hop": {"value": "1 us"}}, ["must be a value with its unit"]),
        ({"host.link": "-1 GB/s"}, ["must be finite and not negative"]),
        ({"scale_up.hop": "1e300 s"}, ['mine.yaml: scale_up.hop: "1e300 s" is too large: at most 1e+06 s']),
        ({"device.hbm.bandwidth": "1e20 GB/s"}, ["is too large: at most 1e+24 byte/s"]),
        ({"device.hbm.bandwidth": "1e-300 GB/s"}, ["must be at least 1 byte/s"]),
        ({1: "1 us"}, ["no such path"]),
        (["scale_up.hop"], ["must have one `path: value` per line"]),
        ("text", ["must have one `path: value` per line"]),
    ],
)
def test_a_wrong_assumption(lines: Any, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        compose.machine("hgx-h100", assume=assumptions(tmp_path, lines))
    for word in words:
        assert word in str(error.value)


def test_a_number_that_is_not_used_is_not_named() -> None:
    """Price, SSD and power enter no machine; the network's numbers do once there is more than one system."""
    one, many = ({a.path for a in compose.machine(on).assumed} for on in ("scalex40", "2xscalex40"))
    assert not {path for path in one if path.startswith(("network", "price", "host.ssd"))}
    assert many - one == {"network.overhead"}


def test_a_machine_keeps_what_its_host_has_and_what_it_costs_to_run() -> None:
    """scaleX40: 768 GB of DDR5 at 614.4 GB/s and 15.36 TB of NVMe a host of four cards; 45 kW and 450 kg a box."""
    one, four = compose.machine("scalex40"), compose.machine("4xscalex40@xdr")
    host = one.host
    assert (host.devices, host.link, host.dram, host.dram_bandwidth) == (4, 64e9, 768e9, 614.4e9)
    assert (host.ssd, host.ssd_bandwidth) == (15.36e12, 29.4e9)
    assert (one.price, one.power, one.weight) == (None, 45e3, 450)
    assert (four.price, four.power, four.weight) == (None, 180e3, 1800)
    assert four.host == host
