"""The page of claims: what the article says beside the verdict, what the verdict rests on, and where claims hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenworks.ledger.sweep_paths import SweptPath
from tokenworks.report.charts import sweep_chart, tornado_chart
from tokenworks.report.claims_charts import map_chart, ratio_chart
from tokenworks.report.common import again_section, notes_section
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
from tokenworks.report.figures import NOTHING, figure, text_of
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.specs.machine import Machine
from tokenworks.units import KINDS

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "claims"
VERDICTS = {"holds": "✔", "holds if": "◐", "does not hold": "✘", "cannot be known": "?"}
"""Verdicts with their signs: no meaning depends on a colour alone."""

BARS = 8
"""Most bars of the tornado of one claim [count]."""

LEAST_POINTS = 4
"""A map with at least this many columns that are numbers is also drawn as curves [count]."""

MOST_CURVES = 7
"""Most curves of one chart [count]."""


def claims_content(plain: Plain, machines: Mapping[str, Machine], command: str, lang: Lang) -> PageContent:
    """The content of the page of claims.

    Parameters
    ----------
    plain : the claims as plain data
    machines : not used: claims compare many machines
    command : command that gives the same verdicts
    lang : language of the page
    """
    del machines
    words = strings(lang)
    claims = plain["claims"]
    overview = tuple(_overview(claims, words, lang))
    sections = [
        SectionPart("asked", words["asked"], (_asked(plain, words),)),
        SectionPart("answer", words["answer"], tuple(_answer(plain, words))),
        *([SectionPart("chart", words["claims_chart"], overview)] if overview else []),
        SectionPart("claims", words["claims_verdicts"], (_table(claims, words, lang),)),
        *(SectionPart(str(claim["id"]), _heading(claim, lang), tuple(_claim(claim, words, lang))) for claim in claims),
        *notes_section(plain["notes"], words),
        SectionPart("assumed", words["assumed"], tuple(_assumed(plain, words))),
        again_section(command, words),
        SectionPart("terms", words["terms"], (FactsPart(tuple(_terms(words))),)),
    ]
    title = words["claims_title"] if len(claims) > 1 else f"{claims[0]['id']}: {claims[0]['short'][lang]}"
    return PageContent(title, tuple(sections), CHART if overview else _first_chart(sections))


def _first_chart(sections: Sequence[SectionPart]) -> str:
    """The first chart of the page; empty without one."""
    charts = (part.name for section in sections for part in section.parts if isinstance(part, ChartPart))
    return next(charts, "")


def _heading(claim: Plain, lang: Lang) -> str:
    return f"{claim['id']} · {claim['short'][lang]}"


def _verdict(claim: Plain, words: Words) -> str:
    """A verdict with its sign."""
    name = str(claim["verdict"])
    return f"{VERDICTS.get(name, '')} {words.get('verdict_' + name.replace(' ', '_'), name)}".strip()


def _asked(plain: Plain, words: Words) -> FactsPart:
    mix = plain["mix"]
    total = sum(mix["models"].values())
    models = ", ".join(f"{model} {weight / total:.0%}" for model, weight in mix["models"].items())
    pairs = [
        (words["machine"], str(mix["machine"])), (words["claims_baselines"], ", ".join(mix["baselines"])),
        (words["claims_models"], models), (words["claims_main"], str(mix["main"])),
        (words["workload"], ", ".join(dict.fromkeys([mix["workload"], *mix["workloads"]]))),
        (words["claims_rates"], str(plain["reliability"])), (words["claims_prices"], str(plain["prices"])),
    ]  # fmt: skip
    return FactsPart(tuple(pairs))


def _answer(plain: Plain, words: Words) -> Iterator[Part]:
    counts = {name: count for name, count in plain["verdicts"].items() if count}
    listed = ", ".join(
        f"{VERDICTS.get(name, '')} {words.get('verdict_' + name.replace(' ', '_'), name)}: {count}"
        for name, count in counts.items()
    )
    yield TextPart(filled(words["claims_counts"], count=str(len(plain["claims"])), counts=listed), style="answer")
    yield TextPart(words["claims_rules"], style="note")


# ── all claims ────────────────────────────────────────────────────────────────────────────────────────────────────


def _overview(claims: Sequence[Plain], words: Words, lang: Lang) -> Iterator[Part]:
    """Computed / claimed value of all claims that have both."""
    names = [words["verdict_" + name.replace(" ", "_")] for name in VERDICTS]
    rows = []
    for claim in claims:
        number, value = claim["number"], claim["computed"]
        if not number or value is None or value / number <= 0 or claim["unit"] != claim["number_unit"]:
            continue
        ends = [value if claim[end] is None else claim[end] for end in ("low", "high")]
        low, high = (end / number if end / number > 0 else value / number for end in ends)
        rows.append({
            "group": str(claim["id"]), "name": _heading(claim, lang), "value": value / number, "low": low, "high": high,
            "series": words.get("verdict_" + claim["verdict"].replace(" ", "_"), claim["verdict"]),
            "computed": _computed(claim), "claimed": _claimed(claim, words),
        })  # fmt: skip
    if not rows:
        return
    caption = words["claims_ratio_words"]
    tips = {"name": words["claim"], "series": words["verdict"], "claimed": words["claimed"],
            "computed": words["computed"]}  # fmt: skip
    spec = ratio_chart(rows, names, words["claims_ratio"], tips=tips, description=caption)
    yield ChartPart(CHART, caption, spec)


def _table(claims: Sequence[Plain], words: Words, lang: Lang) -> TablePart:
    headings = (words["claim"], words["article_says"], words["claimed"], words["computed"], words["verdict"])
    rows = tuple(
        (str(claim["id"]), str(claim["says"][lang]), _claimed(claim, words), _computed(claim), _verdict(claim, words))
        for claim in claims
    )
    return TablePart(words["claims_table"], headings, rows, wide=frozenset({1}))


def _claimed(claim: Plain, words: Words) -> str:
    """The number of the article with its relation."""
    if claim["number"] is None:
        return NOTHING
    relation = words.get("relation_" + str(claim["relation"]).replace(" ", "_"), str(claim["relation"]))
    return f"{relation} {figure(claim['number'])} {claim['number_unit']}".strip()


def _computed(claim: Plain) -> str:
    """The computed value, and its range in a second line."""
    if claim["computed"] is None:
        return NOTHING
    text = f"{figure(claim['computed'])} {claim['unit']}".strip()
    if claim["low"] is None and claim["high"] is None:
        return text
    return f"{text}\n{figure(claim['low'], 3)} … {figure(claim['high'], 3)}"


# ── one claim ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _claim(claim: Plain, words: Words, lang: Lang) -> Iterator[Part]:
    """What the article says, the verdict, and everything that it rests on."""
    yield TextPart(filled(words["article_quote"], says=str(claim["says"][lang])))
    style = f"verdict {str(claim['verdict']).replace(' ', '-')}"
    yield TextPart(_verdict(claim, words), style=style)
    pairs = [(words["article_system"], str(claim["system"]))]
    pairs += [(words["claimed"], _claimed(claim, words))] * (claim["number"] is not None)
    pairs += [(words["computed"], _computed(claim).replace("\n", " [") + "]" * ("\n" in _computed(claim)))] * (
        claim["computed"] is not None
    )
    pairs += [(words["unpublished"], str(claim["unknown"]))] * bool(claim["unknown"])
    yield FactsPart(tuple(pairs))
    for sentence in (*claim["because"], *claim["conditions"]):
        yield TextPart(str(sentence), lang="en")
    for index, one in enumerate(claim["maps"]):
        yield from _map(f"{claim['id']}-map-{index}", one, words)
    yield from _effects(claim, words)
    if claim["break_even"]:
        yield _turning(claim["break_even"], words)
    for one in claim["tables"]:
        rows = tuple(tuple(text_of(cell) for cell in row) for row in one["rows"])
        numbers = frozenset(
            at for at in range(len(one["columns"]))
            if any(isinstance(row[at], int | float) for row in one["rows"])
        )  # fmt: skip
        yield TablePart(str(one["title"]), tuple(map(str, one["columns"])), rows, numbers=numbers, lang="en")
    for note in claim["notes"]:
        yield TextPart(str(note), style="note", lang="en")
    yield CodePart(words["command"], str(claim["command"]))


def _map(name: str, one: Plain, words: Words) -> Iterator[Part]:
    """A map as cells; as curves, too, if its columns are numbers."""
    cells = one["cells"]
    if not cells:
        return
    down, across = (list(dict.fromkeys(str(cell[key]) for cell in cells)) for key in ("row", "column"))
    number = 1.0 if one["number"] is None else float(one["number"])
    classes = [filled(words[f"map_{kind}"], number=figure(number)) for kind in ("above", "open", "below")]
    classes.append(words["map_none"])
    rows = [
        {
            "row": str(cell["row"]), "column": str(cell["column"]), "series": classes[_class(cell, number)],
            "text": figure(cell["value"], 3) if cell["value"] is not None else str(cell["state"] or NOTHING),
            "range": f"{figure(cell['low'], 3)} … {figure(cell['high'], 3)}" if cell["low"] is not None else "",
            "state": str(cell["state"]),
        }
        for cell in cells
    ]  # fmt: skip
    title = f"{one['title']} [{one['unit']}]" if one["unit"] else str(one["title"])
    tips = {"row": str(one["rows"]), "column": str(one["columns"]), "text": title, "range": words["interval_term"],
            "state": words["map_state"], "series": words["map_class"]}  # fmt: skip
    spec = map_chart(
        rows, (down, across), (str(one["rows"]), str(one["columns"])), classes, tips=tips, description=title
    )
    headings = (str(one["rows"]), str(one["columns"]), words["value"], words["low"], words["high"], words["map_state"])
    lines = tuple(
        (
            str(cell["row"]), str(cell["column"]), *(figure(cell[key], 3) for key in ("value", "low", "high")),
            str(cell["state"] or NOTHING),
        )
        for cell in cells
    )  # fmt: skip
    table = TablePart(title, headings, lines, numbers=frozenset({2, 3, 4}), folded=True, lang="en")
    yield ChartPart(name, title, spec, table)
    yield from _curves(f"{name}-curves", one, title, down, words)


def _class(cell: Plain, number: float) -> int:
    """Class of a cell: 0 its whole interval is at or above the number, 1 open, 2 below, 3 without a value."""
    if cell["value"] is None:
        return 3
    low, high = (cell["value"] if cell[end] is None else cell[end] for end in ("low", "high"))
    return 0 if low >= number else 2 if high < number else 1


def _curves(name: str, one: Plain, title: str, names: Sequence[str], words: Words) -> Iterator[Part]:
    """The rows of a map as curves over its columns, if the columns are numbers."""
    points = [(cell, _number(str(cell["column"]))) for cell in one["cells"] if cell["value"] is not None]
    columns = {at for _, at in points}
    if None in columns or len(columns) < LEAST_POINTS or len(names) > MOST_CURVES:
        return
    rows = [{"x": at, "value": cell["value"], "series": str(cell["row"])} for cell, at in points]
    tips = {"series": str(one["rows"]), "x": str(one["columns"]), "value": title}
    spec = sweep_chart(
        rows, names, (str(one["columns"]), title), log=False, lines=True, tips=tips, knees=(), description=title
    )
    yield ChartPart(name, filled(words["map_curves"], title=title), spec)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _effects(claim: Plain, words: Words) -> Iterator[Part]:
    """What moves the computed value most, as bars and as a table."""
    effects = claim["depends_on"]
    if not effects:
        return
    headings = (words["input"], words["value"], words["range"], words["computed_low"], words["computed_high"],
                words["status"])  # fmt: skip
    cells = tuple(
        (
            str(one["path"]), _amount(one["value"], one["unit"]), _range(one), figure(one["computed_low"]),
            figure(one["computed_high"]), str(one["status"]),
        )
        for one in effects
    )  # fmt: skip
    table = TablePart(
        words["claims_effects_table"],
        headings,
        cells,
        numbers=frozenset({1, 2, 3, 4}),
        folded=len(effects) > BARS,
        lang="en",
    )
    known = [
        {"group": str(one["path"]), "low": one["computed_low"], "high": one["computed_high"],
         "range": _range(one)}
        for one in effects[:BARS]
        if one["computed_low"] is not None and one["computed_high"] is not None
        and one["computed_low"] != one["computed_high"]
    ]  # fmt: skip
    if not known or claim["computed"] is None:
        yield table
        return
    caption = filled(words["claims_effects_words"], id=str(claim["id"]))
    title = f"{words['computed']} [{claim['unit']}]" if claim["unit"] else words["computed"]
    tips = {"group": words["input"], "range": words["range"], "low": words["computed_low"],
            "high": words["computed_high"]}  # fmt: skip
    spec = tornado_chart(known, title, claim["computed"], tips=tips, description=caption)
    yield ChartPart(f"{claim['id']}-effects", caption, spec, table)


def _range(one: Plain) -> str:
    """Both ends of an input."""
    return f"{_amount(one['low'], one['unit'])} … {_amount(one['high'], one['unit'])}"


def _amount(value: float | None, unit: str) -> str:
    """A number of an input: SI units with a prefix, and the units of price lists as they are."""
    if value is None:
        return NOTHING
    if unit in KINDS and unit:
        return SweptPath("", "number", unit).shown(float(value))
    return f"{figure(value)} {'' if unit == '-' else unit}".strip()


def _turning(points: Sequence[Plain], words: Words) -> TablePart:
    """Values of inputs at which the verdict changes."""
    names = {name: words["verdict_" + name.replace(" ", "_")] for name in VERDICTS}
    rows = tuple(
        (
            str(one["path"]), _amount(one["now"], one["unit"]), _amount(one["value"], one["unit"]),
            names.get(one["verdict_below"], str(one["verdict_below"])),
            names.get(one["verdict_above"], str(one["verdict_above"])),
        )
        for one in points
    )  # fmt: skip
    headings = (words["input"], words["value_now"], words["turns_at"], words["verdict_below"], words["verdict_above"])
    return TablePart(words["turning_table"], headings, rows, numbers=frozenset({1, 2}))


# ── the end of the page ───────────────────────────────────────────────────────────────────────────────────────────


def _assumed(plain: Plain, words: Words) -> Iterator[Part]:
    """Assumed numbers, with the claims that rest on each."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for claim in plain["claims"]:
        for item in claim["assumed"]:
            rows.setdefault((str(item["path"]), str(item["value"]), str(item["why"])), []).append(str(claim["id"]))
    if not rows:
        yield TextPart(words["nothing_assumed"])
        return
    cells = tuple((*key, ", ".join(dict.fromkeys(ids))) for key, ids in rows.items())
    headings = (words["path"], words["value"], words["reason"], words["claims_verdicts"])
    yield TablePart(words["assumed_table"], headings, cells, wide=frozenset({2}), folded=True, lang="en")


def _terms(words: Words) -> Iterator[tuple[str, str]]:
    """What the verdicts and the columns mean."""
    for name, sign in VERDICTS.items():
        key = name.replace(" ", "_")
        yield f"{sign} {words['verdict_' + key]}", words[f"term_verdict_{key}"]
    yield words["computed"], words["term_computed"]
    yield words["claims_effects"], words["term_effects"]
    yield words["turns_at"], words["term_turning"]
