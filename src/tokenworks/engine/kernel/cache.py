# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Prefix cache of a rank: the LRU list of its free blocks, and a hash table from names to blocks."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import inline, jit
from tokenworks.engine.kernel.codes import REMOVED, STORED
from tokenworks.engine.kernel.memory import fetch
from tokenworks.engine.kernel.names import emit, list_change, place_of, slot_of
from tokenworks.engine.kernel.tiers import gone, let_gone, stored


@jit
def remove_from_table(s, r, node):
    """Remove a block from the hash table. Later entries of its cluster move up, so no tombstone stays."""
    rank = s.rank[r]
    mask, base = rank.mask, rank.table
    hole = slot_of(s.node[node].name, rank.shift, mask)
    while s.table[base + hole] != node:
        hole = (hole + 1) & mask
    slot = hole
    while True:
        slot = (slot + 1) & mask
        other = s.table[base + slot]
        if other < 0:
            break
        home = slot_of(s.node[other].name, rank.shift, mask)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            s.table[base + hole] = other
            hole = slot
    s.table[base + hole] = -1


@inline
def push_free(s, r, node):
    """Append a node to the LRU list."""
    rank, me = s.rank[r], s.node[node]
    me.prev, me.next = rank.lru_last, -1
    if rank.lru_last >= 0:
        s.node[rank.lru_last].next = node
    else:
        rank.lru_first = node
    rank.lru_last = node


@inline
def pull_free(s, r, node):
    """Take a node out of the LRU list."""
    rank, me = s.rank[r], s.node[node]
    if me.prev >= 0:
        s.node[me.prev].next = me.next
    else:
        rank.lru_first = me.next
    if me.next >= 0:
        s.node[me.next].prev = me.prev
    else:
        rank.lru_last = me.prev


@inline
def recycle(s, r, node):
    """Put a node on the list of spare nodes."""
    s.node[node].next = s.rank[r].spare
    s.rank[r].spare = node


@inline
def fresh(s, r):
    """Take a node from the list of spare nodes."""
    node = s.rank[r].spare
    s.rank[r].spare = s.node[node].next
    return node


@inline
def fetch_next(s, r, node):
    """Begin to read what the eviction of the next blocks in the LRU list will need."""
    rank, one = s.rank[r], max(s.node[node].next, 0)
    two = max(s.node[one].next, 0)
    fetch(s.node, max(s.node[two].next, 0))
    fetch(s.table, rank.table + slot_of(s.node[two].name, rank.shift, rank.mask))


@inline
def drop_content(s, r, node, now):
    """Evict the content of a cached block of a rank; KV tiers may take it."""
    fetch_next(s, r, node)
    if s.world[0].tiers:
        gone(s, r, node, now)
    else:
        emit(s, r, s.node[node].name, 0, now)
    remove_from_table(s, r, node)
    s.rank[r].evictions += 1
    if s.world[0].listed:
        list_change(s, r, REMOVED, s.node[node].name, -1, -1, now)


@jit
def evict_nodes(s, r, want, now):
    """Evict whole nodes of the radix tree, least recently used first, until `want` blocks have no content."""
    rank = s.rank[r]
    while rank.nameless < want and rank.lru_first >= 0:
        head = rank.lru_first
        more = True
        while more:
            node = s.node[head]
            if node.users < 0:
                rank.nameless += node.count
            else:
                drop_content(s, r, head, now)
                rank.nameless += 1
            more = node.users >= 0
            pull_free(s, r, head)
            recycle(s, r, head)
            head = rank.lru_first
            more = more and head >= 0 and s.node[head].users >= 0 and s.node[head].count == 0
    if s.world[0].tiers:
        let_gone(s, r, now)


@jit
def end_node(s, r, last):
    """Let a node of the radix tree end with the block `last`.

    If the node had more blocks, they become a node of their own, which counts as used now (SGLang: `_split_node`).
    These blocks stand before `last` in the LRU list, the end of the chain first.
    """
    rank, me = s.rank[r], s.node[last]
    if me.count:
        return
    me.count = 1
    if me.users:
        return
    start = end = me.prev
    while s.node[end].count == 0:
        end = s.node[end].prev
    before = s.node[end].prev
    me.prev = before
    if before >= 0:
        s.node[before].next = last
    else:
        rank.lru_first = last
    tail = rank.lru_last
    s.node[tail].next, s.node[end].prev = end, tail
    s.node[start].next = -1
    rank.lru_last = start


@jit
def touch(s, r, q, blocks):
    """Let the first `blocks` blocks that a lookup of `q` found count as used now."""
    first = s.offsets[q]
    for i in range(first + blocks - 1, first - 1, -1):
        node = s.held[i]
        if s.node[node].users == 0:
            pull_free(s, r, node)
            push_free(s, r, node)


@jit
def take_cached(s, r, count, now):
    """Take free blocks: first blocks that are not full, then the head of the LRU list, whose content is evicted."""
    rank = s.rank[r]
    if not s.pool[rank.pool].mixes:
        evict_nodes(s, r, count, now)
    nameless = min(count, rank.nameless)
    rank.nameless -= nameless
    count -= nameless
    while count > 0:
        head = rank.lru_first
        node = s.node[head]
        if node.users < 0:
            taken = min(count, node.count)
            node.count -= taken
            count -= taken
            if node.count:
                break
        else:
            drop_content(s, r, head, now)
            count -= 1
        pull_free(s, r, head)
        recycle(s, r, head)
    if s.world[0].tiers:
        let_gone(s, r, now)


@inline
def take(s, r, count, now):
    """Take free blocks; the caller has checked that enough are free."""
    rank = s.rank[r]
    rank.free -= count
    if s.pool[rank.pool].prefix and count > 0:
        take_cached(s, r, count, now)


@jit
def share(s, r, q, full):
    """Use the blocks of the radix tree in place of equal blocks that `q` has computed, which become free.

    Returns the first of the `full` blocks of `q` that the tree does not have.
    """
    me, rank = s.request[q], s.rank[r]
    first, at = s.offsets[q], np.int64(me.chained)
    while at < full:
        node = s.table[place_of(s, r, s.ids[first + at])]
        if node < 0:
            break
        s.held[first + at] = node
        at += 1
    if at > me.chained:
        end_node(s, r, s.held[first + at - 1])
    for i in range(first + me.chained, first + at):
        node = s.node[s.held[i]]
        if node.users == 0:
            pull_free(s, r, s.held[i])
            rank.free -= 1
        node.users += 1
        me.owned += 1
        rank.nameless += 1
        rank.free += 1
    return at


@jit
def store(s, r, q, tokens, now):
    """Put the full blocks of the first `tokens` of `q` into the prefix cache, except names that are there."""
    me, rank = s.request[q], s.rank[r]
    first = s.offsets[q]
    full = min(tokens // s.pool[rank.pool].block_tokens, s.named[q])
    tree = not s.pool[rank.pool].mixes
    at = np.int64(me.chained)
    if tree:
        at = share(s, r, q, full)
    for i in range(first + at, first + full):
        name = s.ids[i]
        s.held[i] = -1
        place = place_of(s, r, name)
        if s.table[place] < 0:
            new = fresh(s, r)
            s.node[new].name, s.node[new].users, s.node[new].count = name, 1, 0
            s.table[place] = s.held[i] = new
            me.owned += 1
            emit(s, r, name, 1, now)
            if s.world[0].listed:
                list_change(s, r, STORED, name, me.number, i - first, now)
    if s.world[0].tiers:
        stored(s, r, q, at, full, now)
    if tree and full > me.chained:
        end_node(s, r, s.held[first + full - 1])
    me.chained = max(me.chained, full)


@jit
def release_cached(s, r, q, blocks, tokens):
    """Free `blocks` with `tokens`: full blocks go to the LRU list, first nameless ones, then the chain from its end."""
    me, rank = s.request[q], s.rank[r]
    full = max(tokens // s.pool[rank.pool].block_tokens, np.int64(me.owned))
    rank.nameless += blocks - full
    rank.free += blocks - me.owned
    if full > me.owned:
        last = rank.lru_last
        if last < 0 or s.node[last].users >= 0 or not s.pool[rank.pool].mixes:
            last = fresh(s, r)
            s.node[last].users, s.node[last].count = -1, 0
            push_free(s, r, last)
        s.node[last].count += full - me.owned
    first = s.offsets[q]
    for i in range(first + me.chained - 1, first - 1, -1):
        node = s.held[i]
        if node >= 0:
            s.node[node].users -= 1
            if s.node[node].users == 0:
                push_free(s, r, node)
                rank.free += 1
    me.chained, me.owned = 0, 0


@jit
def unlock(s, r, q, blocks):
    """Free `blocks` of a preempted `q` with a radix tree: the tree keeps stored blocks, and evicts them first."""
    me, rank = s.request[q], s.rank[r]
    rank.nameless += blocks - me.owned
    rank.free += blocks - me.owned
    first = s.offsets[q]
    for i in range(first, first + me.chained):
        block = s.held[i]
        node = s.node[block]
        node.users -= 1
        if node.users == 0:
            node.prev, node.next = -1, rank.lru_first
            if rank.lru_first >= 0:
                s.node[rank.lru_first].prev = block
            else:
                rank.lru_last = block
            rank.lru_first = block
            rank.free += 1
    me.chained, me.owned, me.blocks = 0, 0, 0
