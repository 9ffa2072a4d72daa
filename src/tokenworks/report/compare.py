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
from tokenworks.report.figures import NOTHING, figure, milliseconds, percent, text_of
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.report.topology import topology
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Machine

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "speed"

KINDS = ("effective", "output", "input", "cached_input")
"""Kinds of tokens of a cost, in the order of the table."""


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
        *_costs(plain, words),
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


def _unit(plain: Plain, words: Words) -> str:
    """What throughput is divided by, such as `device`."""
    return words.get(f"unit_{plain['equal']}", str(plain["unit"]))


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
    answer = filled(words["winner"], system=winner["system"], value=value, unit=_unit(plain, words))
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
    unit = _unit(plain, words)
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
    factor = system["devices"] / system["amount"] if system.get("amount") else 1.0
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
    names, unit = _names(valued), _unit(plain, words)
    ttft = filled(words["ttft_at"], percentile=percentiles(slo)["ttft"])
    title = filled(words["chart_rate"], unit=unit)
    tips = {
        "series": words["machine"], "label": words["deployment"], "engine": words["engine"],
        "user": words["chart_speed"], "rate": title, "total": words["chart_total"], "ttft": ttft,
    }  # fmt: skip
    best = [system["answers"][index]["best"] for system in valued]
    least = min(row["output_tok_s_per_user"] for row in best if row)
    bound = ttft_bound(slo)
    marks = _chosen(rows, names, least, bound)
    spec = speed_chart(rows, names, tips, words, title=title, description=caption, chosen=marks, least=least)
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
    fields = ("label", "engine", "user", "device", "rate", "ttft")
    series = [
        {
            "name": system["system"],
            "price": _hourly_price(system),
            "points": [{name: row[name] for name in fields} for row in rows if row["series"] == system["system"]],
        }
        for system in valued
    ]
    yield ChooserPart(name, {"series": series, "speed": least, "ttft": bound, "unit": unit})
    yield ChartPart(name, caption, spec, table)


def _chosen(
    rows: Sequence[dict[str, Any]], names: Sequence[str], least: float, bound: float | None
) -> list[dict[str, Any]]:
    """The best point of each series within the bounds, as `page.js` chooses it. The winner has its name as label."""
    marks = []
    for name in names:
        inside = [
            row
            for row in rows
            if row["series"] == name and row["user"] >= least and (bound is None or row["ttft"] <= bound)
        ]
        if inside:
            best = max(inside, key=lambda row: row["rate"])
            marks.append({"label": name, "user": best["user"], "rate": best["rate"]})
    winner = max((mark["rate"] for mark in marks), default=0.0)
    return [mark if mark["rate"] == winner else {**mark, "label": ""} for mark in marks]


def _hourly_price(system: Plain) -> float | None:
    """Price of one device in the middle of its range [USD/h]; None if it is not known."""
    cost = system.get("cost") or {}
    middle = _middle(cost.get("usd_per_hour"))
    return None if middle is None or not system.get("devices") else middle / system["devices"]


def _middle(value: Any) -> float | None:
    """The middle of a range, or the number itself; None: not known."""
    if isinstance(value, Mapping):
        value = [value.get(name) for name in ("low", "mid", "high")]
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[len(value) // 2] if value else None
    return float(value) if isinstance(value, int | float) else None


def _range(value: Any) -> str:
    """A range as text, such as `2.1 (1.8 to 2.6)`."""
    if isinstance(value, Mapping):
        value = [value.get(name) for name in ("low", "mid", "high")]
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
        low, middle, high = (figure(item, 3) for item in value)
        return middle if low == high else f"{middle} ({low} - {high})"
    return text_of(value)


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _systems(plain: Plain, words: Words) -> Iterator[Part]:
    """The machines with their best deployments, and the ratios."""
    at, unit = percentiles(plain["inputs"].get("slo")), _unit(plain, words)
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
    groups = [name for name in sorted(most, key=lambda name: -most[name]) if most[name] > 0]
    rows = [
        {
            "group": group, "series": name, "value": 1e3 * parts[group]["device_s_per_token"],
            "text": f"{name} {milliseconds(parts[group]['device_s_per_token'])}",
            "bound": bound_words(str(parts[group].get("bound_by") or NOTHING), words),
        }
        for group in groups
        for name, parts in spent.items()
        if group in parts
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


def _costs(plain: Plain, words: Words) -> Iterator[SectionPart]:
    """Costs and break-even prices, if the comparison has them."""
    priced = [system for system in plain["systems"] if system.get("cost")]
    even = [(system, item) for system in plain["systems"] for item in system.get("break_even") or []]
    parts: list[Part] = []
    if priced:
        headings = (words["machine"], *(words[f"cost_{kind}"] for kind in KINDS), words["hourly"], words["unpriced"])
        rows = tuple(
            (
                str(system["system"]),
                *(_range((system["cost"].get("usd_per_million") or {}).get(kind)) for kind in KINDS),
                _range(system["cost"].get("usd_per_hour")), ", ".join(system["cost"].get("missing") or ()) or NOTHING,
            )
            for system in priced
        )  # fmt: skip
        parts.append(TablePart(words["cost_table"], headings, rows, numbers=frozenset({1, 2, 3, 4, 5})))
        parts += [_cost_parts(system, words) for system in priced if system["cost"].get("parts")]
    if even:
        keys = list(dict.fromkeys(key for _, item in even for key in item if key != "system"))
        cells = tuple((str(system["system"]), *(_range(item.get(key)) for key in keys)) for system, item in even)
        headings = (words["machine"], *(words.get(f"even_{key}", key) for key in keys))
        parts.append(TablePart(words["even_table"], headings, cells))
    if parts:
        yield SectionPart("cost", words["cost"], tuple(parts))


def _cost_parts(system: Plain, words: Words) -> TablePart:
    rows = tuple((str(part["name"]), _range(part["usd_per_hour"])) for part in system["cost"]["parts"])
    caption = filled(words["cost_parts"], system=str(system["system"]))
    return TablePart(caption, (words["part"], words["hourly"]), rows, numbers=frozenset({1}), folded=True)


def _crossovers(plain: Plain, words: Words) -> Iterator[SectionPart]:
    """Where the winner changes."""
    if not plain["crossovers"]:
        return
    rows = []
    for item in plain["crossovers"]:
        low, high = figure(item["low"], 3), figure(item["high"], 3)
        rows.append((
            words.get(f"axis_{item['axis']}", str(item["axis"])), low if low == high else f"{low} - {high}",
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
