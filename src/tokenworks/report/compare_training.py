"""The page of a comparison of training: which machine trains fastest and why, where the device time goes, and costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenworks.report.charts import bar_chart
from tokenworks.report.common import again_section, grade_words, machine_words, notes_section, unit_words
from tokenworks.report.content import ChartPart, FactsPart, PageContent, Part, SectionPart, TablePart, TextPart
from tokenworks.report.costs import range_text
from tokenworks.report.figures import NOTHING, figure
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.specs.machine import Machine

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "parts"
SMALLEST = 0.01
"""A part that takes a smaller share of the longest token time has no bar [-]."""

MICRO = 1e6


def compare_training_content(plain: Plain, machines: Mapping[str, Machine], command: str, lang: Lang) -> PageContent:
    """The content of the page of a comparison of training.

    Parameters
    ----------
    plain : the comparison as plain data
    machines : the machines of the comparison, by name
    command : command that gives the same comparison
    lang : language of the page
    """
    words = strings(lang)
    sections = [
        SectionPart("asked", words["asked"], (_asked(plain, machines, words),)),
        SectionPart("answer", words["answer"], tuple(_answer(plain, words))),
        SectionPart("chart", words["device_time"], tuple(_chart(plain, words))),
        SectionPart("systems", words["systems"], tuple(_systems(plain, words))),
        SectionPart("why", words["why"], tuple(TextPart(str(sentence), lang="en") for sentence in plain["why"])),
        SectionPart("cost", words["cost"], tuple(_costs(plain, words))),
        *notes_section(plain["notes"], words),
        SectionPart("assumed", words["assumed"], tuple(_assumed(plain, words))),
        again_section(command, words, [_commands(plain, words)]),
        SectionPart("terms", words["terms"], (FactsPart(tuple(_terms(words))),)),
    ]
    names = ", ".join(str(system["system"]) for system in plain["systems"])
    title = filled(words["compare_training_title"], model=str(plain["inputs"]["model"]), machines=names)
    return PageContent(title, tuple(sections), CHART)


def _valued(plain: Plain) -> list[Plain]:
    """The systems that have a value, best first."""
    return [system for system in plain["systems"] if system["kept_tok_s_per_unit"] is not None]


def _asked(plain: Plain, machines: Mapping[str, Machine], words: Words) -> FactsPart:
    pairs = [(words["model"], str(plain["inputs"]["model"]))]
    for system in plain["systems"]:
        machine = machines.get(system["system"])
        text = machine_words(machine, words) if machine else f"{system['system']}: {system['title']}"
        pairs.append((words["machine"], text))
    run = filled(
        words["run_words"], method=str(plain["method"]), tokens=figure(plain["tokens"]),
        batch=figure(plain["batch_sequences"]), length=figure(plain["seq_len"]),
    )  # fmt: skip
    pairs += [(words["run"], run), (words["equal"], words.get(f"equal_{plain['equal']}", str(plain["equal"])))]
    return FactsPart(tuple(pairs))


def _answer(plain: Plain, words: Words) -> Iterator[Part]:
    valued = _valued(plain)
    if not valued:
        yield TextPart(words["no_winner"], style="answer")
        return
    winner = valued[0]
    answer = filled(
        words["trainer"], system=winner["system"], value=figure(winner["kept_tok_s_per_unit"]),
        unit=unit_words(plain, words), days=figure(winner["best"]["days"], 3),
    )  # fmt: skip
    if plain["ratios"]:
        nearest = min(plain["ratios"], key=lambda ratio: ratio["value"])
        answer += " " + filled(
            words["trainer_ratio"], value=figure(nearest["value"], 3), against=nearest["against"],
            low=figure(nearest["low"], 3), high=figure(nearest["high"], 3),
        )  # fmt: skip
        if nearest["low"] < 1:
            answer += " " + words["winner_open"]
    yield TextPart(answer, style="answer")
    for system in valued:
        yield TextPart(f"{system['system']}: {grade_words(system['grade'], words)}", style="grade")


def _device_times(system: Plain) -> dict[str, float]:
    """Time of all devices per trained token, by part [us]."""
    best, times = system["best"], defaultdict[str, float](float)
    training = best["training"]
    tokens = training["global_batch"] * training["seq_len"]
    for part in best["parts"]:
        name = f"{part['part']}, {part['level']}" if part["kind"] == "communication" else str(part["part"])
        times[name] += part["seconds"] * (best["devices"] + best["idle_devices"]) / tokens * MICRO
    return times


def _chart(plain: Plain, words: Words) -> Iterator[Part]:
    """Where the time of the devices goes, part by part."""
    times = {str(system["system"]): _device_times(system) for system in _valued(plain)}
    if not times:
        yield TextPart(words["no_winner"])
        return
    longest = max(sum(parts.values()) for parts in times.values())
    groups = sorted({name for parts in times.values() for name in parts},
                    key=lambda name: (-max(parts.get(name, 0.0) for parts in times.values()), name))  # fmt: skip
    shown = [name for name in groups if max(parts.get(name, 0.0) for parts in times.values()) > SMALLEST * longest]
    rows = [
        {"group": group, "series": name, "value": parts[group], "text": f"{name} {figure(parts[group], 3)}"}
        for group in shown for name, parts in times.items() if parts.get(group, 0.0) > SMALLEST / 10 * longest
    ]  # fmt: skip
    caption, title = words["device_time_chart"], words["device_time_axis"]
    tips = {"group": words["part"], "series": words["machine"], "value": title}
    spec = bar_chart(rows, shown, list(times), title, tips=tips, description=caption)
    cells = tuple((group, *(figure(parts.get(group, 0.0), 3) for parts in times.values())) for group in groups)
    headings = (words["part"], *times)
    table = TablePart(title, headings, cells, numbers=frozenset(range(1, len(times) + 1)), folded=True)
    yield ChartPart(CHART, caption, spec, table)


def _systems(plain: Plain, words: Words) -> Iterator[Part]:
    """The machines with their fastest plans, and the ratios."""
    headings = (
        words["machine"], words["train_plan"], filled(words["kept_unit"], unit=unit_words(plain, words)), words["days"],
        words["tok_s_device"], "MFU", words["goodput"], words["energy_mwh"], words["bound_by"],
    )  # fmt: skip
    rows = tuple(_row(system) for system in plain["systems"])
    yield TablePart(words["trainers_table"], headings, rows, numbers=frozenset({2, 3, 4, 5, 6, 7}), wide=frozenset({1}))
    if plain["ratios"]:
        cells = tuple(
            (f"{item['system']} / {item['against']}", *(figure(item[name], 3) for name in ("value", "low", "high")))
            for item in plain["ratios"]
        )
        names = (words["machine"], words["ratio"], words["low"], words["high"])
        yield TablePart(words["kept_ratio_table"], names, cells, numbers=frozenset({1, 2, 3}))


def _row(system: Plain) -> tuple[str, ...]:
    name, best = f"{system['system']}\n{system['title']}", system["best"]
    if best is None:
        return (name, str(system["error"] or NOTHING), *[NOTHING] * 7)
    low, high = best["interval"]["days"]
    energy = None if best["energy_kwh"] is None else best["energy_kwh"] / 1e3
    return (
        name, str(best["label"]), figure(system["kept_tok_s_per_unit"]),
        f"{figure(best['days'], 3)}\n{figure(low, 3)} … {figure(high, 3)}", figure(best["tok_s_per_device"]),
        f"{best['mfu']:.1%}", f"{system['goodput']['share']:.1%}", figure(energy, 3), str(best["bound_by"]),
    )  # fmt: skip


def _costs(plain: Plain, words: Words) -> Iterator[Part]:
    """What an hour of each machine and the run cost."""
    currency = str(plain["currency"])
    yield TextPart(filled(words["run_cost_terms"], terms=str(plain["terms"])), style="note")
    rows = tuple(
        (
            str(system["system"]), range_text(system["cost"]["per_hour"]), range_text(system["run_cost"]),
            str(system["cost"]["missing"] or NOTHING),
        )
        for system in plain["systems"] if system["cost"]
    )  # fmt: skip
    headings = (
        words["machine"], filled(words["hourly"], currency=currency), filled(words["run_cost"], currency=currency),
        words["unpriced"],
    )  # fmt: skip
    yield TablePart(filled(words["run_cost_table"], currency=currency), headings, rows, numbers=frozenset({1, 2}))


def _assumed(plain: Plain, words: Words) -> Iterator[Part]:
    rows: dict[tuple[str, str, str], list[str]] = {}
    for system in plain["systems"]:
        for item in system["assumed"]:
            rows.setdefault((str(item["path"]), str(item["value"]), str(item["why"])), []).append(str(system["system"]))
    if not rows:
        yield TextPart(words["nothing_assumed"])
        return
    cells = tuple((", ".join(names), *key) for key, names in rows.items())
    headings = (words["machine"], words["path"], words["value"], words["reason"])
    yield TablePart(words["assumed_table"], headings, cells, wide=frozenset({3}), folded=True, lang="en")


def _commands(plain: Plain, words: Words) -> TablePart:
    rows = tuple((str(system["system"]), str(system["command"])) for system in plain["systems"])
    return TablePart(words["command_table"], (words["machine"], words["command"]), rows, wide=frozenset({1}), lang="en")


def _terms(words: Words) -> Sequence[tuple[str, str]]:
    """What the terms of the page mean."""
    return (
        ("MFU", words["term_mfu"]), (words["goodput"], words["term_goodput"]), (words["kept_term"], words["term_kept"]),
        (words["interval_term"], words["term_interval"]),
    )  # fmt: skip
