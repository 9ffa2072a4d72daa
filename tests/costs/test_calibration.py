"""Calibrations and engines: every device has its factors, and a wrong file is an error that names the place."""

import copy
from typing import Any

import pytest
from hypothesis import given as given_cases
from hypothesis import strategies as st

from tests.costs.cases import achieved, on
from tokenworks.costs.rates import drafts_alone, rates
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.calibration import Calibration, load_calibration, number
from tokenworks.specs.device import Device
from tokenworks.specs.engine import engine_names, load_engine
from tokenworks.specs.interval import combined_spread
from tokenworks.specs.load import CATALOG, catalog_names, load, locate, read_yaml, validate
from tokenworks.specs.provenance import Quantity

FILE = CATALOG / "calibration" / "datasheet.yaml"


def edited(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(read_yaml(FILE))
    hopper = data["families"]["nvidia-hopper"]
    for path, value in changes.items():
        hopper[path] = value
    return data


def given(value: Any) -> dict[str, Any]:
    return {"value": value, "status": "assumed", "source": "a test"}


@pytest.mark.parametrize("name", catalog_names("device"))
def test_every_device_has_a_family_and_a_utilisation_for_each_dtype(name: str) -> None:
    device = load(Device, locate("device", name))
    family = load_calibration().family(device.family)
    for dtype in device.peak:
        assert 0 < family.util(dtype) <= 1


def test_every_number_says_where_it_is_from() -> None:
    for family in load_calibration().families.values():
        quantities = [quantity for _, quantity in family if isinstance(quantity, Quantity)] + [*family.gemm.values()]
        assert len(quantities) > 15
        assert all(quantity.source for quantity in quantities)


def test_rates_are_datasheet_times_utilisation() -> None:
    device_rates, family = achieved("hgx-h100"), load_calibration("datasheet").family("nvidia-hopper")
    assert device_rates.hbm == pytest.approx(3.35e12 * number(family.hbm))
    assert device_rates.gemm["bf16"] == pytest.approx(989e12 * family.util("bf16"))
    assert device_rates.inner.bandwidth == pytest.approx(450e9 * number(family.scale_up))
    assert device_rates.outer is None
    assert achieved("5xhgx-h100").outer is not None


@given_cases(share=st.floats(0.05, 1), peak=st.floats(1e12, 1e16), more=st.floats(1, 10))
def test_a_lower_peak_reaches_a_larger_share_of_it_and_never_more_flop(share: float, peak: float, more: float) -> None:
    family = load_calibration("datasheet").family("nvidia-hopper")
    measured = number(family.peak["bf16"])
    assert family.utilised(share, "bf16", measured) == pytest.approx(share * measured)
    low, high = (family.utilised(share, "bf16", one) for one in (peak, peak * more))
    assert low <= high * (1 + 1e-12)
    assert low / peak >= high / (peak * more) * (1 - 1e-12)
    assert family.utilised(share, "fp4", peak) == pytest.approx(share * peak)  # no kernel was measured in this dtype


def test_utilisation_of_devices_that_were_held_out_is_nearer_than_with_one_share() -> None:
    # NVFP4 GEMMs of B300 reach 0.316 of 13.5 PFLOP/s, of GB300 0.315 of 15 (aiconfigurator-core 0.12.0, best kernel of
    # each shape). H20 reaches 0.94 in dense GEMMs. No number of the calibration comes from these devices.
    prior = load_calibration("datasheet")
    for name, dtype, measured in (
        ("8xhgx-b300", "fp4", 0.316),
        ("gb300-nvl72", "fp4", 0.315),
        ("8xhgx-h20", "bf16", 0.94),
    ):
        system = on(name)
        share = rates(system, prior).gemm[dtype] / system.peak[dtype]
        one = prior.family(system.family).util(dtype)
        assert abs(share / measured - 1) < 0.15 < abs(one / measured - 1) + 0.03


def test_a_borrowed_family_has_its_own_spread_and_says_so() -> None:
    device_rates = achieved("gaudi3-8")
    assert device_rates.spread > number(load_calibration().family("nvidia-hopper").spread)
    assert ("calibration.gaudi", "as nvidia-hopper") in {(item.path, item.value) for item in device_rates.assumed}
    assert load_calibration().rests_on("gaudi", ["hbm"]) == "as nvidia-hopper"


def test_the_measured_devices_are_those_of_the_catalog() -> None:
    """The tables `devices` and `kernels` of a file agree with the datasheets of the devices that they name."""
    for name in ("serving", "datasheet"):
        calibration = load_calibration(name)
        for device, silicon in (calibration.devices | calibration.kernels).items():
            spec = load(Device, locate("device", device))
            bf16, bandwidth = spec.peak["bf16"].value, spec.hbm.bandwidth.value
            assert bf16
            assert bandwidth
            assert silicon.family == spec.family
            assert silicon.flop_per_byte == pytest.approx(bf16 / bandwidth, rel=1e-3)
            assert set(silicon.dtypes) <= set(spec.peak)


def test_a_family_may_have_its_own_power() -> None:
    serving = load_calibration()
    assert achieved("hgx-h100").power == load_calibration("datasheet").power
    assert rates(on("scalex40"), serving).power == serving.families["hygon-dcu"].power != serving.power


def test_only_factors_in_use_are_named_as_assumed() -> None:
    named = {item.path: item.value for item in rates(on("hgx-h100"), load_calibration()).assumed}
    assert "scale_out" in named["calibration.nvidia-hopper"]
    assert "hbm" not in named["calibration.nvidia-hopper"]
    assert not any(path.startswith("host.") for path in named)
    assert load_calibration().rests_on("nvidia-hopper", ["hbm", "gemm.bf16"]) == "measured"
    assert load_calibration().rests_on("nvidia-hopper", ["hbm", "scale_out"]) == "assumed"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hbm": given(1.2)}, "above 0 and at most 1"),
        ({"hbm": {"value": None, "status": "not-published"}}, "above 0 and at most 1"),
        ({"hbm": {"value": 0.8, "status": "measured"}}, "needs a source"),
        ({"kernel": given("0 us")}, "above zero"),
        ({"kernel": given("3 GB")}, "size, not a time"),
        ({"spread": given(0.9)}, "at least 1"),
        ({"hmb": given(0.8)}, "unknown key"),
        ({"gemm": {"bf17": given(0.8)}}, "bf17"),
    ],
)
def test_a_wrong_factor_names_the_place(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        validate(Calibration, edited(**changes), "mine.yaml")
    assert "mine.yaml: families.nvidia-hopper" in str(caught.value)


def test_like_must_name_a_family_with_numbers() -> None:
    data = edited()
    data["borrowed"]["tpu"]["like"] = "gaudi"
    with pytest.raises(SpecError, match="is not one of `families`"):
        validate(Calibration, data, "mine.yaml")


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="nvidia-hoper"):
        load_calibration().family("nvidia-hoper")
    with pytest.raises(UnknownName, match="did you mean datasheet"):
        load_calibration("datashet")
    with pytest.raises(SpecError, match="no utilisation for fp4"):
        load_calibration().family("nvidia-hopper").util("fp4")
    with pytest.raises(UnknownName, match="did you mean vllm"):
        load_engine("vlm")


@pytest.mark.parametrize("name", engine_names())
def test_engines_have_sane_habits(name: str) -> None:
    engine = load_engine(name)
    assert engine.name == name
    assert 0 < number(engine.memory_fraction) <= 1
    assert 0 < number(engine.host_step) < 0.1
    rules = engine.memory
    assert 0 < number(rules.context) < 1e9
    assert 0 <= number(rules.outside_torch) < 1e9
    assert 0 < number(rules.group) < 4e9
    assert 2 <= number(rules.logit) <= 41  # bf16 at least; vLLM's first engine measured 41
    assert (rules.window_share is not None) == (rules.pages == "pools")
    assert [one.below.value is None for one in engine.defaults[-1:]] in ([], [True])  # the last entry is for all others


@given_cases(spread=st.floats(1, 5), widening=st.floats(1, 3), far=st.floats(1, 4))
def test_drafts_add_an_error_of_their_own(spread: float, widening: float, far: float) -> None:
    """On measured devices the factor with drafts is spread ** widening; on others drafts add as much, and no more."""
    drafted = drafts_alone(spread, widening)
    assert combined_spread(spread, drafted) == pytest.approx(spread**widening)
    wide = combined_spread(spread * far, drafted)
    assert wide >= spread * far * (1 - 1e-9)
    assert wide <= (spread * far) ** widening * (1 + 1e-9)
