"""Calibrations as catalog files: numbers as written, each with its source, below comments that tell their errors."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tokenworks.calibrate.calibrate import Calibrated
from tokenworks.calibrate.own_machine import Own
from tokenworks.specs.calibration import KEY, Calibration
from tokenworks.specs.provenance import Quantity, Spec, with_sources
from tokenworks.specs.save import saved

LONG = 30
"""A longer text that is the source of several numbers goes into the table `sources` [characters]."""


def write(made: Calibrated, path: Path) -> None:
    """As a catalog file, the errors above it."""
    summary, calibration = made.plain(), made.calibration
    lines = [
        f"# {calibration.title}. {summary['constants']} constants, regularised least squares on log TPOT error,",
        f"# starting from calibration {made.prior.name}. Median TPOT error {_percent(summary['tpot_before'])} before, "
        f"{_percent(summary['tpot_in_sample'])} in sample.",
    ]
    lines += [
        f"# Left out {left.group}: {left.n} points, median error {100 * left.median_ape:.1f} % "
        f"({100 * left.before_median_ape:.1f} % before), bias {100 * left.bias:+.0f} %."
        for left in made.systems
    ]
    if made.power:
        lines.append(
            f"# Mean power: {made.power.n} points, median error {_percent(made.power.plain())} in sample; left out: "
            + ", ".join(f"{left.group} {100 * left.median_ape:.0f} %" for left in made.power.systems)
        )
    write_file(calibration, lines, path)


def write_own(made: Own, path: Path) -> None:
    """As a catalog file, the errors above it."""
    found, title = made.plain(), made.calibration.title
    lines = [f"# {title}. {found['constants']} constants, starting from calibration {made.prior.name}."]
    for metric, label in (("tpot", "TPOT"), ("ttft", "TTFT")):
        stages = [found[f"{metric}_{stage}"] for stage in ("before", "in_sample", "left_out")]
        if all(stages):
            before, fitted, left = map(_percent, stages)
            lines.append(f"# Median {label} error {before} before, {fitted} in sample, {left} of each point left out.")
    write_file(made.calibration, lines, path)


def write_file(calibration: Calibration, lines: Sequence[str], path: Path) -> None:
    """As a catalog file, below lines of comment; what several numbers have for a source is written once, in a table."""
    used: Counter[str] = Counter()

    def seen(source: str) -> str:
        used[source] += 1
        return source

    plain = with_sources(_plain(calibration.model_copy(update={"sources": {}})), seen)
    keys = _keys(used, calibration.sources)
    text = _yaml(with_sources(plain, lambda source: keys.get(source, source)))
    if keys:
        text += _yaml({"sources": {key: source for source, key in keys.items()}}, inline=False)
    with saved(path) as part:
        part.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")


def _yaml(data: dict[str, Any], *, inline: bool = True) -> str:
    """YAML, the innermost mappings on one line each if `inline`."""
    style = None if inline else False
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=style)


def _keys(used: Counter[str], known: Mapping[str, str]) -> dict[str, str]:
    """Text to key, of each source in the table: what had a key keeps it, the rest get their first word and a number."""
    keys = {text: key for key, text in known.items() if used[text]}
    for text, count in used.items():
        if text not in keys and (KEY.fullmatch(text) or (count > 1 and len(text) > LONG)):
            word = next(iter(re.findall("[a-z]+", text.lower())), "source")
            numbered = (f"{word}-{number}" for number in itertools.count(1))
            keys[text] = next(key for key in numbered if key not in keys.values())
    return keys


def _plain(value: Any) -> Any:
    """As the file has it: numbers as they were written, and nothing of what is empty."""
    if isinstance(value, Quantity):
        made = {"value": _scalar(value.written), "status": value.status, "source": value.source}
        return made | ({"note": value.note} if value.note else {})
    if isinstance(value, Spec):
        value = dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item not in ("", (), {})}
    return list(value) if isinstance(value, tuple) else value


def _scalar(written: str) -> str | int | float:
    """A plain number of YAML, where it is read as it was written."""
    found = yaml.safe_load(written)
    return found if isinstance(found, (int, float)) and str(found) == written else written


def _percent(found: dict[str, Any]) -> str:
    return f"{100 * found['median_ape']:.1f} %"
