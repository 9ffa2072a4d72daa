"""The page of an availability: the answer, what takes the time, and what the lost time depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenworks.report.charts import tornado_chart
from tokenworks.report.common import again_section, assumed_section, notes_section, terms_section, workload_words
from tokenworks.report.content import ChartPart, FactsPart, PageContent, Part, SectionPart, TablePart, TextPart
from tokenworks.report.figures import figure, percent
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.specs.machine import Machine

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "tornado"
BARS = 12
"""Most bars of the chart [count]."""
MINUTE, HOUR, YEAR_H = 60.0, 3600.0, 8760.0


def availability_content(plain: Plain, machines: Mapping[str, Machine], command: str, lang: Lang) -> PageContent:
    """The content of the page of an availability.

    Parameters
    ----------
    plain : the availability as plain data
    machines : the machine, by its name
    command : command that gives the same availability
    lang : language of the page
    """
    del machines
    words = strings(lang)
    sections = [
        SectionPart("asked", words["asked"], (_asked(plain, words),)),
        SectionPart("answer", words["answer"], tuple(_answer(plain, words))),
        SectionPart("chart", words["availability_chart"], tuple(_chart(plain, words))),
        SectionPart("causes", words["causes"], tuple(_causes(plain, words))),
        *notes_section(plain["notes"], words),
        assumed_section(plain["assumed"], None, words),
        again_section(command, words),
        terms_section(words),
    ]
    title = filled(words["availability_title"], system=str(plain["inputs"]["machine"]))
    return PageContent(title, tuple(sections), CHART)


def _asked(plain: Plain, words: Words) -> FactsPart:
    inputs, deployment = plain["inputs"], plain["deployment"]
    pairs = [(words["machine"], str(inputs["machine"]))]
    pairs.append((words["parts"], ", ".join(f"{count:,} {kind}" for kind, count in plain["parts"].items())))
    if deployment:
        pairs.append((words["deployments"], str(deployment["label"])))
    pairs += [(words[name], str(inputs[name])) for name in ("model", "slo", "engine") if inputs.get(name)]
    if inputs.get("workload"):
        pairs.append((words["workload"], workload_words(inputs["workload"], words)))
    told = {"seeds": figure(plain["seeds"]), "years": figure(plain["years"]), "rates": str(plain["reliability"])}
    return FactsPart((*pairs, (words["histories"], filled(words["histories_words"], **told))))


def _answer(plain: Plain, words: Words) -> Iterator[Part]:
    deployment, promise = plain["deployment"], plain["promise"]
    whole = filled(words["whole_words"], share=_share(plain["whole"]["availability"]))
    if deployment:
        served, kept = (_share(deployment[name]["availability"]) for name in ("serves", "capacity"))
        yield TextPart(filled(words["serves_words"], share=served, capacity=kept), style="answer")
        yield TextPart(whole)
    else:
        yield TextPart(whole, style="answer")
    if promise["repair_needed_s"] is None:
        needed = filled(words["repair_never"], minutes=figure(promise["without_repair_s"] / MINUTE, 3))
    else:
        hours = {
            name: figure(promise[key] / HOUR, 3) for name, key in (("hours", "repair_needed_s"), ("now", "repair_s"))
        }
        needed = filled(words["repair_within"], **hours)
    yield TextPart(
        filled(
            words["promise_words"], promise=figure(promise["promise"], 7), needed=needed,
            budget=figure(promise["budget_s"] / MINUTE, 3),
        )
    )  # fmt: skip
    yield _figures(plain, words)
    yield TextPart(words["composed_words"], style="note")


def _figures(plain: Plain, words: Words) -> TablePart:
    figures = [("every_part", plain["whole"]), ("usable_devices", plain["usable_devices"])]
    if deployment := plain["deployment"]:
        figures += [("deployment_serves", deployment["serves"]), ("capacity_kept", deployment["capacity"])]
    rows = tuple(
        (
            words[name], _share(one["availability"]),
            *(_minutes(value) for value in (one["downtime_s"], *one["interval_s"], one["closed_form_s"])),
            percent(one["kept"]),
        )
        for name, one in figures
    )  # fmt: skip
    headings = ("what", "available", "lost_minutes", "best_tenth", "worst_tenth", "closed_form", "promise_kept")
    titles = tuple(words[name] for name in headings)
    return TablePart(words["figures_table"], titles, rows, numbers=frozenset(range(1, 7)))


def _chart(plain: Plain, words: Words) -> Iterator[Part]:
    swings = plain["sensitivity"][:BARS]
    if not swings:
        yield TextPart(words["none"])
        return
    rows = [
        {
            "group": one["name"],
            "low": one["low_s"] / MINUTE,
            "high": one["high_s"] / MINUTE,
            "range": f"{one['factor']:g}",
        }
        for one in swings
    ]
    figures = plain["deployment"]["capacity"] if plain["deployment"] else plain["whole"]
    tips = {"group": words["input"], "range": words["range"], "low": words["lower"], "high": words["higher"]}
    caption = words["tornado_words"]
    spec = tornado_chart(rows, words["lost_minutes"], figures["closed_form_s"] / MINUTE, tips=tips, description=caption)
    table = TablePart(
        caption, (words["input"], words["range"], words["lower"], words["higher"]),
        tuple((row["group"], f"x/÷ {row['range']}", figure(row["low"], 3), figure(row["high"], 3)) for row in rows),
        numbers=frozenset({1, 2, 3}), folded=True,
    )  # fmt: skip
    yield ChartPart(CHART, caption, spec, table)


def _causes(plain: Plain, words: Words) -> Iterator[Part]:
    rows = tuple(
        (
            str(row["kind"]), figure(row["parts"]), figure(row["failures_per_year"], 3),
            "-" if row["downtime_s"] is None else _minutes(row["downtime_s"]), _minutes(row["closed_s"]),
        )
        for row in plain["causes"]
    )  # fmt: skip
    headings = (words["what"], words["parts"], words["failures_a_year"], words["lost_minutes"], words["closed_form"])
    yield TablePart(words["causes_table"], headings, rows, numbers=frozenset({1, 2, 3, 4}))
    if plain["deployment"] and plain["deployment"]["states"]:
        states = tuple(
            (str(row["state"]), percent(row["capacity"]), figure(row["time"] * YEAR_H, 3))
            for row in plain["deployment"]["states"]
        )
        titles = (words["state"], words["capacity_kept"], words["hours_a_year"])
        yield TablePart(words["states_table"], titles, states, numbers=frozenset({1, 2}), lang="en")


def _minutes(seconds: float) -> str:
    return figure(seconds / MINUTE, 3)


def _share(share: float) -> str:
    """A share of the time with the digits that availability needs."""
    return f"{share:.4%}"
