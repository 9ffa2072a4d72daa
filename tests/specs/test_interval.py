"""Interval laws: a farther device never has a narrower interval, and its grade is not that of another device."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.device import ComputeDtype
from tokenworks.specs.interval import (
    DISTANCES,
    NEAR,
    Distance,
    IntervalLaw,
    Nearness,
    Silicon,
    SpreadGrowth,
    VendorSpread,
    combined_spread,
)
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.provenance import Quantity

SERVING = load_calibration("serving")
H100, H20 = machine("hgx-h100"), machine("hgx-h20")


def quantity(value: float) -> Quantity:
    return Quantity(value=value, status="assumed", source="made up", written=f"{value:g}")


FACTORS = st.dictionaries(st.sampled_from(DISTANCES), st.floats(1.0, 5.0).map(quantity))
GROWTHS = st.builds(
    SpreadGrowth, slope=st.floats(0, 1).map(quantity), dtype=st.floats(1, 3).map(quantity), reach=st.floats(0, 1)
)
LAWS = st.builds(IntervalLaw, FACTORS, GROWTHS)
NEARNESS = st.builds(
    Nearness, distance=st.sampled_from(DISTANCES), nearest=st.just("h100"), log_ratio=st.floats(0, 3),
    dtypes=st.sampled_from([(), ("fp4",), ("fp4", "fp8")]),
)  # fmt: skip


@given(LAWS, NEARNESS, st.sampled_from(DISTANCES), st.floats(0, 3), st.floats(1, 3))
def test_a_farther_device_never_has_a_narrower_interval(
    law: IntervalLaw, near: Nearness, distance: Distance, more: float, least: float
) -> None:
    farther = replace(near, log_ratio=near.log_ratio + more, dtypes=("fp4", "fp8"))
    assert law.at(farther, least=least) >= law.at(near, least=least) >= 1
    if DISTANCES.index(distance) > DISTANCES.index(near.distance):
        assert law.factor(distance) >= law.factor(near.distance)
        assert law.at(replace(near, distance=distance), least=least) >= law.at(near, least=least)


def test_a_law_by_hand() -> None:
    """ln f = ln 1.3 + 0.25 ln 4 + ln 1.2: f = 1.3 x sqrt(2) x 1.2 = 2.206."""
    growth = SpreadGrowth(slope=quantity(0.25), dtype=quantity(1.2), reach=math.log(2))
    law = IntervalLaw({"family": quantity(1.3), "datasheet": quantity(2.0)}, growth)
    near = Nearness("family", "h100", math.log(4), ("fp4",))
    assert law.at(near) == pytest.approx(2.206, rel=1e-3)
    assert "differ by a factor of 4, those of measured devices by at most 2" in growth.beyond(near)
    assert not growth.beyond(replace(near, log_ratio=math.log(1.9)))
    assert not SpreadGrowth().beyond(near)  # without a slope nothing grows
    assert [law.factor(distance) for distance in DISTANCES] == [1.3, 1.3, 2.0, 2.0, 2.0]
    assert IntervalLaw({}, growth).factor("device") == 1.0


def test_the_spread_of_a_family_is_not_for_devices_with_points_of_their_own() -> None:
    law = IntervalLaw({"device": quantity(1.2), "family": quantity(1.3)}, SpreadGrowth())
    assert law.at(Nearness("device", "h100"), least=1.5) == 1.2
    assert law.at(Nearness("family", "h100"), least=1.5) == 1.5
    assert IntervalLaw({}, SpreadGrowth()).at(Nearness("device", "h100"), least=1.5) == 1.5


def test_a_vendor_with_measured_devices_has_its_own_factors() -> None:
    own = VendorSpread(tpot={"device": quantity(1.1)}, throughput={"device": quantity(1.4)})
    common = {"tpot_spread": {"device": quantity(1.3), "family": quantity(1.35)}, "vendor_spread": {"nvidia": own}}
    changed = SERVING.model_copy(update=common)
    assert changed.tpot_law("nvidia-hopper").factor("device") == 1.1
    assert changed.tpot_law("nvidia-hopper").factor("family") == 1.35
    assert changed.tpot_law("amd-cdna3").factor("device") == 1.3
    assert changed.throughput_law("nvidia-ada").factor("device") == 1.4
    assert rates(H100, changed).spread == pytest.approx(1.1)


@given(st.lists(st.floats(1, 5), min_size=1, max_size=4))
def test_independent_errors_add_in_quadrature(spreads: list[float]) -> None:
    together = combined_spread(*spreads)
    assert math.log(together) ** 2 == pytest.approx(sum(math.log(one) ** 2 for one in spreads), abs=1e-9)
    assert combined_spread(together, 1.0) == pytest.approx(together)


@pytest.mark.parametrize("drafts", [0, 3])
def test_an_independent_error_widens_both_intervals(drafts: int) -> None:
    known = rates(H100, SERVING)
    engine = replace(known, other_spreads=(2.0,))
    for name in ("spread_of", "throughput_spread"):
        alone, together = getattr(known, name)(drafts), getattr(engine, name)(drafts)
        assert together == pytest.approx(combined_spread(alone, 2.0))


# ── grades and distances of real devices ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("on", "grade", "distance"),
    [
        ("hgx-h100", "end-to-end-calibrated", "device"),
        ("hgx-mi355x", "end-to-end-calibrated", "device"),
        ("hgx-h800", "kernel-calibrated", "family"),
        ("pcie-h100", "kernel-calibrated", "family"),
        ("hgx-b300", "kernel-calibrated", "family"),
        ("hgx-h20", "datasheet", "family"),
        ("hgx-mi325x", "datasheet", "family"),  # no kernel of its family is measured alone
        ("pcie-l40s", "kernel-calibrated", "vendor"),
        ("pcie-rtx-4090", "datasheet", "vendor"),
        ("hgx-a100", "datasheet", "vendor"),
        ("scalex40", "kernel-calibrated", "other-vendor"),
        ("scalex640", "datasheet", "datasheet"),
        ("gaudi3-8", "datasheet", "other-vendor"),
        ("cloudmatrix384", "datasheet", "datasheet"),
    ],
)
def test_grade_and_distance_of_a_device(on: str, grade: str, distance: str) -> None:
    assert SERVING.grade_of(machine(on)) == grade
    assert SERVING.nearness(machine(on)).distance == distance
    assert rates(machine(on), SERVING).grade == grade
    assert load_calibration("datasheet").grade_of(machine(on)) == "datasheet"
    assert load_calibration("datasheet").nearness(machine(on)).distance == "datasheet"


@pytest.mark.parametrize(("flop", "dtypes"), [(219.0, "int8 bf16"), (100.0, "fp8 bf16"), (300.0, "fp8 bf16")])
def test_older_cards_do_not_get_the_grade_of_the_measured_one(flop: float, dtypes: str) -> None:
    """K100-AI has 219 FLOP per byte and no FP8; the other cards are made up."""
    card = machine("scalex40")
    peak = dict.fromkeys(dtypes.split(), flop * card.hbm_bandwidth)
    other = replace(card, device="k100-ai", peak=peak)
    assert SERVING.grade_of(card) == "kernel-calibrated"
    assert SERVING.grade_of(other) == "datasheet"
    assert SERVING.nearness(other).distance == "datasheet"


def test_h20_has_a_wider_interval_than_its_family_and_says_that_it_is_assumed() -> None:
    h20, h800 = rates(H20, SERVING), rates(machine("hgx-h800"), SERVING)
    assert h20.spread > h800.spread
    assert h20.speed_spread > h800.speed_spread
    named = {item.path: item.why for item in h20.assumed}
    assert "differ by a factor of 5.6" in named["calibration.spread_growth"]
    assert not any("spread" in item.path for item in h800.assumed)


@given(st.floats(0.2, 5.0))
def test_a_changed_device_is_no_longer_the_measured_one(times: float) -> None:
    changed = replace(H100, hbm_bandwidth=H100.hbm_bandwidth * times)
    same = abs(math.log(times)) <= math.log(NEAR) - 1e-3
    if same or abs(math.log(times)) > math.log(NEAR) + 1e-3:
        assert (SERVING.grade_of(changed) == "end-to-end-calibrated") == same
    assert rates(changed, SERVING).spread >= rates(H100, SERVING).spread


def test_an_fp8_path_that_no_device_of_the_family_has() -> None:
    bf16 = SERVING.model_copy(
        update={
            "devices": {"h100": Silicon(family="nvidia-hopper", flop_per_byte=295.2, dtypes=("bf16",))},
            "kernels": {},
        }
    )
    assert bf16.nearness(H100).dtypes == ("fp8",)
    assert bf16.grade_of(H100) == "datasheet"
    growth = SpreadGrowth(dtype=quantity(1.2))
    law = {"tpot_spread": {"device": quantity(1.3)}, "vendor_spread": {}, "spread_growth": growth}
    widened = bf16.model_copy(update=law)
    assert rates(H100, widened).spread == pytest.approx(1.3 * 1.2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernels": {"h100": {"family": "nvidia-hopper", "flop_per_byte": 0, "dtypes": []}}}, "greater than 0"),
        ({"kernels": {"h100": {"family": "nvidia-hopper", "flop_per_byte": 9, "dtypes": ["fp9"]}}}, "fp9"),
        ({"kernels": {"h100": {"flop_per_byte": 9, "dtypes": []}}}, "kernels.h100.family"),
        ({"kernels": ["h100"]}, "kernels"),
        ({"graded": ["nvidia-hopper"]}, "unknown key"),
        ({"spread_growth": {"slope": {"value": -0.1, "status": "assumed", "source": "x"}}}, "not negative"),
        ({"spread_growth": {"slope": {"value": None, "status": "not-published"}}}, "must not be null"),
        ({"spread_growth": {"dtype": {"value": 0.9, "status": "assumed", "source": "x"}}}, "at least 1"),
        ({"spread_growth": {"reach": -1}}, "greater than or equal to 0"),
        ({"tpot_spread": {"device": {"value": 0.9, "status": "assumed", "source": "x"}}}, "at least 1"),
        ({"tpot_spread": {"planet": {"value": 2, "status": "assumed", "source": "x"}}}, "planet"),
    ],
)
def test_a_wrong_law_names_the_place(changes: dict[str, Any], words: str) -> None:
    data = read_yaml(CATALOG / "calibration" / "datasheet.yaml") | changes
    with pytest.raises(SpecError, match=words) as caught:
        validate(Calibration, data, "mine.yaml")
    assert "mine.yaml" in str(caught.value)


def test_silicon_of_a_machine_without_bf16_uses_its_fp32_peak() -> None:
    old = replace(H100, peak={"fp32": 1e14})
    dtypes: tuple[ComputeDtype, ...] = ()
    assert Silicon.of(old) == Silicon(family="nvidia-hopper", flop_per_byte=29.85, dtypes=dtypes)
