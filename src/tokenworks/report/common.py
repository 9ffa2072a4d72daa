"""Parts that pages of several kinds share: what was asked, what is assumed, how to compute it again, terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenworks.errors import TokenworksError
from tokenworks.report.content import CodePart, FactsPart, Part, SectionPart, TablePart, TextPart
from tokenworks.report.figures import figure, percent
from tokenworks.report.strings import filled
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.engine import load_engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.slo import PERCENTILE, Slo

Words = Mapping[str, str]
Pairs = list[tuple[str, str]]

FOLDED_FROM = 25
"""A table with more rows is folded [count]."""


def engine_title(name: str | None) -> str:
    """Title of an engine; its name where the catalog has no such engine."""
    if name is None:
        return ""
    try:
        return load_engine(name).title
    except TokenworksError:  # a result of a newer version may name an engine that this version does not have
        return name


def machine_words(machine: Machine, words: Words) -> str:
    """A machine in one line."""
    text = filled(
        words["machine_words"], name=machine.name, devices=figure(machine.devices), device=machine.device,
        memory=figure(machine.hbm_bytes / 1e9, 3), bandwidth=figure(machine.hbm_bandwidth / 1e12, 3),
    )  # fmt: skip
    if machine.devices <= machine.domain:
        return text + words["one_domain"]
    return text + filled(words["many_domains"], domain=figure(machine.domain))


def workload_words(workload: Mapping[str, Any], words: Words) -> str:
    """A workload in one line."""
    text = filled(
        words["workload_words"], title=str(workload.get("title") or workload.get("name")),
        isl=figure(workload.get("isl")), osl=figure(workload.get("osl")),
    )  # fmt: skip
    if workload.get("hit_share"):
        text += filled(words["workload_reuse"], share=percent(workload["hit_share"]))
    return text


def load_words(workload: Mapping[str, Any] | None, words: Words, otherwise: str) -> str:
    """The load of a workload in words; `otherwise` without a load."""
    if workload and workload.get("rate"):
        return filled(words["rate_words"], value=figure(workload["rate"]))
    if workload and workload.get("concurrency"):
        return filled(words["users_words"], value=figure(workload["concurrency"]))
    return otherwise


def asked_facts(inputs: Mapping[str, Any], machine: Machine | None, words: Words) -> Pairs:
    """Model, machine and workload of a result."""
    pairs = [(words["model"], str(inputs.get("model") or words["none"]))]
    name = machine_words(machine, words) if machine else str(inputs.get("machine") or words["none"])
    pairs.append((words["machine"], name))
    if inputs.get("workload"):
        pairs.append((words["workload"], workload_words(inputs["workload"], words)))
    return pairs


def percentiles(slo: str | None) -> dict[str, str]:
    """Percentile of TTFT and of TPOT in an SLO, such as `p99`."""
    bounds = Slo.parse(slo) if slo else Slo()
    pairs = (("ttft", bounds.ttft), ("tpot", bounds.tpot))
    return {name: f"p{bound.percentile if bound else PERCENTILE:g}" for name, bound in pairs}


def ttft_bound(slo: str | None) -> float | None:
    """The bound on TTFT in an SLO [s]; None without one."""
    bound = Slo.parse(slo).ttft if slo else None
    return bound.value if bound else None


def settings_words(role: Role, words: Words) -> str:
    """Settings of one instance of a role."""
    parts = [
        filled(words["sequences"], count=figure(role.max_sequences)),
        filled(words["chunk"], count=figure(role.chunk_tokens)),
        filled(words["kv"], dtype=role.kv_dtype),
    ]
    if role.draft_tokens:
        parts.append(filled(words["mtp"], count=figure(role.draft_tokens)))
    if role.redundant_experts:
        parts.append(filled(words["redundant"], count=figure(role.redundant_experts)))
    if role.overlap != "none":
        parts.append(words["two_batch"])
    return ", ".join(parts)


def deployment_settings(deployment: Deployment, words: Words) -> str:
    """Settings of all roles; each role is named if there are several."""
    texts = [(role.name, settings_words(role, words)) for role in deployment.roles]
    return texts[0][1] if len(texts) == 1 else "; ".join(f"{name}: {text}" for name, text in texts)


def grade_words(grade: str, words: Words) -> str:
    """The grade of a prediction, and what it means."""
    return filled(words["grade"], grade=grade, meaning=words.get(f"grade_{grade}", "")).rstrip()


def software_words(software: Sequence[Mapping[str, Any]], words: Words) -> str:
    """What the step times rest on: a sentence for each software stack with measured points."""
    return " ".join(
        filled(words["software_mtp" if one["drafts"] else "software"], time=_times(one["time"], words),
               points=figure(one["points"]), splits=figure(one["splits"]), engine=engine_title(one["engine"]),
               model=one["model"], weights=one["weights"], device=_measured_on(one, words))
        for one in software
    )  # fmt: skip


def _times(time: Mapping[str, float], words: Words) -> str:
    """The factors of a software stack at the smallest and at the largest TP width; one factor if they are equal."""
    ends = [(tp, figure(time[tp], 3)) for tp in sorted(time, key=int)]
    (least, first), (most, last) = ends[0], ends[-1]
    if first == last:
        return first
    return filled(words["software_widths"], first=first, least=least, last=last, most=most)


def _measured_on(software: Mapping[str, Any], words: Words) -> str:
    """The device with the points of a software stack; or other devices, if the device has no points."""
    if not (others := software.get("measured_on", ())):
        return str(software["device"])
    return filled(words["software_elsewhere"], devices=", ".join(others), device=software["device"])


def bound_words(bound: str, words: Words) -> str:
    """What limits a deployment, in words; the name itself if the page has no words for it."""
    return words.get(f"bound_{bound}", bound)


def unit_words(comparison: Mapping[str, Any], words: Words) -> str:
    """What the throughput of a comparison is divided by, such as `device`."""
    return words.get(f"unit_{comparison['equal']}", str(comparison["unit"]))


def notes_section(notes: Sequence[str], words: Words) -> list[SectionPart]:
    """The notes of a result, which are English."""
    if not notes:
        return []
    return [SectionPart("notes", words["notes"], tuple(TextPart(note, lang="en") for note in notes))]


def assumed_section(assumed: Sequence[Mapping[str, Any]], source: str | None, words: Words) -> SectionPart:
    """Assumed numbers with their reasons, and the source of the workload."""
    parts: list[Part] = []
    if assumed:
        rows = tuple((str(item["path"]), str(item["value"]), str(item["why"])) for item in assumed)
        headings = (words["path"], words["value"], words["reason"])
        parts.append(
            TablePart(
                words["assumed_table"], headings, rows, wide=frozenset({2}), folded=len(rows) > FOLDED_FROM, lang="en"
            )
        )
    else:
        parts.append(TextPart(words["nothing_assumed"]))
    if source:
        parts.append(TextPart(filled(words["workload_source"], source=source), style="note"))
    return SectionPart("assumed", words["assumed"], tuple(parts))


def again_section(command: str, words: Words, more: Sequence[Part] = ()) -> SectionPart:
    """The command that computes the result again."""
    parts = (TextPart(words["again_words"]), CodePart(words["command"], command), *more)
    return SectionPart("again", words["again"], parts)


def terms_section(words: Words) -> SectionPart:
    """What the terms of the page mean."""
    pairs = (
        ("TTFT", words["term_ttft"]), ("TPOT", words["term_tpot"]), ("SLO", words["term_slo"]),
        (words["effective_term"], words["term_effective"]), (words["split_term"], words["term_split"]),
        (words["interval_term"], words["term_interval"]),
    )  # fmt: skip
    return SectionPart("terms", words["terms"], (FactsPart(pairs),))
