"""Attention on one device, one layer: what a `Scan` reads and multiplies, and the `State` of linear attention.

Everything works from sums over a batch, never from single sequences. Where a query reads at most `cap` entries, the sum
over sequences of min(entries, cap) is taken at the mean context, n min(S / n, cap): exact for equal contexts, and not
below the truth otherwise (the minimum is concave).
"""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.specs.model import Scan, State

QUERY_TILE = 128  # query rows that share one read of the keys; FlashAttention-2, arXiv:2307.08691, section 3.3


def read_cap(scan: Scan) -> float:
    """Most entries that one query reads."""
    return float(min(scan.reads or np.inf, scan.keeps or np.inf))


def decode_entries(scan: Scan, sequences: FloatArray, context: FloatArray) -> FloatArray:
    """Entries read by one query of each sequence, summed [count]: min(S / stride, n cap).

    Parameters
    ----------
    sequences : n, decoding sequences; context : S, sum of their contexts [token]
    """
    cap = read_cap(scan)
    return context / scan.stride if cap == np.inf else np.minimum(context / scan.stride, sequences * cap)


def prefill_entries(scan: Scan, tokens: FloatArray, token_context: FloatArray) -> FloatArray:
    """Entries that prefill queries read, summed over queries [count]: min(X / stride, T cap).

    Parameters
    ----------
    tokens : T, prefill tokens; token_context : X, sum over them of the context that each one sees [token^2]
    """
    cap = read_cap(scan)
    return token_context / scan.stride if cap == np.inf else np.minimum(token_context / scan.stride, tokens * cap)


def entry_bytes(scan: Scan, tp: FloatArray, kv_bytes: FloatArray) -> FloatArray:
    """One entry as one device reads it [byte]: KV heads are divided by tp down to one; a latent is whole everywhere.

    Parameters
    ----------
    kv_bytes : one cached element where the scan does not fix it [byte/element]
    """
    size = kv_bytes if scan.bytes is None else scan.bytes
    return scan.elements * size / np.minimum(tp, scan.heads)


def entry_flop(scan: Scan, tp: FloatArray) -> FloatArray:
    """One prefill query against one entry on one device [FLOP]: query heads are divided by tp."""
    return scan.prefill_flop / np.minimum(tp, scan.query_heads)


def decode_work(
    scan: Scan, sequences: FloatArray, context: FloatArray, *, queries: FloatArray, tp: FloatArray, kv_bytes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """FLOP and bytes of one decode step's attention [FLOP, byte].

    Each cached entry is read once for all the query tokens of its sequence (1 + drafts), and multiplied by each:

        bytes = N b,   FLOP = N q f / tp

    Parameters
    ----------
    sequences, context : on this device, see `decode_entries`; queries : query tokens of a sequence
    tp : tensor-parallel width; query heads are divided by it

    References
    ----------
    [1] DeepSeek-V2, arXiv:2405.04434, section 2.1.2 (absorbed MLA: one latent serves all heads).
    """
    entries = decode_entries(scan, sequences, context)
    flop = entries * queries * scan.decode_flop / np.minimum(tp, scan.query_heads)
    return flop, entries * entry_bytes(scan, tp, kv_bytes)


def prefill_work(
    scan: Scan, tokens: FloatArray, token_context: FloatArray, *, tp: FloatArray, kv_bytes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """FLOP and bytes of the attention of a prefill chunk, earlier context included [FLOP, byte].

    Causal: the FLOP are those of the entries each token sees. A tile of queries shares one read of the entries, and a
    chunk smaller than a tile is one tile:

        FLOP = N f / tp,   bytes = N b / min(T, 128)

    Parameters
    ----------
    tokens, token_context : on this device, see `prefill_entries`

    References
    ----------
    [1] FlashAttention-2, arXiv:2307.08691, section 3.3 (tiles of query rows).
    """
    entries = prefill_entries(scan, tokens, token_context)
    flop = entries * entry_flop(scan, tp)
    shared = np.minimum(np.maximum(tokens, 1), QUERY_TILE)
    return flop, entries * entry_bytes(scan, tp, kv_bytes) / shared


def state_work(
    state: State, sequences: FloatArray, tokens: FloatArray, *, tp: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """FLOP and bytes of linear attention [FLOP, byte]: its state is read and written once a step, whatever the context.

    Parameters
    ----------
    sequences : whose state is touched in the step; tokens : that pass through it, decode and prefill

    References
    ----------
    [1] Gated Delta Networks, arXiv:2412.06464, section 3; Mamba-2, arXiv:2405.21060, section 6.
    """
    share = np.minimum(tp, state.heads)
    return tokens * state.flop / share, 2 * sequences * state.bytes / share
