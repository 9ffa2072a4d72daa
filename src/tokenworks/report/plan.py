"""The page of a plan: the answer, the front with sliders, the deployments, and the machine with the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenworks.report.charts import speed_chart
from tokenworks.report.common import (
    again_section,
    asked_facts,
    assumed_section,
    bound_words,
    deployment_settings,
    engine_title,
    grade_words,
    load_words,
    notes_section,
    percentiles,
    software_words,
    terms_section,
    ttft_bound,
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
from tokenworks.report.figures import figure, milliseconds
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.report.topology import topology
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Machine

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "speed"


def plan_content(plain: Plain, machines: Mapping[str, Machine], command: str, lang: Lang) -> PageContent:
    """The content of the page of a plan.

    Parameters
    ----------
    plain : the plan as plain data
    machines : the machine of the plan, by name
    command : command that gives the same plan
    lang : language of the page
    """
    words = strings(lang)
    inputs, best = plain["inputs"], plain["deployments"][0]
    machine = machines.get(inputs["machine"])
    deployment = Deployment.model_validate(best["deployment"])
    sections = [
        SectionPart("asked", words["asked"], (_asked(plain, machine, words),)),
        SectionPart("answer", words["answer"], tuple(_answer(plain, best, words))),
        SectionPart("chart", words["chart"], tuple(_chart(plain, words))),
        SectionPart("deployments", words["deployments"], (_table(plain, words),)),
    ]
    if machine:
        sections.append(SectionPart("topology", words["topology"], tuple(topology(machine, deployment, words))))
    workload = inputs.get("workload") or {}
    sections += [
        *notes_section(plain["notes"], words),
        assumed_section(plain["assumed"], workload.get("source"), words),
        again_section(command, words),
        terms_section(words),
    ]
    title = filled(words["plan_title"], model=str(inputs["model"]), machine=str(inputs["machine"]))
    return PageContent(title, tuple(sections), CHART)


def _asked(plain: Plain, machine: Machine | None, words: Words) -> FactsPart:
    inputs = plain["inputs"]
    engines = ", ".join(map(engine_title, plain["engines"]))
    pairs = asked_facts(inputs, machine, words)
    pairs += [
        (words["load"], load_words(inputs.get("workload"), words, words["most_load"])),
        (words["slo"], inputs["slo"] or words["no_slo"]),
        (words["engines"], engines),
    ]
    return FactsPart(tuple(pairs))


def _answer(plain: Plain, best: Plain, words: Words) -> list[Part]:
    low, high = best["interval"]["output_tok_s_per_device"]
    common = {
        "deployment": best["label"], "engine": engine_title(best["deployment"]["engine"]),
        "low": figure(low), "high": figure(high),
    }  # fmt: skip
    size = {"requests": figure(best["requests_s"]), "devices": figure(best["devices"] + best["idle_devices"])}
    output = figure(best["output_tok_s_per_device"])
    if not plain["meets_slo"]:
        pressure = figure(best["slo_pressure"])
        answer = filled(words["plan_missed"], **common, output=output, pressure=pressure)
    elif plain["inputs"]["slo"]:
        effective = figure(best["effective_tok_s_per_device"])
        answer = filled(words["plan_answer"], **common, **size, effective=effective)
    else:
        answer = filled(words["plan_answer_open"], **common, **size, output=output)
    speed = filled(
        words["plan_speed"], user=figure(best["output_tok_s_per_user"]), ttft=figure(best["ttft_slo_s"], 3),
        tpot=milliseconds(best["tpot_slo_s"]), bound=bound_words(best["bound_by"], words),
    )  # fmt: skip
    lines = [speed]
    if best["idle_devices"]:
        lines.append(filled(words["idle"], idle=figure(best["idle_devices"])))
    counts = {"simulations": figure(plain["simulations"]), "requests": figure(plain["simulated_requests"])}
    lines.append(filled(words["plan_simulated"], **counts) if plain["simulated"] else words["plan_estimated"])
    if plain["simulated"] and not plain["settled"]:
        lines.append(words["not_settled"])
    software = software_words(best.get("software", ()), words)
    return [
        TextPart(answer, style="answer"),
        TextPart(" ".join(lines)),
        TextPart(f"{grade_words(best['grade'], words)} {software}".rstrip(), style="grade"),
    ]


def _points(plain: Plain, words: Words) -> list[dict[str, Any]]:
    """Points of the chart: those of the front, then the listed deployments."""
    points = []
    for point in plain["pareto"]:
        deployment = Deployment.model_validate(point["deployment"])
        points.append(_point(point, deployment, words["front"], words) | {"line": True})
    for row in plain["deployments"]:
        deployment = Deployment.model_validate(row["deployment"])
        points.append(_point(row, deployment, words["ranked"], words) | {"line": False})
    return points


def _point(point: Plain, deployment: Deployment, series: str, words: Words) -> dict[str, Any]:
    return {
        "label": str(deployment),
        "engine": engine_title(deployment.engine),
        "user": point["output_tok_s_per_user"],
        "device": point["output_tok_s_per_device"],
        "rate": point["output_tok_s_per_device"],
        "ttft": point["ttft_slo_s"],
        "settings": deployment_settings(deployment, words),
        "series": series,
    }


def _chart(plain: Plain, words: Words) -> list[Part]:
    points = _points(plain, words)
    ttft = filled(words["ttft_at"], percentile=percentiles(plain["inputs"]["slo"])["ttft"])
    tips = {
        "label": words["deployment"], "engine": words["engine"], "user": words["chart_speed"],
        "device": words["chart_throughput"], "ttft": ttft, "settings": words["settings"],
    }  # fmt: skip
    best = plain["deployments"][0]
    speed = best["output_tok_s_per_user"]
    mark = {"label": best["label"], "user": speed, "rate": best["output_tok_s_per_device"]}
    spec = speed_chart(
        points, [words["front"], words["ranked"]], tips, words, title=words["chart_throughput"],
        description=words["plan_chart"], chosen=[mark],
        least=speed,
    )  # fmt: skip
    front = [point for point in points if point["line"]]
    headings = (words["deployment"], words["engine"], words["user_speed"], words["output"], ttft)
    rows = tuple(
        (
            f"{point['label']}\n{point['settings']}", point["engine"], figure(point["user"]), figure(point["device"]),
            figure(point["ttft"], 3),
        )
        for point in front
    )  # fmt: skip
    table = TablePart(
        words["front_table"], headings, rows, numbers=frozenset({2, 3, 4}), wide=frozenset({0}), folded=True
    )
    answer = _choice(_point(best, Deployment.model_validate(best["deployment"]), words["ranked"], words))
    series = {
        "name": str(plain["inputs"]["machine"]), "price": None, "best": answer,
        "points": [_choice(point) for point in points],
    }  # fmt: skip
    bound = ttft_bound(plain["inputs"]["slo"])
    data = {"series": [series], "speed": speed, "ttft": bound, "unit": "", "currency": "USD", "utilisation": 1.0}
    return [ChooserPart(CHART, data), ChartPart(CHART, words["plan_chart"], spec, table)]


def _choice(point: Plain) -> dict[str, Any]:
    return {name: point[name] for name in ("label", "engine", "user", "device", "rate", "ttft")}


def _table(plain: Plain, words: Words) -> TablePart:
    at = percentiles(plain["inputs"]["slo"])
    headings = (
        words["rank"], words["deployment"], words["engine"], words["effective"], words["user_speed"],
        filled(words["ttft_at"], percentile=at["ttft"]), filled(words["tpot_at"], percentile=at["tpot"]),
        words["bound_by"], words["meets"],
    )  # fmt: skip
    rows = tuple(
        (
            str(row["rank"]), _named(row, words), engine_title(row["deployment"]["engine"]),
            figure(row["effective_tok_s_per_device"]), figure(row["output_tok_s_per_user"], 3),
            figure(row["ttft_slo_s"], 3), milliseconds(row["tpot_slo_s"]), bound_words(row["bound_by"], words),
            words["yes"] if row["meets_slo"] else words["no"],
        )
        for row in plain["deployments"]
    )  # fmt: skip
    return TablePart(words["plan_table"], headings, rows, numbers=frozenset({0, 3, 4, 5, 6}), wide=frozenset({1}))


def _named(row: Plain, words: Words) -> str:
    """The split of a deployment, and its settings on a line of their own."""
    deployment = Deployment.model_validate(row["deployment"])
    return f"{deployment}\n{deployment_settings(deployment, words)}"
