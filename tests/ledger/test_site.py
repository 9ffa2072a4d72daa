"""Machines in rooms: racks, what fits, what does not, and what a network consists of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.ledger.site import Hardware, Room, clos, hardware_of, load_room, placed
from tokenworks.specs.compose import parts


def hardware(on: str) -> Hardware:
    return hardware_of(parts(on))


def test_scalex40_has_no_cable_and_nothing_to_configure_and_five_servers_have_40_ports() -> None:
    box, servers = hardware("scalex40"), hardware("5xhgx-h100")
    assert (box.cables, box.links, box.endpoints, box.switches) == (0, 0, 0, 0)
    assert (servers.cables, servers.links, servers.endpoints, servers.switches) == (0, 40, 40, 1)
    assert hardware("gb200-nvl72").cables == 5184


@pytest.mark.parametrize(
    ("endpoints", "radix", "switches", "links"),
    [(40, 64, 1, 40), (64, 64, 1, 64), (65, 64, 5, 65 + 3 * 32), (2048, 64, 96, 4096), (16, 4, 20, 48)],
)
def test_switches_and_links_of_a_fat_tree(endpoints: int, radix: int, switches: int, links: int) -> None:
    """A full tree: k = 4 has 16 hosts, 20 switches, 48 links (SIGCOMM 2008, figure 3); k^2/2 hosts: 3k/2 switches."""
    assert clos(endpoints, radix) == (switches, links)


@given(st.integers(1, 4000), st.sampled_from([32, 64, 80, 144]))
def test_more_endpoints_never_need_fewer_switches_or_links(endpoints: int, radix: int) -> None:
    one, more = clos(endpoints, radix), clos(endpoints + 1, radix)
    assert one[0] <= more[0]
    assert endpoints <= one[1] < more[1]


@pytest.mark.parametrize(
    ("on", "room", "racks", "per_rack"),
    [
        ("scalex40", {}, 1, 2),  # 16 U each in 42 U; Sugon: one or two boxes a rack
        ("3xscalex40", {}, 2, 2),
        ("3xscalex40", {"rack_power": "50 kW"}, 3, 1),
        ("3xscalex40", {"rack_weight": "800 kg"}, 3, 1),
        ("5xhgx-h100", {}, 1, 5),
        ("5xhgx-h100", {"rack_power": "25 kW"}, 3, 2),
        ("gb200-nvl72", {}, 1, 1),
        ("cloudmatrix384", {}, 16, 1 / 16),
    ],
)
def test_racks(on: str, room: dict[str, Any], racks: int, per_rack: float) -> None:
    inside = placed(hardware(on), load_room(room))
    assert (inside.racks, inside.boxes_per_rack) == (racks, per_rack)


def test_a_full_rack_has_power_and_weight_of_its_boxes() -> None:
    inside = placed(hardware("scalex40"))
    assert (inside.rack_power_w, inside.rack_weight_kg) == (90e3, 900)
    assert placed(hardware("cloudmatrix384")).rack_power_w == pytest.approx(559e3 / 16)


def test_how_many_boxes_fit_and_what_limits_them() -> None:
    room = load_room({"racks": 3, "power": "200 kW"})
    inside = placed(hardware("scalex40"), room)
    assert (inside.fits, inside.limited_by) == (4, "power")
    assert (placed(hardware("scalex40"), Room(racks=1)).fits, placed(hardware("scalex40")).fits) == (2, None)


@pytest.mark.parametrize(
    ("on", "room", "words"),
    [
        ("scalex40", {"rack_power": "20 kW"},
         r"one system draws 45 kW in a rack, 25 kW more than the 20 kW of a rack; \S+ with 8 devices is the largest"),
        ("scalex40", {"rack_weight": "400 kg"}, r"one system weighs 450 kg in a rack, 50 kg more"),
        ("scalex40", {"cooling": "air"}, r"it needs liquid cooling, and the room has air; "),
        ("gb200-nvl72", {"cooling": "air", "rack_power": "100 kW"}, r"air; one system draws 120 kW in a rack, 20 kW"),
        ("5xscalex40", {"racks": 2}, r"5 systems need 3 racks, and the room has 2; 4 of them fit"),
        ("5xscalex40", {"power": "100 kW"}, r"5 systems need 225 kW, and the room has 100 kW; 2 of them fit"),
        ("scalex40", {"power": "10 kW"}, r"1 systems need 45 kW, and the room has 10 kW; not one of them fits"),
        ("scalex40", {"rack_power": "1 kW"}, r"no system of the catalog whose height, power and cooling are known"),
    ],
)  # fmt: skip
def test_what_does_not_fit_and_by_how_much(on: str, room: dict[str, Any], words: str) -> None:
    with pytest.raises(DoesNotFit, match=words):
        placed(hardware(on), load_room({"name": "basement", **room}))


def test_a_limit_that_cannot_be_checked_is_named() -> None:
    assert placed(hardware("cloudmatrix384"), load_room({"rack_weight": "2000 kg"})).unknown == ("weight",)


def test_a_height_that_is_not_published() -> None:
    with pytest.raises(SpecError, match=r"kunlun-32: rack_units: its height is not published; give it with --set"):
        placed(hardware("kunlun-32"))


@pytest.mark.parametrize(
    ("room", "words"),
    [
        ({"racks": 0}, "greater than 0"),
        ({"rack_power": "20 kg"}, "is a mass"),
        ({"cooling": "water"}, "'water' is not one of 'air', 'liquid' or 'immersion'"),
        ({"rack": 3}, 'unknown key; did you mean "racks"'),
    ],
)
def test_a_wrong_room(room: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        load_room(room)
