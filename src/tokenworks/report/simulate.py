"""The page of a simulation: whether the SLO is met, throughput and queue over time, latency, roles on the machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tokenworks.report.charts import time_chart
from tokenworks.report.common import (
    again_section,
    asked_facts,
    assumed_section,
    bound_words,
    engine_title,
    grade_words,
    load_words,
    notes_section,
    software_words,
    terms_section,
)
from tokenworks.report.content import (
    ChartPart,
    CodePart,
    FactsPart,
    PageContent,
    Part,
    SectionPart,
    TablePart,
    TextPart,
)
from tokenworks.report.experts import experts_sections
from tokenworks.report.faults import faults_sections
from tokenworks.report.figures import figure, percent, text_of
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.report.topology import topology
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Machine

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "tokens"
TABLE_ROWS = 20
"""Most rows of a table of values over time [count]."""

METRICS = (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2el", "E2EL"))


def simulate_content(plain: Plain, machines: Mapping[str, Machine], command: str, lang: Lang) -> PageContent:
    """The content of the page of a simulation.

    Parameters
    ----------
    plain : the simulation as plain data
    machines : the machine of the simulation, by name
    command : command that gives the same simulation
    lang : language of the page
    """
    words = strings(lang)
    inputs = plain["inputs"]
    machine = machines.get(inputs["machine"])
    deployment = Deployment.model_validate(inputs["deployment"])
    sections = [
        SectionPart("asked", words["asked"], (_asked(plain, machine, deployment, words),)),
        SectionPart("answer", words["answer"], tuple(_answer(plain, deployment, words))),
        SectionPart("chart", words["over_time"], tuple(_charts(plain["series"], words))),
        SectionPart("latency", words["latency"], tuple(_latency(plain, words))),
        SectionPart("roles", words["roles"], (_roles(plain, words),)),
    ]
    if plain["classes"]:
        sections.append(SectionPart("classes", words["classes"], (_classes(plain, words),)))
    sections += experts_sections(plain, words)
    sections += faults_sections(plain, words)
    if machine:
        loads = {role["role"]: role for role in plain["roles"]}
        drawing = topology(machine, deployment, words, loads)
        sections.append(SectionPart("topology", words["topology"], tuple(drawing)))
    workload = inputs.get("workload") or {}
    file = yaml.safe_dump(dict(inputs["deployment"]), sort_keys=False, allow_unicode=True)
    sections += [
        *notes_section(plain["notes"], words),
        assumed_section(plain["assumed"], workload.get("source"), words),
        again_section(command, words, [CodePart(words["deployment_file"], file, folded=True)]),
        terms_section(words),
    ]
    names = {"model": str(inputs["model"]), "machine": str(inputs["machine"]), "deployment": str(deployment)}
    return PageContent(filled(words["simulate_title"], **names), tuple(sections), CHART)


def _asked(plain: Plain, machine: Machine | None, deployment: Deployment, words: Words) -> FactsPart:
    inputs = plain["inputs"]
    trace = filled(
        words["trace_words"], name=str(inputs["trace"]), requests=figure(inputs["requests"]), source=inputs["source"]
    )
    load = load_words(inputs.get("workload"), words, words["own_rate"])
    if inputs["concurrency"]:
        load = filled(words["users_words"], value=figure(inputs["concurrency"]))
    pairs = asked_facts(inputs, machine, words)
    pairs += [
        (words["requests"], trace), (words["load"], load), (words["slo"], plain["slo"]["text"] or words["no_slo"]),
        (words["deployment"], str(deployment)), (words["engine"], engine_title(inputs["engine"])),
    ]  # fmt: skip
    return FactsPart(tuple(pairs))


def _bounds(slo: Plain) -> dict[str, Plain]:
    """The bounds of an SLO with their simulated values, by name."""
    return {name: bound for name, bound in slo.items() if isinstance(bound, Mapping)}


def _answer(plain: Plain, deployment: Deployment, words: Words) -> list[Part]:
    slo = plain["slo"]
    if not slo["text"]:
        verdict = words["simulate_open"]
    elif slo["met"]:
        verdict = filled(words["simulate_met"], deployment=str(deployment))
    else:
        missed = [
            f"{name.upper()} p{bound['percentile']:g} {figure(1e3 * bound['seen_s'])} ms > "
            f"{figure(1e3 * bound['bound_s'])} ms"
            for name, bound in _bounds(slo).items()
            if not bound["met"]
        ]
        bounds = ", ".join(missed) or words["unstable"].rstrip(".。")
        verdict = filled(words["simulate_missed"], deployment=str(deployment), bounds=bounds)
    rate = filled(
        words["simulate_rate"], requests=figure(plain["request_throughput"]), output=figure(plain["output_throughput"]),
        device=figure(plain["output_tok_s_per_device"]), effective=figure(plain["effective_tok_s_per_device"]),
    )  # fmt: skip
    lines = [rate]
    if not plain["stable"]:
        lines.append(words["unstable"])
    if plain["partial"]:
        lines.append(words["partial"])
    software = software_words(plain.get("software", ()), words)
    trust = f"{software} {filled(words['spread'], spread=figure(plain['spread'], 3))}".lstrip()
    return [
        TextPart(f"{verdict} {rate}", style="answer"),
        *(TextPart(line) for line in lines[1:]),
        TextPart(f"{grade_words(plain['grade'], words)} {trust}", style="grade"),
    ]


def _charts(series: Plain, words: Words) -> list[Part]:
    """Throughput, queue and KV cache over time."""
    if not series["bound"]:
        return [TextPart(words["none"])]
    used = {words["used"]: [100 * share for share in series["kv_used"]]}
    tokens = {words["decoded"]: series["output_tok_s"], words["prefilled"]: series["prefill_tok_s"]}
    queue = {words["running"]: series["running"], words["waiting"]: series["waiting"]}
    return [
        _over_time(CHART, words["simulate_chart"], words["tokens_s"], tokens, series=series, words=words),
        _over_time("queue", words["queue_chart"], words["count"], queue, series=series, words=words),
        _over_time("cache", words["cache_chart"], words["used"], used, series=series, words=words),
    ]


def _over_time(
    name: str, caption: str, title: str, values: Mapping[str, Sequence[float]], *, series: Plain, words: Words
) -> ChartPart:
    """A chart of values over time, with a table of their means in some parts of the time."""
    window = series["window_s"]
    rows = [
        {
            "at": float(f"{index * window:.6g}"), "value": value, "series": one,
            "bound": bound_words(series["bound"][index], words),
        }
        for one, numbers in values.items()
        for index, value in enumerate(numbers)
    ]  # fmt: skip
    spec = time_chart(rows, list(values), title, words, caption)
    bounds = series["bound"]
    size = -(-len(bounds) // TABLE_ROWS)
    starts = range(0, len(bounds), size)
    cells = tuple(
        (
            figure(start * window),
            *(figure(statistics.fmean(numbers[start : start + size])) for numbers in values.values()),
            bound_words(statistics.mode(bounds[start : start + size]), words),
        )
        for start in starts
    )
    headings = (words["time"], *values, words["bound_by"])
    table = TablePart(
        filled(words["series_table"], rows=str(len(starts))), headings, cells,
        numbers=frozenset(range(len(values) + 1)), folded=True,
    )  # fmt: skip
    return ChartPart(name, caption, spec, table)


def _latency(plain: Plain, words: Words) -> list[Part]:
    headings = (words["metric"], words["mean"], words["median"], words["p99"])
    rows = tuple(
        (title, *(figure(plain[f"{statistic}_{name}_ms"]) for statistic in ("mean", "median", "p99")))
        for name, title in METRICS
    )
    parts: list[Part] = [TablePart(words["latency_table"], headings, rows, numbers=frozenset({1, 2, 3}))]
    bounds = _bounds(plain["slo"])
    if bounds:
        cells = tuple(
            (
                f"{name.upper()} p{bound['percentile']:g}", figure(1e3 * bound["bound_s"]),
                figure(1e3 * bound["seen_s"]), words["yes"] if bound["met"] else words["no"],
            )
            for name, bound in bounds.items()
        )  # fmt: skip
        headings = (words["bound"], words["limit"], words["seen"], words["met"])
        parts.append(TablePart(words["slo_table"], headings, cells, numbers=frozenset({1, 2})))
    return parts


def _roles(plain: Plain, words: Words) -> TablePart:
    headings = (
        words["role"], words["instances"], words["busy_share"], words["step_time"], words["batch"],
        words["prefill_step"], words["hits"], words["link_share"], words["bound_by"],
    )  # fmt: skip
    rows = tuple(
        (
            words.get(f"role_{role['role']}", role["role"]), figure(role["instances"]),
            percent(min(1.0, role["busy_share"])), figure(role["step_ms"], 3), figure(role["mean_batch"], 3),
            figure(role["prefill_tokens_per_step"], 3), percent(role["hit_share"]), percent(role["link_busy_share"]),
            bound_words(role["bound_by"], words),
        )
        for role in plain["roles"]
    )  # fmt: skip
    return TablePart(words["roles_table"], headings, rows, numbers=frozenset(range(1, 8)))


def _classes(plain: Plain, words: Words) -> TablePart:
    headings = (
        words["class"], words["completed"], words["goodput"], f"TTFT {words['p99']} [ms]", f"TPOT {words['p99']} [ms]",
        words["slo"], words["met"],
    )  # fmt: skip
    rows = tuple(
        (
            text_of(one["class"]), f"{figure(one['completed'])} / {figure(one['requests'])}",
            figure(one["request_goodput"]), figure(one["p99_ttft_ms"]), figure(one["p99_tpot_ms"]),
            one["slo"]["text"] or words["no_slo"], words["yes"] if one["slo"]["met"] else words["no"],
        )
        for one in plain["classes"]
    )  # fmt: skip
    return TablePart(words["classes_table"], headings, rows, numbers=frozenset(range(1, 5)))
