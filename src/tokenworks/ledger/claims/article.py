"""What the scaleX40 article claims, in our own words: `catalog/claims/article.yaml`."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from tokenworks.errors import SpecError, UnknownName
from tokenworks.ledger.claims.finding import ClaimVerdict
from tokenworks.specs import load
from tokenworks.specs.provenance import Spec

FOLDER = load.CATALOG / "claims"

Relation = Literal["at least", "at most", "about", "up to"]

ABOUT = 0.1
"""A value is "about" a number if it differs by at most this share of the number [-]."""


class TwoLanguages(Spec):
    """One text in English and in Chinese."""

    en: str
    zh: str


class ClaimNumber(Spec):
    """The number of a claim.

    Parameters
    ----------
    relation : how the claim compares a value with the number; "up to": the largest value reaches it
    value : the number, in `unit`
    unit : unit of the number; empty: a plain number, such as a ratio
    """

    relation: Relation
    value: float
    unit: str = ""

    @property
    def written(self) -> str:
        """The number in words, such as "at least 28 PFLOP/s"."""
        return f"{self.relation} {self.value:,.6g} {self.unit}".strip()

    def met_by(self, value: float) -> bool:
        """Whether a value is on the side of the claim."""
        if self.relation == "at most":
            return value <= self.value
        if self.relation == "about":
            return abs(value - self.value) <= ABOUT * self.value
        return value >= self.value

    def verdict(self, low: float, high: float) -> ClaimVerdict:
        """The verdict on a value that lies between two ends: "holds if" where the claim's number lies between them."""
        ends = {self.met_by(low), self.met_by(high)}
        if ends == {False} and low < self.value < high:
            return "holds if"
        return "holds if" if len(ends) == 2 else "holds" if True in ends else "does not hold"


class ArticleClaim(Spec):
    """One claim of the article.

    Parameters
    ----------
    short : the claim in a few words
    says : what the article says, in our words
    number : its number; None: the claim has none
    system : what the claim is about
    unknown : what nobody published and a check needs; empty: nothing
    """

    short: TwoLanguages
    says: TwoLanguages
    number: ClaimNumber | None = None
    system: str
    unknown: str = ""


class Article(Spec):
    """All claims.

    Parameters
    ----------
    title, source : the article, and where its figures are from
    claims : number of the claim, such as C13 -> the claim
    """

    title: str
    source: str
    claims: dict[str, ArticleClaim] = Field(min_length=1)


@functools.cache
def article() -> Article:
    """The claims of the catalog."""
    return load.load(Article, FOLDER / "article.yaml")


def number_of(claim: str) -> ClaimNumber:
    """The number of a claim that has one.

    Parameters
    ----------
    claim : number of the claim, such as C13
    """
    number = article().claims[claim].number
    assert number is not None, f"{claim} has no number"
    return number


def chosen(ids: Iterable[str]) -> dict[str, ArticleClaim]:
    """Claims by their numbers, in the order of the article; without numbers all claims.

    Raises
    ------
    SpecError : an unknown claim, or a claim that is given twice
    """
    known, asked = article().claims, [name.upper() for name in ids]
    for name in asked:
        if name not in known:
            raise UnknownName("claim", name, known, hint="`tokenworks claims` lists all")
        if asked.count(name) > 1:
            raise SpecError("is given twice", where=name, hint="give each claim once")
    return {name: claim for name, claim in known.items() if not asked or name in asked}
