"""Numbers with which the kernel answers: why `drive.advance` returns, and what changed in a prefix cache or a store; what a stream tells it."""

DONE, SERIES_FULL, EVENTS_FULL, CHANGES_FULL, UNCHAINED = 0, 1, 2, 3, 4
STORED, REMOVED, CLEARED = 0, 1, 2  # changes of a cache in HBM
ENTERED, LEFT = 3, 4  # changes of a store of a KV tier

NUMBER, SENT, LAST, DESCRIPTOR, SIZE, PLACE, START, STRIDE, PARTIAL = range(9)
"""Columns of a row of `serving.lines.Lines`."""
COLUMNS = 9
"""Columns of such a row."""
WIDTH = 512
"""Room for an event [byte]."""
