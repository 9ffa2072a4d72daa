"""One name space of inputs: reading, changing one, ranges, and what a plan carries of them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.ledger.claims.asks import rates_of, rates_text
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.claims import contradictions
from tokenworks.ledger.claims.mix import load_mix
from tokenworks.specs.reliability import load_reliability

SMALL = "Qwen/Qwen3-0.6B"
PATHS = (
    "scalex40.device.scale_up.bandwidth", "hgx-h100.network.hop", "bw1000-8.device.nic", "reliability.repair",
    "reliability.parts.device.failures", "prices.cards.h100", "prices.network.switch_port", "prices.finance.rate",
    "calibration.skew", "workload.isl",
)  # fmt: skip


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.read()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_one_input_changes_and_no_other(basis: Basis, path: str, factor: float) -> None:
    value = basis.value(path) * factor
    changed = basis.with_(path, value)
    assert changed.value(path) == pytest.approx(value)
    assert all(changed.value(other) == basis.value(other) for other in PATHS if other != path)


@pytest.mark.parametrize("path", PATHS)
def test_a_value_lies_in_its_range(basis: Basis, path: str) -> None:
    item = basis.input(path)
    assert item.low is not None
    assert item.value is not None
    assert item.high is not None
    assert item.low < item.high or path == "bw1000-8.device.nic"
    assert item.low <= item.value <= item.high


def test_ranges_come_from_the_list_the_file_and_the_mix(basis: Basis) -> None:
    h100, repair = basis.input("prices.cards.h100"), basis.input("reliability.repair")
    assert (h100.low, h100.value, h100.high) == (25000, 30000, 40000)
    assert (repair.low, repair.high) == (4 * 3600, 36 * 3600)  # 12 h, factor 3
    links = basis.input("bw1000-8.device.scale_up.bandwidth")
    assert (links.low, links.high) == (64e9, 200e9)
    own = basis.with_(links.path, "100 GB/s").input(links.path)
    assert (own.low, own.high) == (50e9, 200e9)  # no longer the number of the mix
    assert basis.input("reliability.recovery.crash").high == 1.0  # a share


@given(path=st.sampled_from([path for path in PATHS if path.partition(".")[0] in ("hgx-h100", "bw1000-8", "prices")]))
def test_a_plan_carries_the_numbers_of_its_machine_only(basis: Basis, path: str) -> None:
    changed = basis.with_(path, basis.value(path) * 1.5)
    assert changed.plan(SMALL, "scalex40") == basis.plan(SMALL, "scalex40")
    assert changed.train(SMALL, "scalex40") == basis.train(SMALL, "scalex40")


def test_a_plan_carries_its_own_numbers(basis: Basis) -> None:
    for path in ("scalex40.device.nic", "workload.isl", "calibration.skew"):
        changed = basis.with_(path, basis.value(path) * 1.5)
        plan = changed.plan(SMALL, "2xscalex40")
        assert plan != basis.plan(SMALL, "2xscalex40")
        assert "--set" in plan.command
    assert basis.with_("reliability.repair", "6 h").train(SMALL, "scalex40") != basis.train(SMALL, "scalex40")


def test_failure_rates_survive_their_text() -> None:
    rates = load_reliability()
    assert rates_text(rates_of(rates_text(rates))) == rates_text(rates)


def test_the_system_of_a_machine() -> None:
    assert [system_of(on) for on in ("5xhgx-h100@ndr", "scalex40:32", "scalex40")] == [
        "hgx-h100", "scalex40", "scalex40"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("scalex40.device.nicc", "1 GB/s", "no such path; did you mean"),
        ("scalex40.device.nic", "5 s", "is a time, not a rate"),
        ("scalex41.device.nic", "5 GB/s", "begins with no system"),
        ("prices.cards.h101", "1 USD/card", "no such price"),
        ("prices.cards.h100", "1 USD", 'unit "USD" is not one of'),
        ("reliability.repair", "0 h", "no part is replaced in no time"),
        ("reliability.repai", "1 h", "no such path"),
        ("workload.isl", "-1", "greater than or equal to 1"),
        ("mix.workload", "chatt", "unknown workload"),
    ],
)
def test_a_wrong_input_is_refused_in_words(path: str, value: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Basis.read(assume={path: value})


def test_an_input_without_a_number_is_refused(basis: Basis) -> None:
    for path, words in (
        ("mix.workload", "is no number"), ("scalex40.devicee", "no such path"), ("engine.host_step", "each engine"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=words):
            basis.input(path)
    with pytest.raises(SpecError, match="is not published; give it with --set"):
        basis.value("prices.systems.scalex40")


def test_a_number_against_a_published_one_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("device.peak.fp8: 500 TFLOP/s\ndevice.scale_up.bandwidth: 300 GB/s\n")
    told = list(contradictions(Basis.read(assume_of={"scalex40": file})))
    assert len(told) == 1  # the bandwidth of the catalog is assumed itself
    for words in ("device.peak.fp8 is 700 TFLOP/s (derived: 28 PFLOPS / 40 cards", "500 TFLOP/s is assumed", str(file)):
        assert words in told[0]


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"models": {}}, "models"),
        ({"models": {SMALL: 0}}, "a weight is above 0"),
        ({"models": {SMALL: float("nan")}}, "a weight is above 0"),
        ({"model": {SMALL: 1}}, "unknown key"),
        ({"speeds": ["0 ms"]}, "a bound on TPOT is above 0"),
        ({"domains": [8, 16]}, "domains"),
    ],
)
def test_a_wrong_mix_is_refused(mix: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        load_mix(mix)


def test_a_mix_keeps_what_it_leaves_out() -> None:
    mix = load_mix({"models": {SMALL: 3, "Qwen/Qwen3-8B": 1}})
    assert mix.main == SMALL
    assert mix.shares == {SMALL: 0.75, "Qwen/Qwen3-8B": 0.25}
    assert mix.baselines == load_mix().baselines
