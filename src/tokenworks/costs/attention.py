"""Attention of one layer on one device: the FLOP and bytes of a `Scan`, and of the `State` of linear attention.

All functions take sums over a batch, not single sequences. A query reads at most `cap` entries (window or top-k). The
sum of min(entries, cap) over n sequences is computed at the mean context: n min(S / n, cap). This is exact for equal
contexts. For unequal contexts it is never too small, because the minimum is concave.
"""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.specs.model import Scan, State

QUERY_TILE = 128  # query rows that share one read of the keys; FlashAttention-2, arXiv:2307.08691, section 3.3


def read_cap(scan: Scan) -> float:
    """Largest number of cache entries that one query reads [count]; infinite without window and top-k."""
    return float(min(scan.reads or np.inf, scan.keeps or np.inf))


def decode_entries(scan: Scan, sequences: FloatArray, context: FloatArray) -> FloatArray:
    """Cache entries that a decode step reads, summed over all sequences: min(S / stride, n cap).

    Each sequence has one query.

    Parameters
    ----------
    scan : the pass over the cache, with its stride and its limits
    sequences : n, number of decoding sequences [count]
    context : S, sum of the contexts of these sequences [token]

    Returns
    -------
    Number of entries [count].
    """
    cap = read_cap(scan)
    return context / scan.stride if cap == np.inf else np.minimum(context / scan.stride, sequences * cap)


def prefill_entries(scan: Scan, tokens: FloatArray, token_context: FloatArray) -> FloatArray:
    """Cache entries that a prefill chunk reads, summed over its queries: min(X / stride, T cap).

    Parameters
    ----------
    scan : the pass over the cache, with its stride and its limits
    tokens : T, number of prefill tokens [token]
    token_context : X, sum over the prefill tokens of the context that each token sees [token^2]

    Returns
    -------
    Number of entries [count].
    """
    cap = read_cap(scan)
    return token_context / scan.stride if cap == np.inf else np.minimum(token_context / scan.stride, tokens * cap)


def entry_bytes(scan: Scan, tp: FloatArray, kv_bytes: FloatArray) -> FloatArray:
    """Size of one cache entry on one device.

    tp divides the KV heads, but never one head. A latent (MLA) counts as one head, so every rank has a whole copy.

    Parameters
    ----------
    scan : the pass over the cache, with elements and heads of an entry
    tp : tensor-parallel width [count]
    kv_bytes : size of one cached element; not used if the scan has a fixed size [byte/element]

    Returns
    -------
    Size of the entry [byte].
    """
    size = kv_bytes if scan.bytes is None else scan.bytes
    return scan.elements * size / np.minimum(tp, scan.heads)


def entry_flop(scan: Scan, tp: FloatArray) -> FloatArray:
    """Work of one prefill query on one cache entry, on one device.

    Parameters
    ----------
    scan : the pass over the cache, with the work of all query heads
    tp : tensor-parallel width, which divides the query heads [count]

    Returns
    -------
    Work [FLOP].
    """
    return scan.prefill_flop / np.minimum(tp, scan.query_heads)


def decode_work(
    scan: Scan, sequences: FloatArray, context: FloatArray, *, queries: FloatArray, tp: FloatArray, kv_bytes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """FLOP and bytes of the attention of one decode step.

    A kernel reads each cache entry once and multiplies it with all query tokens of the sequence (1 + drafts):

        bytes = N b,   FLOP = N q f / tp

    with N entries (`decode_entries`) of b bytes (`entry_bytes`) and f FLOP per query and entry.

    Parameters
    ----------
    scan : the pass over the cache
    sequences : number of decoding sequences on this device [count]
    context : sum of the contexts of these sequences [token]
    queries : q, query tokens of one sequence, 1 + drafts [token]
    tp : tensor-parallel width, which divides the query heads [count]
    kv_bytes : size of one cached element; not used if the scan has a fixed size [byte/element]

    Returns
    -------
    Work [FLOP], and bytes read from device memory [byte].

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
    """FLOP and bytes of the attention of a prefill chunk, with the context before the chunk.

    Attention is causal: each token works on the entries that it sees. The queries of a tile share one read of the
    entries. A chunk smaller than a tile is one tile:

        FLOP = N f / tp,   bytes = N b / min(T, 128)

    with N entries (`prefill_entries`) of b bytes (`entry_bytes`) and f FLOP per query and entry.

    Parameters
    ----------
    scan : the pass over the cache
    tokens : T, prefill tokens on this device [token]
    token_context : sum over the prefill tokens of the context that each token sees [token^2]
    tp : tensor-parallel width, which divides the query heads [count]
    kv_bytes : size of one cached element; not used if the scan has a fixed size [byte/element]

    Returns
    -------
    Work [FLOP], and bytes read from device memory [byte].

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
    """FLOP and bytes of linear attention in one step.

    A step reads and writes the state of a sequence once, at any context length.

    Parameters
    ----------
    state : size of the recurrent state, and work per token
    sequences : sequences that have tokens in the step [count]
    tokens : decode and prefill tokens of the step [token]
    tp : tensor-parallel width, which divides the heads of the state [count]

    Returns
    -------
    Work [FLOP], and bytes read and written [byte].

    References
    ----------
    [1] Gated Delta Networks, arXiv:2412.06464, section 3; Mamba-2, arXiv:2405.21060, section 6.
    """
    share = np.minimum(tp, state.heads)
    return tokens * state.flop / share, 2 * sequences * state.bytes / share
