"""The reference engine of the router: it chooses a rank from queues and cache events only."""

from __future__ import annotations

from tokenworks.engine.reference_random import RandomStream
from tokenworks.engine.reference_rank import Rank, Sequence
from tokenworks.engine.types import Cluster


class ReferenceRouter:
    """A router in front of the ranks of the first pool.

    emitted : cache events on their way to the router, as (time, rank, hash, stored)
    known : ranks that hold each hash, as far as events have reached the router
    cold : numbers of the ranks for cold prompts
    """

    def __init__(self, cluster: Cluster, ranks: list[Rank], emitted: list[tuple[float, int, int, bool]]) -> None:
        router = cluster.router
        self.router, self.ranks, self.emitted = router, ranks, emitted
        self.cold = {number for number, cold in enumerate(cluster.is_cold().tolist()) if cold}
        self.turn, self.random = 0, RandomStream(router.seed)
        self.known: dict[int, set[int]] = {}

    def choose(self, q: Sequence, now: float) -> int:
        """Number of the rank for `q`."""
        ranks, router = self.ranks, self.router
        if router.name == "round_robin":
            self.turn += 1
            return (self.turn - 1) % len(ranks)
        if router.name == "power_of_two":
            one, two = self.random.draw() % len(ranks), self.random.draw() % len(ranks)
            return two if ranks[two].load < ranks[one].load else one
        if router.name == "least_loaded":
            return min(range(len(ranks)), key=lambda i: (ranks[i].load, i))
        known = self.known_prefixes(q, now)
        group = self.group(q, known)
        top = (1.0 + router.imbalance) * min(ranks[i].load for i in group) + router.slack
        allowed = [i for i in group if ranks[i].load <= top]
        work = [rank.owed - known[i] + router.load_tokens * rank.load for i, rank in enumerate(ranks)]
        best = min(allowed, key=lambda i: (work[i], ranks[i].chosen, i))
        self.turn += 1
        ranks[best].chosen, q.owed = self.turn, q.input - known[best]
        return best

    def group(self, q: Sequence, known: list[int]) -> list[int]:
        """Ranks that may take `q`: the cold ones, or all others (`types.Router`)."""
        warm = [i for i in range(len(self.ranks)) if i not in self.cold]
        cached = max([self.everywhere(q), *(known[i] for i in warm)])
        return sorted(self.cold) if self.cold and q.input - cached > self.router.cold_tokens else warm

    def everywhere(self, q: Sequence) -> int:
        """Tokens of the prompt of `q` that each rank can take from KV tiers that all ranks share."""
        tiers = self.ranks[0].tiers
        names = q.ids[: (q.input - 1) // self.ranks[0].limits.block_tokens]
        return tiers.shared(names) * self.ranks[0].limits.block_tokens

    def known_prefixes(self, q: Sequence, now: float) -> list[int]:
        """Tokens of the prompt of `q` that each rank has cached, as far as events have reached the router."""
        count = 0
        for time, rank, name, stored in self.emitted:
            if time + self.router.event_delay_s > now:
                break
            count += 1
            holders = self.known.setdefault(name, set())
            (holders.add if stored else holders.discard)(rank)
        del self.emitted[:count]
        length = [0] * len(self.ranks)
        alive = set(range(len(length)))
        block = self.ranks[0].limits.block_tokens
        for name in q.ids[: q.input // block]:
            alive &= self.known.get(name, set())
            for rank in alive:
                length[rank] += block
        return length
