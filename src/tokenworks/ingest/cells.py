"""Conversion of text cells to numbers, times and words, for whole arrays of cells.

Every function takes the bytes of a text, and start and end of each cell. The text must be at least `PAD` bytes longer
than its last cell. A function returns the values, and a mask of valid values. A cell of an unusual form is not valid
here, even if its content is correct.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats, Ints
from tokenworks.specs.slo import CLASS_NAME
from tokenworks.specs.trace import MAX_TOKENS

PAD = 80
MAX_SECONDS = 1e12
EXACT_DIGITS = 15
"""A double holds every number with this many decimal digits, and a division by a power of ten rounds only once."""
EXACT_UNTIL = 2255
"""First year for which a double does not hold every number of microseconds since 1970."""
LONGEST_WORD = 64

Text = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def digits(text: Text, start: Ints, end: Ints, most: int) -> tuple[Ints, Mask]:
    """Cells with one to `most` digits, as whole numbers."""
    width = end - start
    good = (width > 0) & (width <= most)
    value = np.zeros(len(start), np.int64)
    for k in range(min(most, int(width.max(initial=0)))):
        digit = text[start + k] - np.uint8(ord("0"))  # other characters give more than 9, because uint8 wraps around
        beyond = width <= k
        good &= beyond | (digit < 10)
        value = np.where(beyond, value, 10 * value + digit)
    return value, good


def tokens(text: Text, start: Ints, end: Ints) -> tuple[Ints, Mask]:
    """Whole numbers from 1 to `MAX_TOKENS`, without leading zeros."""
    value, good = digits(text, start, end, len(str(MAX_TOKENS)))
    return value, good & (text[start] != ord("0")) & (value <= MAX_TOKENS)


def seconds(text: Text, start: Ints, end: Ints) -> tuple[Floats, Mask]:
    """Numbers such as 118 and 118.25, not negative, without leading zeros."""
    points = np.append(np.flatnonzero(text == ord(".")), len(text))
    point = np.minimum(points[np.searchsorted(points, start)], end)
    whole, good = digits(text, start, point, EXACT_DIGITS)
    part, fractional = digits(text, point + 1, end, EXACT_DIGITS)
    places = np.where(fractional, end - point - 1, 0)
    good &= (fractional | (point == end)) & (point - start + places <= EXACT_DIGITS)
    good &= (point - start == 1) | (text[start] != ord("0"))
    scale = 10 ** np.where(good, places, 0)
    value = (whole * scale + np.where(fractional, part, 0)) / scale
    return value, good & (value <= MAX_SECONDS)


def times(text: Text, start: Ints, end: Ints) -> tuple[Floats, Mask]:
    """Times such as 2024-05-10 00:00:00.0099300+00:00, in seconds since 1970 [s]. Without a time zone they are UTC."""
    zone = np.logical_and.reduce([text[end - 6 + k] == byte for k, byte in enumerate(b"+00:00")])
    end = end - np.where(zone, 6, text[end - 1] == ord("Z"))
    good = np.logical_and.reduce(
        [text[start + k] == ord(mark) for k, mark in ((4, "-"), (7, "-"), (13, ":"), (16, ":"))]
    )
    good &= (text[start + 10] == ord(" ")) | (text[start + 10] == ord("T"))
    fields = []
    for at, width in ((0, 4), (5, 2), (8, 2), (11, 2), (14, 2), (17, 2)):
        value, plain = digits(text, start + at, start + at + width, width)
        fields.append(value)
        good &= plain
    year, month, day, hour, minute, second = fields
    part, fractional = digits(text, start + 20, end, 7)
    good &= (end == start + 19) | (fractional & (text[start + 19] == ord(".")))
    tenths = np.where(fractional, part * 10 ** np.clip(start + 27 - end, 0, 7), 0)

    months = 12 * (year - 1970) + month - 1
    first, following = (
        these.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for these in (months, months + 1)
    )
    good &= (
        (year >= 1970) & (year < EXACT_UNTIL) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= following - first)
    )
    good &= (hour < 24) & (minute < 60) & (second < 60)
    total = 86400 * (first + day - 1) + 3600 * hour + 60 * minute + second
    return (1_000_000 * total + (tenths + 5) // 10) / 1e6, good  # microseconds, rounded half up, like datetime


def words(text: Text, start: Ints, end: Ints) -> tuple[NDArray[np.bytes_], Mask]:
    """Names of classes. An empty cell is valid."""
    width = end - start
    longest = min(LONGEST_WORD, max(1, int(width.max(initial=0))))
    column = np.arange(longest)
    letters = np.where(column < width[:, None], text[start[:, None] + column], 0).astype(np.uint8)
    names = letters.view(f"S{longest}").ravel()
    different, which = np.unique(names, return_inverse=True)
    right = np.array([re.fullmatch(f"({CLASS_NAME})?".encode(), name) is not None for name in different.tolist()], bool)
    return names, right[which] & (width <= longest)
