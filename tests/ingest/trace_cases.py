"""Small random traces."""

import numpy as np
from hypothesis import strategies as st

from tokenworks.specs.trace import Trace


@st.composite
def traces(draw: st.DrawFn, block: int = 32) -> Trace:
    """Requests over a tree of blocks, as chained hashes make it: each path shares a beginning with another."""
    n = draw(st.integers(1, 12))
    paths: list[list[int]] = []
    fresh = 0
    for _ in range(n):
        old = paths[draw(st.integers(0, len(paths) - 1))] if paths else []
        path = old[: draw(st.integers(0, len(old)))]
        for _ in range(draw(st.integers(0, 4)) + (not path)):
            path = [*path, fresh]
            fresh += 1
        paths.append(path)
    parent = [draw(st.integers(-1, k - 1)) for k in range(n)]
    return Trace.of(
        np.cumsum(draw(st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=n, max_size=n))),
        [block * len(path) + draw(st.integers(0, block - 1)) for path in paths],
        draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)),
        session=draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)),
        parent=parent,
        think_s=[1.0 if p >= 0 else 0.0 for p in parent],
        run_start=np.concatenate(paths),
        run_length=np.ones(sum(map(len, paths))),
        run_offsets=np.cumsum([0, *map(len, paths)]),
        hash_block_tokens=block,
    )
