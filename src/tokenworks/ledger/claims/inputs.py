"""One number that claims rest on, by its path, with the range in which it may lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenworks.ledger.break_even import CHANGE
from tokenworks.specs.load import validate
from tokenworks.specs.price import Price, Prices
from tokenworks.specs.provenance import Quantity, Spec
from tokenworks.specs.reliability import Reliability

ASSUMED = 2.0
"""Factor by which an assumed number may be lower or higher [-]."""

KNOWN = 1.1
"""Factor by which any other number is made lower and higher [-]."""


@dataclass(frozen=True, slots=True)
class ClaimInput:
    """A number that claims rest on.

    Parameters
    ----------
    path : its path, such as `scalex40.device.nic` or `prices.cards.h100`
    value : the number; None: not published
    unit : unit of the number
    low, high : the range in which it may lie; None: not published
    status, source : where the number is from
    written : the number as its author wrote it
    """

    path: str
    value: float | None
    unit: str
    low: float | None
    high: float | None
    status: str
    source: str = ""
    written: str = ""

    @property
    def assumed(self) -> bool:
        """Whether every claim that rests on the number must list it as assumed."""
        return self.status in ("assumed", "unverified")


def of_quantity(path: str, quantity: Quantity, factor: float | None = None) -> ClaimInput:
    """The input of a number with a source.

    Parameters
    ----------
    factor : factor by which it may be lower or higher; None: `ASSUMED` or `KNOWN`, by its status [-]
    """
    value, share = quantity.value, _is_share(path)
    factor = factor or (ASSUMED if quantity.assumed else KNOWN)
    high = None if value is None else min(value * factor, 1.0) if share else value * factor
    return ClaimInput(
        path, value, quantity.unit, None if value is None else value / factor, high, quantity.status, quantity.source,
        quantity.written,
    )  # fmt: skip


def of_plain(path: str, value: float) -> ClaimInput:
    """The input of a plain number of a workload or a mix."""
    return ClaimInput(path, value, "", value / KNOWN, value * KNOWN, "chosen", "", f"{value:g}")


def of_price(path: str, price: Price | None, unit: str) -> ClaimInput:
    """The input of a price, in the unit of the list. A price without a range may differ by `break_even.CHANGE`."""
    known = price.range if price else None
    if price is None or known is None:
        return ClaimInput(path, None, price.unit if price and price.unit else unit, None, None, "not-published")
    low, high = (
        (known.low, known.high) if known.low < known.high else (known.mid * (1 - CHANGE), known.mid * (1 + CHANGE))
    )
    return ClaimInput(path, known.mid, price.unit, low, high, price.status, price.source, price.written)


def _is_share(path: str) -> bool:
    """Whether a number of the failure rates is a share, which is at most 1."""
    return path.startswith("reliability.") and path.rpartition(".")[2] in (
        "permanent", "crash", "lost", "bad_hosts", "bad_share",
    )  # fmt: skip


def factor_of(reliability: Reliability, path: str) -> float | None:
    """The factor of the file of failure rates for one of its numbers; None: the file has none.

    Parameters
    ----------
    path : path inside the file, such as `parts.device.failures`
    """
    match path.split("."):
        case ["parts", kind, "failures"] if kind in reliability.parts:
            return reliability.parts[kind].range
        case ["parts", _, ("repair" | "reset") as name] | ["recovery", name] | [("repair") as name]:
            return reliability.recovery.ranges.get(name) if reliability.recovery else None
    return None


def with_price(prices: Prices, path: str, value: str | float, unit: str, where: str) -> Prices:
    """The price list with one other price.

    Parameters
    ----------
    path : path inside the list, such as `systems.scalex40` or `network.switch_port`
    value : the price as text with its unit, or a number in `unit`
    unit : unit of a number
    where : place of the value, for messages

    Raises
    ------
    SpecError : no such price, or the text is no price
    """
    text = f"{value!r} {unit}" if isinstance(value, float) and unit not in ("", "-") else str(value)
    head, _, name = path.partition(".")
    nested: dict[str, Any] = {head: {name: text}}
    read = validate(Prices, nested, where)
    inner = getattr(read, head)
    one = inner[name] if isinstance(inner, Mapping) else getattr(inner, name)
    old = getattr(prices, head)
    new: Any = {**old, name: one} if isinstance(old, Mapping) else _replaced(old, name, one)
    return prices.model_copy(update={head: new})


def _replaced(spec: Spec, name: str, value: Price) -> Spec:
    return spec.model_copy(update={name: value})


def price_paths(prices: Prices) -> dict[str, Price]:
    """Every price of the list with its path inside the list."""
    return dict(prices.items())
