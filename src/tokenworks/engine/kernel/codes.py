"""Numbers that the kernel shares with its callers: why `drive.advance` returns, changes of caches, places in tables."""

DONE, SERIES_FULL, EVENTS_FULL, CHANGES_FULL, UNCHAINED = 0, 1, 2, 3, 4
STORED, REMOVED, CLEARED = 0, 1, 2  # changes of a cache in HBM
ENTERED, LEFT = 3, 4  # changes of a store of a KV tier

OWNER, SEEN, LATEST, COUNT, NUMBERS, TOKENS, MORE, TIMES, GAPS, RANKS, SLOTS = range(11)
"""Arrays of `progress.Progress` in its table."""

ROWS, EVENTS, WORDS, ROOM = range(4)
"""Arrays of `serving.lines.Lines` in its table."""
NUMBER, SENT, LAST, DESCRIPTOR, SIZE, PLACE, START, STRIDE, PARTIAL = range(9)
"""Columns of its rows: number of the request, output tokens that are written, output tokens of the whole answer,
socket, bytes of the event, place of the word in it, `start` and `stride` of `words.Words`, and bytes that are written
of the event after these tokens."""
COLUMNS = 9
"""Columns of a row."""
WIDTH = 512
"""Room for an event [byte]."""
