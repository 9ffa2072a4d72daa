"""Numbers with which the kernel answers: why `drive.advance` returns, and what changed in a prefix cache or a store."""

DONE, SERIES_FULL, EVENTS_FULL, CHANGES_FULL, UNCHAINED = 0, 1, 2, 3, 4
STORED, REMOVED, CLEARED = 0, 1, 2  # changes of a cache in HBM
ENTERED, LEFT = 3, 4  # changes of a store of a KV tier
