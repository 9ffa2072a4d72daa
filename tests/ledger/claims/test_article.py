"""The claims of the catalog, and the verdict of a range beside the number of a claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import SpecError, UnknownName
from tokenworks.ledger.claims.article import ClaimNumber, Relation, article, chosen
from tokenworks.ledger.claims.checks import CHECKS, ROOMS
from tokenworks.ledger.claims.finding import VERDICTS

VALUES = st.floats(0.01, 1e6)
RELATIONS: tuple[Relation, ...] = ("at least", "at most", "about", "up to")


def test_every_claim_has_one_check_and_both_languages() -> None:
    assert list(article().claims) == [f"C{number:02}" for number in range(1, 37)] == list(CHECKS)
    assert sum(len(room.CHECKS) for room in ROOMS) == len(CHECKS)
    for claim in article().claims.values():
        for text in (claim.says, claim.short):
            assert text.en.isascii()
            assert any("一" <= letter <= "鿿" for letter in text.zh)


@given(number=VALUES, relation=st.sampled_from(RELATIONS), ends=st.tuples(VALUES, VALUES))
def test_a_range_that_crosses_the_number_is_undecided(
    number: float, relation: Relation, ends: tuple[float, float]
) -> None:
    low, high = sorted(ends)
    claim = ClaimNumber(relation=relation, value=number)
    verdict = claim.verdict(low, high)
    assert verdict in VERDICTS
    inside = [claim.met_by(value) for value in (low, (low + high) / 2, high)]
    if verdict == "holds":
        assert all(inside[::2])
    if verdict == "does not hold":
        assert not any(inside)


@pytest.mark.parametrize(
    ("relation", "low", "high", "verdict"),
    [
        ("at least", 10.0, 12.0, "holds"),
        ("at least", 8.0, 9.9, "does not hold"),
        ("at least", 9.0, 11.0, "holds if"),
        ("at most", 10.0, 12.0, "holds if"),
        ("about", 9.0, 11.0, "holds"),
        ("about", 8.0, 12.0, "holds if"),
        ("about", 12.0, 13.0, "does not hold"),
        ("up to", 3.0, 10.0, "holds if"),
    ],
)
def test_verdicts_of_ten(relation: Relation, low: float, high: float, verdict: str) -> None:
    assert ClaimNumber(relation=relation, value=10.0).verdict(low, high) == verdict


def test_claims_are_chosen_by_their_numbers() -> None:
    assert list(chosen(["c13", "C02"])) == ["C02", "C13"]
    assert len(chosen([])) == 36
    with pytest.raises(UnknownName, match=r"unknown claim 'C99'.*did you mean"):
        chosen(["C99"])
    with pytest.raises(SpecError, match="C13: is given twice"):
        chosen(["C13", "c13"])
