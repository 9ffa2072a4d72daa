"""Reader for ServeGen: rates and lengths of one client over time, from which requests are drawn with a seed.

Format: alibaba/ServeGen, data/*/chunk-N-trace.csv and chunk-N-dataset.json. The CSV has no header: start of a window
[s], rate [1/s], coefficient of variation of the gaps, their distribution (Gamma, Weibull or empty), and two arguments
of it, shape and scale. The JSON beside it has the lengths: for windows of 21,600 s a text with a Python dict,
{length: probability}.
"""

from __future__ import annotations

import ast
import csv
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.ingest.rows import UNDECODABLE, Rows
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import MAX_TOKENS, Trace

ENDING, PARTNER = "-trace.csv", "-dataset.json"
WINDOW_S = 600.0
"""Length of the last window, if the file has only one [s]."""
MOST_TEXT = 1 << 20
"""Longest text of a dict [byte]."""
MOST_REQUESTS = 10_000_000
SHAPES = (0.05, 1e4)
"""Range of the shape of a distribution; real clients lie between 0.1 and 100 [-]."""
LEAST_RATE, MOST_RATE = 1e-9, 1e5
MOST_TIME = 1e9
UNIT = 0.01
"""Largest difference between 1 and a sum of probabilities, from rounding [-]."""
FLAT_DICT = re.compile(r"\{[0-9eE.:,+\s-]*\}")
"""A dict of numbers without anything nested."""
LENGTHS = ("input_tokens", "output_tokens")
Histogram = tuple[Ints, Floats]
Lengths = dict[int, tuple[Histogram, ...]]


@dataclass(frozen=True, slots=True)
class RateWindow:
    """A time in which the rate is constant.

    Parameters
    ----------
    line : line in the file
    start_s : start of the window [s]
    rate : requests per second [1/s]
    pattern : distribution of the gaps
    shape : its shape [-]
    """

    line: int
    start_s: float
    rate: float
    pattern: str
    shape: float


def gamma(random: Generator, shape: float, rate: float, n: int) -> Floats:
    """Gaps with a Gamma distribution and the mean 1 / rate [s]: scale = 1 / (rate x shape)."""
    return random.gamma(shape, 1 / (rate * shape), n)


def weibull(random: Generator, shape: float, rate: float, n: int) -> Floats:
    """Gaps with a Weibull distribution and the mean 1 / rate [s]: scale = 1 / (rate x Gamma(1 + 1 / shape))."""
    return random.weibull(shape, n) / (rate * math.gamma(1 + 1 / shape))


PATTERNS: dict[str, Callable[[Generator, float, float, int], Floats]] = {"Gamma": gamma, "Weibull": weibull}


def read(rows: Rows) -> Trace:
    """Draw the requests of a client: gaps from the windows of the CSV, lengths from the JSON beside it.

    A folder holds many clients. Their requests are one trace, and each client has its own random streams.
    """
    table, unused = Table(), dict[str, None]()
    clients = _clients(rows)
    for number, client in enumerate(clients):
        streams = SeedSequence(rows.seed, spawn_key=(number,)).spawn(2)
        lengths, others = _dataset(client)
        unused |= dict.fromkeys(others)
        _draw(client, lengths, table, *(Generator(PCG64(stream)) for stream in streams))
        rows.reordered += client.reordered if client is not rows else 0
    notes = [f"requests are drawn from the statistics of the file, with the seed {rows.seed}"]
    if os.path.isdir(rows.path):
        notes = [f"requests of {len(clients)} clients are drawn from their statistics, with the seed {rows.seed}"]
    if unused:
        notes.append(f"not used: {', '.join(unused)}")
    return table.trace(rows, notes=tuple(notes))


def is_folder(path: Path) -> bool:
    """True if the path is a folder with clients of ServeGen."""
    return os.path.isdir(path) and any(path.glob(f"*{ENDING}"))


def _clients(rows: Rows) -> list[Rows]:
    """The CSV of each client: all of a folder in the order of their names, or the one file."""
    if not os.path.isdir(rows.path):
        return [rows]
    return [rows.beside(path) for path in sorted(rows.path.glob(f"*{ENDING}"))]


def _draw(rows: Rows, lengths: Lengths, table: Table, arrivals: Generator, sizes: Generator) -> None:
    """Draw the requests of one client, and add them to the table.

    Parameters
    ----------
    rows : CSV of the client
    lengths : lengths of the client, by period
    table : the table of all clients
    arrivals, sizes : random streams of the arrival times and of the lengths
    """
    windows = _windows(rows)
    times, which = _arrivals(rows, windows, arrivals, MOST_REQUESTS - len(table.arrival))
    kept = np.ones(len(times), bool)
    drawn = {name: np.ones(len(times), np.int64) for name in LENGTHS}
    periods = np.array(sorted(lengths))
    for number, window in enumerate(windows):
        at = np.flatnonzero(which == number)
        before = periods[periods <= window.start_s]
        known = lengths[int(before[-1])] if len(before) else ()
        if not len(at):
            continue
        if not known:
            rows.broken(window.line, "dataset", f"expected lengths for {window.start_s:g} s: the dataset has none")
            kept[at] = False
            continue
        for name, (values, shares) in zip(LENGTHS, known, strict=True):
            drawn[name][at] = sizes.choice(values, len(at), p=shares)
    classless = np.zeros(int(kept.sum()), "S1")
    table.extend(times[kept], drawn["input_tokens"][kept], drawn["output_tokens"][kept], classless)


def _arrivals(rows: Rows, windows: list[RateWindow], random: Generator, most: int) -> tuple[Floats, Ints]:
    """Time and window of each request. A window begins without a request. More than `most` requests are an error."""
    parts, total = list[Floats](), 0
    ends = [window.start_s for window in windows[1:]]
    last = windows[-1].start_s - windows[-2].start_s if len(windows) > 1 else WINDOW_S
    ends.append(windows[-1].start_s + last)
    for window, end in zip(windows, ends, strict=True):
        length, now, times = end - window.start_s, 0.0, list[Floats]()
        while window.rate and now < length:
            count = max(16, int(1.1 * window.rate * (length - now)) + 1)
            total += count
            if total > most:
                words, hint = f"more than {MOST_REQUESTS:,} requests", "cut the file into parts, or take fewer clients"
                raise SpecError(words, where=f"{rows.path}:{window.line}", hint=hint)
            later = now + np.cumsum(PATTERNS[window.pattern](random, window.shape, window.rate, count))
            times.append(later[later < length])
            now = float(later[-1])
        parts.append(window.start_s + np.concatenate([np.zeros(0), *times]))
    return np.concatenate(parts), np.repeat(np.arange(len(windows)), [len(part) for part in parts])


def _windows(rows: Rows) -> list[RateWindow]:
    """The windows of the CSV, in ascending order of time."""
    windows = []
    for line, data in rows.lines():
        window = _window(rows, line, data.decode(errors="replace"))
        if window is not None:
            rows.in_order(line, window.start_s)
            windows.append(window)
    windows.sort(key=lambda window: window.start_s)
    if not windows:
        reasons = "; ".join(f"{one.count} x {one.reason} ({one.where})" for one in rows.dropped)
        raise SpecError("no window could be read", where=str(rows.path), hint=reasons or "the file is empty")
    return windows


def _window(rows: Rows, line: int, text: str) -> RateWindow | None:
    """The window of a line; None if the line is broken."""
    try:
        cells = next(csv.reader([text]))
        start, rate, _, pattern, shape, _ = (cell.strip() for cell in cells)
        window = RateWindow(line, float(start), float(rate), pattern, float(shape or 0))
    except (ValueError, csv.Error):
        rows.broken(line, "", "expected start, rate, variation, Gamma or Weibull, shape, scale")
        return None
    if not 0 <= window.start_s <= MOST_TIME:
        rows.broken(line, "start", f"expected 0 to {MOST_TIME:g} s")
    elif window.rate and not LEAST_RATE <= window.rate <= MOST_RATE:
        rows.broken(line, "rate", f"expected 0, or {LEAST_RATE:g} to {MOST_RATE:g} requests per second")
    elif window.rate and window.pattern not in PATTERNS:
        rows.broken(line, "pattern", f"expected {' or '.join(PATTERNS)}")
    elif window.rate and not SHAPES[0] <= window.shape <= SHAPES[1]:
        rows.broken(line, "shape", f"expected {SHAPES[0]:g} to {SHAPES[1]:g}")
    else:
        return window
    return None


def _dataset(rows: Rows) -> tuple[Lengths, list[str]]:
    """Lengths by start of their period [s], empty if it has none; and the columns that are not used."""
    path, name = rows.path, rows.path.name
    stem = name[: name.index(ENDING)] if ENDING in name else ""
    beside = path.with_name(stem + PARTNER)
    if not stem:
        hint = f"a ServeGen client is two files, chunk-0{ENDING} and chunk-0{PARTNER}, in one folder"
        raise SpecError(f"the name does not end in {ENDING}", where=str(path), hint=hint)
    if not os.path.isfile(beside):
        hint = f"put the lengths of this client beside it, as {beside.name}"
        raise SpecError(f"needs {beside.name}", where=str(path), hint=hint)
    try:
        data = msgspec.json.decode(Rows(beside).document(), type=dict[str, dict[str, str]])
    except UNDECODABLE as error:
        raise SpecError(f"is no ServeGen dataset: {error}", where=str(beside)) from None
    lengths: Lengths = {}
    unused: dict[str, None] = {}
    for start, columns in data.items():
        if not re.fullmatch(r"[0-9]{1,9}", start):
            raise SpecError(f"{start!r} is no time", where=str(beside), hint="a period begins at whole seconds")
        place = f"{beside}: {start}"
        histograms = [_histogram(columns.get(kind, "{}"), f"{place}.{kind}") for kind in LENGTHS]
        unused |= dict.fromkeys(kind for kind in columns if kind not in LENGTHS)
        lengths[int(start)] = tuple(histograms) if all(len(values) for values, _ in histograms) else ()
    return lengths, list(unused)


def _histogram(text: str, where: str) -> Histogram:
    """Lengths and their probabilities, from the text of a Python dict. The text is read as a literal, never run."""
    hint = 'write "{128: 0.5, 512: 0.5}"'
    if len(text) > MOST_TEXT or not FLAT_DICT.fullmatch(text):
        words = f"over {MOST_TEXT:,} characters" if len(text) > MOST_TEXT else "is no dict of numbers"
        raise SpecError(words, where=where, hint=hint)
    try:
        pairs = dict(ast.literal_eval(text))
        values = np.array([float(key) for key in pairs], np.float64)
        shares = np.array([float(share) for share in pairs.values()], np.float64)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        raise SpecError("is no dict of numbers", where=where, hint=hint) from None
    if not ((values >= 0) & (values <= MAX_TOKENS)).all():
        raise SpecError(f"lengths must be 0 to {MAX_TOKENS} tokens", where=where)
    if not ((shares >= 0) & (shares <= 1)).all() or (len(shares) and abs(shares.sum() - 1) > UNIT):
        raise SpecError(f"probabilities add up to {shares.sum():g}, not 1", where=where, hint=hint)
    whole = np.maximum(np.rint(values), 1).astype(np.int64)
    return whole, shares / shares.sum() if len(shares) else shares
