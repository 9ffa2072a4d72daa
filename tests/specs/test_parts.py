"""The parts of a machine: counts from the topology, and what a failed part takes away."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.specs.compose import machine
from tokenworks.specs.machine import Machine, Wiring
from tokenworks.specs.parts import KINDS, MachinePart, assumed_parts, lost_share, part_counts, parts_of


def of_kind(on: Machine, kind: str) -> list[MachinePart]:
    return [part for part in parts_of(on) if part.kind == kind]


@pytest.mark.parametrize(
    ("on", "counts"),
    [
        ("scalex40", {"device": 40, "hbm": 40, "host": 10, "lane": 160, "switch": 4, "software": 10}),
        (
            "5xhgx-h100",
            {"device": 40, "hbm": 40, "host": 5, "nic": 40, "link": 40, "optic": 80, "switch": 1, "software": 5},
        ),
        ("gb200-nvl72", {"device": 72, "hbm": 72, "host": 18, "link": 1296, "switch": 18, "software": 18}),
        ("hgx-h100:1", {"device": 1, "hbm": 1, "host": 1, "software": 1}),
        ("hgx-mi300x", {"device": 8, "hbm": 8, "host": 1, "software": 1}),
    ],
)
def test_counts_follow_from_the_topology(on: str, counts: dict[str, int]) -> None:
    assert part_counts(parts_of(machine(on))) == counts


def test_two_layers_of_switches_between_domains() -> None:
    """128 ports over switches of 64 ports, by hand: 4 leaves, 2 spines, 128 cables to NICs and 128 uplinks."""
    counts = part_counts(parts_of(machine("16xhgx-h100")))
    assert (counts["switch"], counts["nic"], counts["link"], counts["optic"]) == (6, 128, 256, 512)


def test_optical_cables_have_two_transceivers() -> None:
    counts = part_counts(parts_of(machine("cloudmatrix384", needs=())))
    assert counts["optic"] == 2 * counts["link"] == 5376  # SemiAnalysis: 5,376 modules for scale-up


def test_a_host_stops_its_devices_and_a_device_only_itself() -> None:
    box = machine("scalex40")
    assert of_kind(box, "host")[2].devices == (8, 9, 10, 11)
    assert of_kind(box, "device")[9].devices == (9,)
    assert of_kind(box, "device")[9].name == "device 9"


def test_one_of_four_switches_takes_a_quarter_and_two_take_half() -> None:
    switches = of_kind(machine("scalex40"), "switch")
    assert lost_share(switches[:1], "scale_up", range(40)) == 0.25
    assert lost_share(switches[:2], "scale_up", range(40)) == 0.5
    assert lost_share(switches, "scale_out", range(40)) == 0.0
    assert not any(switch.devices for switch in switches)


def test_a_lane_slows_only_groups_with_its_device() -> None:
    lane = of_kind(machine("scalex40"), "lane")[0]
    assert lost_share([lane], "scale_up", range(4)) == 0.25
    assert lost_share([lane], "scale_up", range(4, 40)) == 0.0


def test_a_nic_takes_its_share_of_the_host_and_the_only_switch_takes_all() -> None:
    hosts = machine("5xhgx-h100")
    assert lost_share(of_kind(hosts, "nic")[:1], "scale_out", range(40)) == 1 / 8
    assert lost_share(of_kind(hosts, "nic")[:1], "scale_out", range(8, 40)) == 0.0
    assert lost_share(of_kind(hosts, "switch"), "scale_out", range(8, 16)) == 1.0


def test_an_unknown_number_of_switches_is_one_and_is_listed() -> None:
    box = machine("kunlun-64", needs=())
    (switch,) = of_kind(box, "switch")
    assert switch.devices == tuple(range(64))
    assert [item.path for item in assumed_parts(box)] == ["scale_up.switches", "cables"]


def test_a_torus_has_no_count() -> None:
    with pytest.raises(SpecError, match="counts no parts of a torus"):
        parts_of(machine("tpu-v5e-pod", needs=()))


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 4), st.sampled_from([1, 2, 4, 8])), switches=st.integers(1, 6),
    radix=st.sampled_from([4, 16, 64]), topology=st.sampled_from(["switched", "mesh"]),
    cables=st.sampled_from([0, 9, None]),
)  # fmt: skip
def test_laws(shape: tuple[int, int, int], switches: int, radix: int, topology: str, cables: int | None) -> None:
    """Numbers count from zero, devices exist, and all parts of a kind on one level take at most all bandwidth."""
    box = machine("2xhgx-h100")
    hosts, domains, size = shape
    devices = hosts * size * domains
    layers = next(n for n in range(1, 9) if devices <= 2 * (radix // 2) ** n)
    if layers > 3:
        return
    assert box.scale_out is not None
    random = dataclasses.replace(
        box, devices=devices, domain=hosts * size, host=dataclasses.replace(box.host, devices=size),
        scale_out=dataclasses.replace(box.scale_out, layers=layers) if domains > 1 else None,
        wiring=Wiring(topology, switches, cables, False, devices, radix),
    )  # fmt: skip
    parts = parts_of(random)
    for kind, number in part_counts(parts).items():
        assert [part.number for part in parts if part.kind == kind] == list(range(number))
    assert list(dict.fromkeys(part.kind for part in parts)) == [kind for kind in KINDS if kind in part_counts(parts)]
    for part in parts:
        assert set(part.devices) | set(part.reach) <= set(range(devices))
        assert (part.level is None) == (part.share == 0.0) == (not part.reach)
    for kind in ("nic", "lane"):
        shares = [part.share for part in parts if part.kind == kind and 0 in part.reach]
        assert sum(shares) <= 1 + 1e-9
    assert all(0 <= lost_share(parts[:n], "scale_out", range(devices)) <= 1 for n in (1, len(parts)))
