"""The page of a comparison: who wins, by how much and why, the curves with sliders, costs, and every machine drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenworks.report.charts import bar_chart, speed_chart
from tokenworks.report.common import (
    again_section,
    bound_words,
    deployment_settings,
    engine_title,
    grade_words,
    machine_words,
    notes_section,
    percentiles,
    terms_section,
    ttft_bound,
    unit_words,
    workload_words,
)
from tokenworks.report.content import (
    ChartPart,
    ChooserPart,
    FactsPart,
    PageContent,
    Part,
    SectionPart,
    TablePart,
    TextPart,
)
from tokenworks.report.costs import cost_sections
from tokenworks.report.figures import NOTHING, figure, milliseconds, percent, text_of
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.report.topology import topology
from tokenworks.report.uptime import uptime_sections
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Machine

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "speed"

FIELDS = ("label", "engine", "user", "device", "rate", "ttft")
"""Fields of a point that the sliders use."""

SMALLEST = 1e-3
"""A bar that is shorter than this share of the longest one is not drawn [-]."""


def compare_content(plain: Plain, machines: Mapping[str, Machine], command: str, lang: Lang) -> PageContent:
    """The content of the page of a comparison.

    Parameters
    ----------
    plain : the comparison as plain data
    machines : the machines of the comparison, by the name that the comparison has
    command : command that gives the same comparison
    lang : language of the page
    """
    words = strings(lang)
    sections = [
        SectionPart("asked", words["asked"], (_asked(plain, machines, words),)),
        SectionPart("answer", words["answer"], tuple(_answer(plain, words))),
        SectionPart("chart", words["chart"], tuple(_charts(plain, words))),
        SectionPart("systems", words["systems"], tuple(_systems(plain, words))),
        SectionPart("why", words["why"], tuple(_why(plain, words))),
        *uptime_sections(plain, unit_words(plain, words), words),
        *cost_sections(plain, words),
        *_crossovers(plain, words),
    ]
    drawings = tuple(_drawings(plain, machines, words))
    if drawings:
        sections.append(SectionPart("topology", words["topology"], drawings))
    sections += [
        *notes_section(plain["notes"], words),
        SectionPart("assumed", words["assumed"], tuple(_assumed(plain, words))),
        again_section(command, words, [_commands(plain, words)]),
        terms_section(words),
    ]
    title = filled(words["compare_title"], models=_models(plain), machines=", ".join(_names(plain["systems"])))
    return PageContent(title, tuple(sections), f"{CHART}-0")


def _names(systems: Sequence[Plain]) -> list[str]:
    return [str(system["system"]) for system in systems]


def _models(plain: Plain) -> str:
    """The models, with their shares if there are several."""
    models = plain["models"]
    if len(models) == 1:
        return str(models[0]["model"])
    return ", ".join(f"{item['model']} ({percent(item['weight'])})" for item in models)


def _valued(plain: Plain) -> list[Plain]:
    """The systems that have a value, best first."""
    return [system for system in plain["systems"] if system["effective_tok_s_per_unit"] is not None]


def _asked(plain: Plain, machines: Mapping[str, Machine], words: Words) -> FactsPart:
    inputs = plain["inputs"]
    pairs = [(words["model"], _models(plain))]
    for system in plain["systems"]:
        machine = machines.get(system["system"])
        text = machine_words(machine, words) if machine else f"{system['system']}: {system['title']}"
        pairs.append((words["machine"], text))
    if inputs.get("workload"):
        pairs.append((words["workload"], workload_words(inputs["workload"], words)))
    pairs += [
        (words["slo"], inputs.get("slo") or words["no_slo"]),
        (words["equal"], words.get(f"equal_{plain['equal']}", str(plain["equal"]))),
    ]
    return FactsPart(tuple(pairs))


def _answer(plain: Plain, words: Words) -> Iterator[Part]:
    valued = _valued(plain)
    if not valued:
        yield TextPart(words["no_winner"], style="answer")
        return
    winner = valued[0]
    value = figure(winner["effective_tok_s_per_unit"])
    answer = filled(words["winner"], system=winner["system"], value=value, unit=unit_words(plain, words))
    ratios = [ratio for ratio in plain["ratios"] if ratio["system"] == winner["system"]]
    if ratios:
        nearest = min(ratios, key=lambda ratio: ratio["value"])
        answer += " " + filled(
            words["winner_ratio"], value=figure(nearest["value"], 3), against=nearest["against"],
            low=figure(nearest["low"], 3), high=figure(nearest["high"], 3),
        )  # fmt: skip
        if nearest["low"] < 1:
            answer += " " + words["winner_open"]
    yield TextPart(answer, style="answer")
    grades: dict[str, list[str]] = {}
    for system in valued:
        grades.setdefault(system["answers"][0]["best"]["grade"], []).append(str(system["system"]))
    for grade, names in grades.items():
        yield TextPart(f"{', '.join(names)}: {grade_words(grade, words)}", style="grade")


# ── curves ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _charts(plain: Plain, words: Words) -> Iterator[Part]:
    """One chart for each model, with its sliders."""
    unit = unit_words(plain, words)
    for index, item in enumerate(plain["models"]):
        rows = [row for system in _valued(plain) for row in _curve(system, index)]
        if not rows:
            yield TextPart(words["no_winner"])
            continue
        name = f"{CHART}-{index}"
        caption = filled(words["compare_chart"], model=str(item["model"]), unit=unit)
        yield from _chart(plain, words, index, rows, name=name, caption=caption)


def _curve(system: Plain, index: int) -> Iterator[dict[str, Any]]:
    answer = system["answers"][index]
    factor = _factor(system)
    for point in answer["curve"]:
        yield {
            "label": point["label"],
            "engine": engine_title(point["engine"]),
            "user": point["output_tok_s_per_user"],
            "device": point["output_tok_s_per_device"],
            "rate": point["output_tok_s_per_device"] * factor,
            "total": point["output_tok_s"],
            "ttft": point["ttft_slo_s"],
            "series": system["system"],
            "line": True,
        }


def _chart(
    plain: Plain, words: Words, index: int, rows: Sequence[dict[str, Any]], *, name: str, caption: str
) -> Iterator[Part]:
    valued, slo = _valued(plain), plain["inputs"].get("slo")
    names, unit = _names(valued), unit_words(plain, words)
    ttft = filled(words["ttft_at"], percentile=percentiles(slo)["ttft"])
    title = filled(words["chart_rate"], unit=unit)
    tips = {
        "series": words["machine"], "label": words["deployment"], "engine": words["engine"],
        "user": words["chart_speed"], "rate": title, "total": words["chart_total"], "ttft": ttft,
    }  # fmt: skip
    best = [_best(system, index) for system in valued]
    marks = [{**point, "label": name} for point, name in zip(best, names, strict=True)]
    rows = [*rows, *({**point, "series": name, "line": False} for point, name in zip(best, names, strict=True))]
    for mark in sorted(marks, key=lambda mark: -mark["rate"])[1:]:
        mark["label"] = ""  # only the winner is named, so that names do not cover each other
    least = min(point["user"] for point in best)
    spec = speed_chart(rows, names, tips, words, title=title, description=caption, chosen=marks, least=least, log=True)
    headings = (words["machine"], words["deployment"], words["engine"], words["user_speed"], title, ttft)
    cells = tuple(
        (
            str(row["series"]), row["label"], row["engine"], figure(row["user"]), figure(row["rate"]),
            figure(row["ttft"], 3),
        )
        for row in rows
    )  # fmt: skip
    table = TablePart(
        words["curve_table"], headings, cells, numbers=frozenset({3, 4, 5}), wide=frozenset({1}), folded=True
    )
    series = [
        {
            "name": system["system"], "price": _hourly_price(system), "best": point,
            "points": [{name: row[name] for name in FIELDS} for row in rows if row["series"] == system["system"]],
        }
        for system, point in zip(valued, best, strict=True)
    ]  # fmt: skip
    currency = str(plain.get("currency", "USD"))
    data = {"series": series, "speed": least, "ttft": ttft_bound(slo), "unit": unit, "currency": currency}
    yield ChooserPart(name, {**data, "utilisation": _utilisation(valued, index)})
    yield ChartPart(name, caption, spec, table)


def _best(system: Plain, index: int) -> dict[str, Any]:
    """The best deployment of a machine for one model, as a point of the chart."""
    row = system["answers"][index]["best"]
    device = row["output_tok_s_per_device"]
    return {
        "label": row["label"], "engine": engine_title(row["deployment"]["engine"]),
        "user": row["output_tok_s_per_user"], "device": device, "rate": device * _factor(system),
        "total": device * system["devices"], "ttft": row["ttft_slo_s"],
    }  # fmt: skip


def _factor(system: Plain) -> float:
    """Throughput per unit of the comparison / throughput per device."""
    return system["devices"] / system["amount"] if system.get("amount") else 1.0


def _hourly_price(system: Plain) -> float | None:
    """Cost of one device in the middle of its range, per hour; None if it is not known."""
    hourly = (system.get("cost") or {}).get("per_device_hour")
    return hourly[1] if hourly else None


def _utilisation(valued: Sequence[Plain], index: int) -> float:
    """Share of the time that the costs of the comparison count as used, from the first cost; 1 without costs."""
    for system in valued:
        cost, rate = system.get("cost") or {}, system["answers"][index]["effective_tok_s"]
        hourly, million = cost.get("per_hour"), (cost.get("per_million") or {}).get("effective")
        if hourly and million and rate and million[1]:
            return float(min(1.0, hourly[1] / 3600 / rate * 1e6 / million[1]))
    return 1.0


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _systems(plain: Plain, words: Words) -> Iterator[Part]:
    """The machines with their best deployments, and the ratios."""
    at, unit = percentiles(plain["inputs"].get("slo")), unit_words(plain, words)
    headings = (
        words["machine"], words["deployment"], filled(words["effective_unit"], unit=unit), words["effective_all"],
        words["users"], words["joules"], words["user_speed"], filled(words["ttft_at"], percentile=at["ttft"]),
        filled(words["tpot_at"], percentile=at["tpot"]), words["bound_by"],
    )  # fmt: skip
    rows = tuple(row for system in plain["systems"] for row in _system_rows(plain, system, words))
    yield TablePart(
        words["systems_table"], headings, rows, numbers=frozenset({2, 3, 4, 5, 6, 7, 8}), wide=frozenset({1})
    )
    if plain["ratios"]:
        cells = tuple(
            (f"{item['system']} / {item['against']}", *(figure(item[name], 3) for name in ("value", "low", "high")))
            for item in plain["ratios"]
        )
        names = (words["machine"], words["ratio"], words["low"], words["high"])
        yield TablePart(words["ratio_table"], names, cells, numbers=frozenset({1, 2, 3}))


def _system_rows(plain: Plain, system: Plain, words: Words) -> Iterator[tuple[str, ...]]:
    for answer in system["answers"]:
        model = f"\n{answer['model']}" if len(plain["models"]) > 1 else f"\n{system['title']}"
        name, best = f"{system['system']}{model}", answer["best"]
        if best is None:
            yield (name, str(answer["error"] or system["error"] or NOTHING), *[NOTHING] * 8)
            continue
        deployment = Deployment.model_validate(best["deployment"])
        settings = f"{engine_title(deployment.engine)}; {deployment_settings(deployment, words)}"
        yield (
            name, f"{deployment}\n{settings}", figure(system["effective_tok_s_per_unit"]),
            figure(answer["effective_tok_s"]), figure(answer["users"]), figure(answer["joules_per_effective_token"], 3),
            figure(best["output_tok_s_per_user"], 3), figure(best["ttft_slo_s"], 3), milliseconds(best["tpot_slo_s"]),
            bound_words(best["bound_by"], words),
        )  # fmt: skip


def _why(plain: Plain, words: Words) -> Iterator[Part]:
    """The sentences of the result, and where the time of the devices goes."""
    for sentence in plain["why"]:
        yield TextPart(str(sentence), lang="en")
    for index, item in enumerate(plain["models"]):
        valued = [system for system in _valued(plain) if system["answers"][index].get("parts")]
        if valued:
            yield _parts_chart(valued, index, str(item["model"]), words)


def _parts_chart(valued: Sequence[Plain], index: int, model: str, words: Words) -> ChartPart:
    """Time of all devices per output token by part, machine beside machine."""
    spent = {
        str(system["system"]): {part["part"]: part for part in system["answers"][index]["parts"]} for system in valued
    }
    most = {name: max(parts.get(name, {}).get("device_s_per_token", 0.0) for parts in spent.values())
            for name in dict.fromkeys(name for parts in spent.values() for name in parts)}  # fmt: skip
    longest = max(most.values(), default=0.0)
    groups = [name for name in sorted(most, key=lambda name: -most[name]) if most[name] > SMALLEST * longest]
    rows = [
        {
            "group": group, "series": name, "value": 1e3 * parts[group]["device_s_per_token"],
            "text": f"{name} {milliseconds(parts[group]['device_s_per_token'])}",
            "bound": bound_words(str(parts[group].get("bound_by") or NOTHING), words),
        }
        for group in groups
        for name, parts in spent.items()
        if group in parts and parts[group]["device_s_per_token"] > SMALLEST * longest
    ]  # fmt: skip
    caption = filled(words["parts_chart"], model=model)
    tips = {
        "group": words["part"],
        "series": words["machine"],
        "value": words["parts_axis"],
        "bound": words["bound_by"],
    }
    spec = bar_chart(rows, groups, list(spent), words["parts_axis"], tips=tips, description=caption)
    cells = tuple(
        (group, *(milliseconds(parts.get(group, {}).get("device_s_per_token")) for parts in spent.values()))
        for group in groups
    )
    table = TablePart(
        words["parts_axis"], (words["part"], *spent), cells, numbers=frozenset(range(1, len(spent) + 1)), folded=True
    )
    return ChartPart(f"parts-{index}", caption, spec, table)


def _crossovers(plain: Plain, words: Words) -> Iterator[SectionPart]:
    """Where the winner changes."""
    if not plain["crossovers"]:
        return
    rows = []
    for item in plain["crossovers"]:
        low, high = figure(item["low"], 3), figure(item["high"], 3)
        kind, _, of = str(item["axis"]).partition(" of ")
        axis = filled(words["axis_price"], system=of, unit=str(plain["currency"])) if of else words[f"axis_{kind}"]
        rows.append((
            axis, low if low == high else f"{low} … {high}",
            text_of(item["below"]), text_of(item["above"]),
        ))  # fmt: skip
    headings = (words["axis"], words["changes_at"], words["below"], words["above"])
    yield SectionPart("crossovers", words["crossovers"], (TablePart(words["crossover_table"], headings, tuple(rows)),))


# ── machines, assumptions, commands ───────────────────────────────────────────────────────────────────────────────


def _drawings(plain: Plain, machines: Mapping[str, Machine], words: Words) -> Iterator[Part]:
    """Every machine with its best deployment of the first model that it serves."""
    for system in _valued(plain):
        machine = machines.get(system["system"])
        answer = next((answer for answer in system["answers"] if answer["best"]), None)
        if machine is None or answer is None:
            continue
        deployment = Deployment.model_validate(answer["best"]["deployment"])
        yield TextPart(f"{system['system']}: {deployment}", style="name")
        yield from topology(machine, deployment, words)


def _assumed(plain: Plain, words: Words) -> Iterator[Part]:
    rows: dict[tuple[str, str, str], list[str]] = {}
    for system in plain["systems"]:
        for answer in system["answers"]:
            for item in answer["assumed"]:
                names = rows.setdefault((str(item["path"]), str(item["value"]), str(item["why"])), [])
                if system["system"] not in names:
                    names.append(str(system["system"]))
    if rows:
        cells = tuple((", ".join(names), *key) for key, names in rows.items())
        headings = (words["machine"], words["path"], words["value"], words["reason"])
        yield TablePart(words["assumed_table"], headings, cells, wide=frozenset({3}), lang="en")
    else:
        yield TextPart(words["nothing_assumed"])
    source = (plain["inputs"].get("workload") or {}).get("source")
    if source:
        yield TextPart(filled(words["workload_source"], source=source), style="note")


def _commands(plain: Plain, words: Words) -> TablePart:
    """The command behind each machine and model."""
    rows = tuple(
        (f"{system['system']}\n{answer['model']}", str(answer["command"]))
        for system in plain["systems"]
        for answer in system["answers"]
    )
    return TablePart(words["command_table"], (words["machine"], words["command"]), rows, wide=frozenset({1}), lang="en")
