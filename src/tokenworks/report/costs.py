"""Costs on the page of a comparison: costs of tokens, break-even prices, and what a machine needs where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenworks.report.content import Part, SectionPart, TablePart, TextPart
from tokenworks.report.figures import NOTHING, figure, percent
from tokenworks.report.strings import filled

Plain = Mapping[str, Any]
Words = Mapping[str, str]

KINDS = ("effective", "output", "input", "cached_input")
"""Kinds of tokens of a cost, in the order of the table."""


def cost_sections(plain: Plain, words: Words) -> Iterator[SectionPart]:
    """Costs, break-even prices and what a machine needs where it stands, if the comparison has them."""
    currency = str(plain.get("currency", ""))
    priced = [system for system in plain["systems"] if system.get("cost")]
    parts: list[Part] = []
    if priced:
        parts.append(TextPart(filled(words["cost_terms"], terms=str(plain["terms"])), style="note"))
        parts.append(_cost_table(priced, currency, words))
        parts += [_cost_parts(system, currency, words) for system in priced]
    even = [(system, item) for system in plain["systems"] for item in system.get("break_even") or ()]
    if even:
        rows = tuple(
            (
                str(system["system"]), str(item["rival"]), percent(item["utilisation"]), range_text(item["price"]),
                range_text(item["per_card"]), str(item["words"]),
            )
            for system, item in even
        )  # fmt: skip
        headings = (
            words["machine"], words["rival"], words["utilisation"], filled(words["even_price"], currency=currency),
            filled(words["even_card"], currency=currency), words["in_words"],
        )  # fmt: skip
        parts.append(TablePart(words["even_table"], headings, rows, numbers=frozenset({2, 3, 4}), wide=frozenset({5})))
    parts += [_effects(system, currency, words) for system in plain["systems"] if system.get("effects")]
    if parts:
        yield SectionPart("cost", words["cost"], tuple(parts))
    placed = [system for system in plain["systems"] if system.get("site")]
    if placed:
        yield SectionPart("site", words["site"], (_site(placed, words),))


def _cost_table(priced: Sequence[Plain], currency: str, words: Words) -> TablePart:
    headings = (
        words["machine"], *(words[f"cost_{kind}"] for kind in KINDS), filled(words["hourly"], currency=currency),
        filled(words["device_hourly"], currency=currency), words["unpriced"],
    )  # fmt: skip
    rows = tuple(
        (
            str(system["system"]), *(range_text(system["cost"]["per_million"].get(kind)) for kind in KINDS),
            range_text(system["cost"]["per_hour"]), range_text(system["cost"]["per_device_hour"]),
            system["cost"]["missing"] or NOTHING,
        )
        for system in priced
    )  # fmt: skip
    caption = filled(words["cost_table"], currency=currency)
    return TablePart(caption, headings, rows, numbers=frozenset(range(1, 7)))


def _cost_parts(system: Plain, currency: str, words: Words) -> TablePart:
    """The parts of the cost of an hour, and of the price."""
    cost = system["cost"]
    rows = tuple((str(part), range_text(cost["hourly"][part]), NOTHING) for part in cost["hourly"])
    rows += tuple((str(part), NOTHING, range_text(cost["capex"][part])) for part in cost["capex"])
    headings = (
        words["part"], filled(words["hourly"], currency=currency), filled(words["capex"], currency=currency)
    )  # fmt: skip
    caption = filled(words["cost_parts"], system=str(system["system"]))
    return TablePart(caption, headings, rows, numbers=frozenset({1, 2}), folded=True, lang="en")


def _effects(system: Plain, currency: str, words: Words) -> TablePart:
    """What moves the break-even price of a machine."""
    rows = tuple(
        (
            str(item["name"]), str(item["low_input"]), figure(item["low"], 3), str(item["high_input"]),
            figure(item["high"], 3),
        )
        for item in system["effects"]
    )  # fmt: skip
    price = filled(words["even_price"], currency=currency)
    headings = (words["input"], words["low_input"], price, words["high_input"], price)
    caption = filled(words["even_effects"], system=str(system["system"]))
    return TablePart(caption, headings, rows, numbers=frozenset({2, 4}), folded=True, lang="en")


def _site(placed: Sequence[Plain], words: Words) -> TablePart:
    """Racks, power, weight and connections of each machine."""
    names = ("boxes", "racks", "boxes_per_rack", "cables", "links", "switches", "endpoints")
    headings = (
        words["machine"], *(words[f"site_{name}"] for name in names), words["site_rack_power"],
        words["site_rack_weight"], words["site_cooling"], words["site_limit"],
    )  # fmt: skip
    rows = tuple(
        (
            str(system["system"]), *(figure(system["site"][name]) for name in names),
            figure(None if system["site"]["rack_power_w"] is None else system["site"]["rack_power_w"] / 1e3),
            figure(system["site"]["rack_weight_kg"]), system["site"]["cooling"] or NOTHING,
            system["site"]["limited_by"] or NOTHING,
        )
        for system in placed
    )  # fmt: skip
    return TablePart(words["site_table"], headings, rows, numbers=frozenset(range(1, 10)))


def range_text(value: Sequence[float] | None) -> str:
    """A range as text: its middle, and below it the low and the high end."""
    if value is None:
        return NOTHING
    low, middle, high = (figure(item, 3) for item in value)
    return middle if low == high else f"{middle}\n{low} … {high}"
