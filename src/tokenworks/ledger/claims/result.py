"""The result of `claims`: typed, and as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated

from typing_extensions import TypedDict

from tokenworks.ledger.claims.article import ArticleClaim, TwoLanguages
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.effects import Dependence
from tokenworks.ledger.claims.finding import VERDICTS, ClaimMap, ClaimTable, Finding, TurningPoint
from tokenworks.ledger.claims.mix import Mix
from tokenworks.specs.machine import Assumption
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown


class ClaimPlain(TypedDict):
    """One claim with its verdict.

    says, short : what the article says, in our words, and in a few words; English and Chinese
    number, relation, number_unit : the number of the claim; None: the claim has none
    unknown : what nobody published
    computed, low, high, unit : the computed value and its range; None: the check computes no number
    depends_on : inputs that move the computed value, the largest effect first
    break_even : values of inputs at which the verdict changes
    command : command that reproduces the computed value
    """

    id: str
    short: Annotated[Plain, FormOf(TwoLanguages)]
    says: Annotated[Plain, FormOf(TwoLanguages)]
    system: str
    number: float | None
    relation: str | None
    number_unit: str
    unknown: str
    computed: float | None
    low: float | None
    high: float | None
    unit: str
    verdict: str
    because: list[str]
    conditions: list[str]
    depends_on: list[Annotated[Plain, FormOf(Dependence)]]
    break_even: list[Annotated[Plain, FormOf(TurningPoint)]]
    tables: list[Annotated[Plain, FormOf(ClaimTable)]]
    maps: list[Annotated[Plain, FormOf(ClaimMap)]]
    notes: list[str]
    assumed: list[Assumed]
    command: str


class ClaimsBody(TypedDict):
    """The plain form of `claims`.

    mix : models, requests and machines that the claims were checked with
    reliability, prices : names of the failure rates and of the price list
    verdicts : number of claims with each verdict
    notes : numbers of the user that contradict published ones
    """

    inputs: Inputs
    mix: Annotated[Plain, FormOf(Mix)]
    reliability: str
    prices: str
    verdicts: dict[str, int]
    claims: list[ClaimPlain]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """One claim with its verdict.

    Parameters
    ----------
    id : number of the claim
    claim : what the article says
    finding : what the check found
    depends_on : inputs that move the computed value, the largest effect first
    break_even : values of inputs at which the verdict changes
    command : command that reproduces the computed value
    assumed : assumed numbers that the claim rests on
    """

    id: str
    claim: ArticleClaim
    finding: Finding
    depends_on: tuple[Dependence, ...]
    break_even: tuple[TurningPoint, ...]
    command: str
    assumed: tuple[Assumption, ...]

    def plain(self) -> ClaimPlain:
        """The claim as plain data."""
        claim, finding = self.claim, self.finding
        number = claim.number
        return {
            "id": self.id,
            "short": claim.short.model_dump(),
            "says": claim.says.model_dump(),
            "system": claim.system,
            "number": number.value if number else None,
            "relation": number.relation if number else None,
            "number_unit": number.unit if number else "",
            "unknown": claim.unknown,
            "computed": finding.computed,
            "low": finding.low,
            "high": finding.high,
            "unit": finding.unit,
            "verdict": finding.verdict,
            "because": list(finding.because),
            "conditions": list(finding.conditions),
            "depends_on": [asdict(one) for one in self.depends_on],
            "break_even": [asdict(one) for one in self.break_even],
            "tables": [asdict(one) for one in finding.tables],
            "maps": [asdict(one) for one in finding.maps],
            "notes": list(finding.notes),
            "assumed": assumed_plain(self.assumed),
            "command": self.command,
        }


@dataclass(frozen=True, repr=False)
class ClaimsRun(Shown):
    """The answer of `claims`.

    Parameters
    ----------
    claims : the claims, in the order of the article
    basis : what they were checked with
    notes : numbers of the user that contradict published ones
    elapsed_s : time of the run [s]
    """

    claims: tuple[JudgedClaim, ...]
    basis: Basis
    notes: tuple[str, ...]
    elapsed_s: float

    @property
    def verdicts(self) -> dict[str, int]:
        """Number of claims with each verdict [count]."""
        counts = Counter(one.finding.verdict for one in self.claims)
        return {verdict: counts[verdict] for verdict in VERDICTS}

    @property
    def headline(self) -> str:
        """The verdicts in one line."""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.items() if count)
        return f"{len(self.claims)} claims: {counts}"

    def to_records(self) -> list[Record]:
        """One claim a record."""
        return [
            {
                "id": one.id, "claim": one.claim.short.en, "verdict": one.finding.verdict,
                "computed": one.finding.computed, "low": one.finding.low, "high": one.finding.high,
                "unit": one.finding.unit,
            }
            for one in self.claims
        ]  # fmt: skip

    def plain(self) -> Plain:
        """The complete result as plain data."""
        basis = self.basis
        body: ClaimsBody = {
            "inputs": inputs(calibration=basis.calibration, given=basis.told),
            "mix": basis.mix.model_dump(mode="json"),
            "reliability": basis.reliability.name,
            "prices": basis.prices.name,
            "verdicts": self.verdicts,
            "claims": [one.plain() for one in self.claims],
            "notes": list(self.notes),
        }
        return envelope("claims", body, {"elapsed_s": self.elapsed_s})
