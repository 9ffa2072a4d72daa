"""The eviction policies of KV tiers in the reference engine: which block a full store gives up for a new one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict


class Eviction(ABC):
    """The blocks of one store, and the order in which they leave it.

    Parameters
    ----------
    capacity : blocks that the store can hold, at least 1 [block]
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    @abstractmethod
    def use(self, name: int) -> None:
        """The block `name`, which the store holds, is used."""

    @abstractmethod
    def insert(self, name: int, cost_s: float, /) -> int | None:
        """Add the new block `name`. Returns the block that leaves the store for it, None = the store had room.

        Parameters
        ----------
        name : hash of the block
        cost_s : time to compute the block again [s]
        """


class LruEviction(Eviction):
    """The least recently used block leaves.

    blocks : names, the least recently used first
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.blocks: OrderedDict[int, None] = OrderedDict()

    def use(self, name: int) -> None:
        """The block becomes the most recent one."""
        self.blocks.move_to_end(name)

    def insert(self, name: int, _cost_s: float, /) -> int | None:
        """The new block is the most recent one."""
        victim = self.blocks.popitem(last=False)[0] if len(self.blocks) == self.capacity else None
        self.blocks[name] = None
        return victim


class ArcEviction(Eviction):
    """Adaptive replacement cache: blocks that were used once, and blocks that were used more often, share the room.

    once, often : T1 and T2 of the paper, the least recently used block first
    once_gone, often_gone : B1 and B2 of the paper, names of blocks that have left
    target : p of the paper, the size of T1 that the policy aims at [block]

    References
    ----------
    Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003, figure 4.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.once: OrderedDict[int, None] = OrderedDict()
        self.often: OrderedDict[int, None] = OrderedDict()
        self.once_gone: OrderedDict[int, None] = OrderedDict()
        self.often_gone: OrderedDict[int, None] = OrderedDict()
        self.target = 0.0

    def use(self, name: int) -> None:
        """Case I of the paper: the block becomes the most recent one of T2."""
        self.once.pop(name, None)
        self.often.pop(name, None)
        self.often[name] = None

    def insert(self, name: int, _cost_s: float, /) -> int | None:
        """Cases II to IV of the paper."""
        victim: int | None
        if name in self.once_gone:
            step = max(len(self.often_gone) / len(self.once_gone), 1.0)
            self.target = min(self.target + step, float(self.capacity))
            victim = self.replace(from_often=False)
            del self.once_gone[name]
            self.often[name] = None
        elif name in self.often_gone:
            step = max(len(self.once_gone) / len(self.often_gone), 1.0)
            self.target = max(self.target - step, 0.0)
            victim = self.replace(from_often=True)
            del self.often_gone[name]
            self.often[name] = None
        else:
            victim = self.make_room()
            self.once[name] = None
        return victim

    def make_room(self) -> int | None:
        """Case IV: the block is new, also among the names that have left."""
        first = len(self.once) + len(self.once_gone)
        names = first + len(self.often) + len(self.often_gone)
        if first == self.capacity:
            if len(self.once) == self.capacity:
                return self.once.popitem(last=False)[0]
            self.once_gone.popitem(last=False)
            return self.replace(from_often=False)
        if names < self.capacity:
            return None
        if names == 2 * self.capacity:
            self.often_gone.popitem(last=False)
        return self.replace(from_often=False)

    def replace(self, *, from_often: bool) -> int:
        """REPLACE of the paper: a block of the full store leaves; `from_often` : the new block stands in B2."""
        size = len(self.once)
        if size and (size > self.target or (from_often and size == self.target)):
            victim = self.once.popitem(last=False)[0]
            self.once_gone[victim] = None
        else:
            victim = self.often.popitem(last=False)[0]
            self.often_gone[victim] = None
        return victim


class GreedyDualEviction(Eviction):
    """The block with the least value leaves. Value = time to compute the block again + `floor_s` at its last use.

    floor_s : value of the last block that left, L in the paper [s]
    blocks : value of each block [s], the least recently used first; costs : time to compute each block again [s]

    References
    ----------
    Cao and Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997, section 3; all blocks have the same size.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.floor_s = 0.0
        self.blocks: OrderedDict[int, float] = OrderedDict()
        self.costs: dict[int, float] = {}

    def use(self, name: int) -> None:
        """The value is set again, with the present floor."""
        self.blocks[name] = self.floor_s + self.costs[name]
        self.blocks.move_to_end(name)

    def insert(self, name: int, cost_s: float, /) -> int | None:
        """The least value leaves; among equal values the least recently used one."""
        victim = None
        if len(self.blocks) == self.capacity:
            victim = min(self.blocks, key=lambda block: self.blocks[block])
            self.floor_s = self.blocks.pop(victim)
            del self.costs[victim]
        self.costs[name] = cost_s
        self.blocks[name] = self.floor_s + cost_s
        return victim


EVICTIONS: dict[str, type[Eviction]] = {"lru": LruEviction, "arc": ArcEviction, "cost": GreedyDualEviction}
