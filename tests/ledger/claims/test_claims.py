"""Verdicts come from the models: effects, break-evens, equal bytes, and known values of the checks without plans."""

import dataclasses
import json
from typing import Any

import pytest

from tokenworks import SpecError, claims
from tokenworks.ledger.claims import failures
from tokenworks.ledger.claims.asks import ClaimAsk
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.checks import CHECKS
from tokenworks.ledger.claims.result import ClaimsRun
from tokenworks.ledger.claims.turning import turning_points

QUICK = ("C01", "C02", "C05", "C06", "C07", "C08", "C11", "C16", "C17", "C18", "C19", "C20", "C21", "C22", "C23",
         "C24", "C25", "C27", "C33")  # fmt: skip
"""Claims whose checks ask no question that takes long."""

Plain = dict[str, Any]


def plain(run: ClaimsRun) -> dict[str, Plain]:
    return {one["id"]: one for one in run.plain()["claims"]}


@pytest.fixture(scope="module")
def usual() -> ClaimsRun:
    return claims(QUICK, workers=1)


def test_twice_the_same_bytes(usual: ClaimsRun) -> None:
    again = claims(QUICK[:4], workers=1)
    assert json.dumps(list(plain(again).values())) == json.dumps(list(plain(usual).values())[:4])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("scalex40.device.scale_up.bandwidth", "896 GB/s"),
        ("reliability.parts.link.failures", "3.2e-7"),
        ("prices.cards.bw1000", "40000 CNY/card"),
    ],
)
def test_values_change_where_they_depend_on_an_input_and_nowhere_else(usual: ClaimsRun, path: str, value: str) -> None:
    basis = usual.basis.with_(path, value)
    touched = {one.id for one in usual.claims if path in {item.path for item in one.depends_on}}
    assert touched
    for one in usual.claims:
        computed = CHECKS[one.id].judge(basis, {}).computed
        assert (computed == one.finding.computed) == (one.id not in touched), one.id


def test_a_break_even_turns_the_verdict(usual: ClaimsRun) -> None:
    turned = 0
    for one in usual.claims:
        for point in one.break_even:
            for factor, verdict in ((0.95, point.verdict_below), (1.05, point.verdict_above)):
                basis = usual.basis.with_(point.path, point.value * factor)
                assert CHECKS[one.id].judge(basis, {}).verdict == verdict, (one.id, point)
                turned += 1
    assert turned > 30


def test_known_values(usual: ClaimsRun) -> None:
    """By hand, from the figures of the article, the maker and the networks."""
    found = {one.id: one.finding for one in usual.claims}
    for name, value, verdict in (
        ("C05", 40, "holds"), ("C06", 28, "holds"), ("C08", 80, "holds"), ("C19", 0, "holds"),
        ("C07", 40 * 147440 * 2**20 / 1e12, "holds"),
        ("C20", 448 / 50, "holds if"),  # 448 GB/s a direction over 400 Gb/s
        ("C21", 2800 / 700, "holds if"),
        ("C22", 450 + 250, "holds if"),
        ("C23", 100 * 500 / 1200, "holds if"),  # two of three switches saved
        ("C27", 5, "holds if"),
        ("C17", 5184, "holds if"),
    ):  # fmt: skip
        assert found[name].computed == pytest.approx(value), name
        assert found[name].verdict == verdict, name
    # one layer: 160 lanes and 4 switches; two layers: 160 lanes, 160 cables, 14 switches (failures in an hour)
    one, two = 160 * 7.8e-8 + 4 * 2.5e-6, 160 * (7.8e-8 + 1.6e-7) + 14 * 2.5e-6
    assert found["C24"].computed == pytest.approx(100 * (1 - one / two))
    others = 40 * (9.2e-6 + 3.4e-6) + 10 * (1.7e-5 + 2.4e-5)
    assert found["C24"].low == pytest.approx(100 * (1 - (one + others) / (two + others)))


def test_the_price_of_the_machine_decides_c11(usual: ClaimsRun) -> None:
    open_ = next(one for one in usual.claims if one.id == "C11")
    assert open_.finding.verdict == "cannot be known"
    assert [point.path for point in open_.break_even] == ["prices.systems.scalex40"] * 2
    equal = open_.finding.computed
    assert equal is not None
    judged = claims(["C11"], assume={"prices.systems.scalex40": f"{equal * 1e6} CNY/system"}, workers=1).claims[0]
    assert judged.finding.verdict == "holds if"
    assert judged.finding.computed == pytest.approx(1.0)
    assert "--set" in judged.command
    dear = claims(["C11"], assume={"prices.systems.scalex40": "90000000 CNY/system"}, workers=1).claims[0]
    assert dear.finding.verdict == "does not hold"


def test_availability_follows_the_repair_time() -> None:
    """C09 with a small model and estimated plans: shorter repairs, more time; break-evens turn the verdict."""
    basis = Basis.read(mix={"models": {"Qwen/Qwen3-0.6B": 1}})
    check = CHECKS["C09"]
    answers: dict[ClaimAsk, Any] = {
        ask: dataclasses.replace(ask, simulate=False).answer(None) for ask in failures._plans(basis)
    }
    finding = check.judge(basis, answers)
    half = check.judge(basis.with_("reliability.repair", "6 h"), answers)
    assert finding.low is not None
    assert half.low is not None
    assert finding.low < half.low < 100
    points = turning_points(check, basis, answers, finding)
    assert {point.path for point in points} == {"reliability.repair"}
    for point in points:
        for factor, verdict in ((0.95, point.verdict_below), (1.05, point.verdict_above)):
            assert check.judge(basis.with_(point.path, point.value * factor), answers).verdict == verdict


def test_bad_input() -> None:
    with pytest.raises(SpecError, match="unknown claim"):
        claims(["C77"])
    with pytest.raises(SpecError, match="ids"):
        claims("C13")
    with pytest.raises(SpecError, match="no part is replaced in no time"):
        claims(["C05"], assume={"reliability.repair": "0 h"})
    with pytest.raises(SpecError, match="unknown model"):
        claims(["C05"], mix={"models": {"no/such-model": 1}})
    with pytest.raises(SpecError, match="begins with no system"):
        claims(["C05"], assume_of={"hgx-h101": {"device.nic": "5 GB/s"}})
