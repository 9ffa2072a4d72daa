"""Write a calibration as a catalog file: each number with its source, and the errors of the fit as comments on top."""

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
"""Source texts longer than this go into the table `sources`, if several numbers have the same source [characters]."""


def write(fitted: Calibrated, path: Path) -> None:
    """Write a calibration fitted on points as a catalog file, with its errors as comments.

    Parameters
    ----------
    fitted : the fit
    path : the file
    """
    summary, calibration = fitted.plain(), fitted.calibration
    before, after = _percent(summary["tpot_before"]), _percent(summary["tpot_in_sample"])
    lines = [
        f"# {calibration.title}. {summary['constants']} constants, regularised least squares on log TPOT error,",
        f"# starting from calibration {fitted.prior.name}. Median TPOT error {before} before, {after} in sample.",
    ]
    lines += [
        f"# Left out {left.group}: {left.n} points, median error {100 * left.median_ape:.1f} % "
        f"({100 * left.before_median_ape:.1f} % before), bias {100 * left.bias:+.0f} %."
        for left in fitted.systems
    ]
    lines += [
        f"# Intervals of left-out {one.system}, by the other systems: "
        + "; ".join(
            f"{name} x {held.spread:.2f}, {100 * held.covered:.0f} % of {held.n} inside"
            for name, held in (("TPOT", one.tpot), ("throughput at equal speed", one.throughput))
            if held
        )
        + "."
        for one in fitted.intervals.left_out
    ]
    if left := summary["tpot_software_left_out"]:
        lines.append(
            f"# {len(summary['software'])} software stacks. Each split by the other splits of its stack: {left['n']} "
            f"points, median TPOT error {_percent(left)} ({_percent(summary['tpot_without_software'])} without)."
        )
    if power := fitted.power:
        lines.append(
            f"# Mean power: {power.n} points, median error {_percent(power.plain())} in sample; left out: "
            + ", ".join(f"{left.group} {100 * left.median_ape:.0f} %" for left in power.systems)
        )
        lines += [
            f"# Mean power of {name} by its own shares: {one.n} points, median error {100 * one.median_ape:.1f} % in "
            f"sample; models left out: {100 * one.models_left_out:.1f} %."
            for name, one in power.families.items()
        ]
    write_file(calibration, lines, path)


def write_own(own: Own, path: Path) -> None:
    """Write a calibration of a user's machine as a catalog file, with its errors as comments.

    Parameters
    ----------
    own : the fit
    path : the file
    """
    summary, title = own.plain(), own.calibration.title
    lines = [f"# {title}. {summary['constants']} constants, starting from calibration {own.prior.name}."]
    for metric, label in (("tpot", "TPOT"), ("ttft", "TTFT")):
        stages = [summary[f"{metric}_{stage}"] for stage in ("before", "in_sample", "left_out")]
        if all(stages):
            before, fitted, left = map(_percent, stages)
            lines.append(f"# Median {label} error {before} before, {fitted} in sample, {left} of each point left out.")
    write_file(own.calibration, lines, path)


def write_again(calibration: Calibration, path: Path) -> None:
    """Write a calibration over its file; the comments of the file stay.

    Parameters
    ----------
    calibration : the calibration
    path : the file
    """
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    write_file(calibration, [line for line in before if line.startswith("#")] or [f"# {calibration.title}."], path)


def write_file(calibration: Calibration, lines: Sequence[str], path: Path) -> None:
    """Write a calibration as a catalog file below comment lines. A source of several numbers is written only once.

    Parameters
    ----------
    calibration : the calibration
    lines : comment lines, each with its `#`
    path : the file
    """
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
    """Data as YAML text; `inline` writes each innermost mapping on one line."""
    style = None if inline else False
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=style)


def _keys(used: Counter[str], known: Mapping[str, str]) -> dict[str, str]:
    """Key of each source in the table, by text. Known sources keep their key; a new key is a word and a number."""
    keys = {text: key for key, text in known.items() if used[text]}
    for text, count in used.items():
        if text not in keys and (KEY.fullmatch(text) or (count > 1 and len(text) > LONG)):
            word = next(iter(re.findall("[a-z]+", text.lower())), "source")
            numbered = (f"{word}-{number}" for number in itertools.count(1))
            keys[text] = next(key for key in numbered if key not in keys.values())
    return keys


def _plain(value: Any) -> Any:
    """The content of the file: numbers as they were written, without empty values."""
    if isinstance(value, Quantity):
        written = None if value.value is None else _scalar(value.written)
        entry = {"value": written, "status": value.status, "source": value.source}
        return entry | ({"note": value.note} if value.note else {})
    if isinstance(value, Spec):
        value = dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item not in ("", (), {}, None)}
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def _scalar(written: str) -> str | int | float:
    """A YAML number if YAML reads the text back unchanged, else the text."""
    parsed = yaml.safe_load(written)
    return parsed if isinstance(parsed, (int, float)) and str(parsed) == written else written


def _percent(errors: dict[str, Any]) -> str:
    return f"{100 * errors['median_ape']:.1f} %"
