"""Availability and KV tiers on the page of a comparison: how much of the time machines serve, and what tiers hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenworks.report.content import Part, SectionPart, TablePart, TextPart
from tokenworks.report.figures import NOTHING, figure, percent
from tokenworks.report.strings import filled

Plain = Mapping[str, Any]
Words = Mapping[str, str]

TB = 1e12


def uptime_sections(plain: Plain, unit: str, words: Words) -> Iterator[SectionPart]:
    """The section on availability, and the section on KV tiers if a deployment has some.

    Parameters
    ----------
    plain : the comparison as plain data
    unit : unit of what the machines have equal amounts of
    words : texts of the language
    """
    rows = [row for system in plain["systems"] for row in _uptimes(plain, system)]
    if rows:
        headings = (
            words["machine"], words["every_part"], words["deployment_serves"], words["capacity_kept"],
            words["most_lost_by"], filled(words["expected_unit"], unit=unit),
        )  # fmt: skip
        parts: list[Part] = [
            TextPart(filled(words["uptime_words"], rates=str(plain["reliability"])), style="note"),
            TablePart(words["uptime_table"], headings, tuple(rows), numbers=frozenset({1, 2, 3, 5})),
            *_assumed(plain, words),
        ]
        yield SectionPart("availability", words["availability"], tuple(parts))
    tiers = [row for system in plain["systems"] for row in _tiers(plain, system)]
    if tiers:
        titles = (words["machine"], words["kv_in"], words["kv_tb"], words["kv_hits"])
        table = TablePart(words["kv_table"], titles, tuple(tiers), numbers=frozenset({2, 3}))
        sentences = [TextPart(text) for system in plain["systems"] for text in _without_tiers(system, words)]
        yield SectionPart("tiers", words["kv_tiers"], (table, *sentences))


def _name(plain: Plain, system: Plain, answer: Plain) -> str:
    return f"{system['system']}\n{answer['model']}" if len(plain["models"]) > 1 else str(system["system"])


def _uptimes(plain: Plain, system: Plain) -> Iterator[tuple[str, ...]]:
    if system["availability"] is None or system["capacity"] is None:
        return
    for answer in system["answers"]:
        one = answer["availability"]
        cause = f"{one['cause']} {percent(one['cause_share'])}" if one["cause"] else NOTHING
        yield (
            _name(plain, system, answer), f"{system['availability']['whole']:.2%}", f"{one['serves']:.3%}",
            f"{one['capacity']:.3%}", cause, figure(system["expected_tok_s_per_unit"]),
        )  # fmt: skip


def _assumed(plain: Plain, words: Words) -> Iterator[Part]:
    """Rates and times that are assumed, with the machines that need them."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for system in plain["systems"]:
        for item in (system["availability"] or {}).get("assumed") or ():
            rows.setdefault((str(item["path"]), str(item["value"]), str(item["why"])), []).append(str(system["system"]))
    if rows:
        cells = tuple((", ".join(names), *key) for key, names in rows.items())
        headings = (words["machine"], words["path"], words["value"], words["reason"])
        yield TablePart(words["uptime_assumed"], headings, cells, wide=frozenset({3}), folded=True, lang="en")


def _tiers(plain: Plain, system: Plain) -> Iterator[tuple[str, ...]]:
    for answer in system["answers"]:
        for use in (answer["tiers"] or {}).get("uses") or ():
            size = figure(use["capacity_bytes"] / TB, 3)
            yield (_name(plain, system, answer), str(use["name"]), size, f"{use['hit_share']:.1%}")


def _without_tiers(system: Plain, words: Words) -> Iterator[str]:
    for answer in system["answers"]:
        if answer["tiers"]:
            kept = "tiers_kept" if answer["tiers"]["without_meets_slo"] else "tiers_missed"
            yield filled(
                words[kept], system=str(system["system"]), value=figure(answer["tiers"]["without_effective_tok_s"]),
                instead=figure(answer["effective_tok_s"]),
            )  # fmt: skip
