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
        """Number of the rank for `q`, -1 if all ranks are lost."""
        ranks, router = self.ranks, self.router
        live = [i for i, rank in enumerate(ranks) if not rank.lost]
        if not live:
            return -1
        if router.name == "round_robin":
            self.turn += 1
            while ranks[(self.turn - 1) % len(ranks)].lost:
                self.turn += 1
            return (self.turn - 1) % len(ranks)
        if router.name == "power_of_two":
            one, two = live[self.random.draw() % len(live)], live[self.random.draw() % len(live)]
            return two if ranks[two].load < ranks[one].load else one
        if router.name == "least_loaded":
            return min(live, key=lambda i: (ranks[i].load, i))
        known = self.known_prefixes(q, now)
        group = self.group(q, known)
        top = (1.0 + router.imbalance) * min(ranks[i].load for i in group) + router.slack
        allowed = [i for i in group if ranks[i].load <= top]
        work = [rank.owed - known[i] + router.load_tokens * rank.load for i, rank in enumerate(ranks)]
        best = min(allowed, key=lambda i: (work[i], ranks[i].chosen, i))
        self.turn += 1
        ranks[best].chosen, q.owed = self.turn, q.goal - known[best]
        return best

    def group(self, q: Sequence, known: list[int]) -> list[int]:
        """Ranks that may take `q`: the cold ones, or all others (`types.Router`)."""
        live = [i for i, rank in enumerate(self.ranks) if not rank.lost]
        warm, cold = [i for i in live if i not in self.cold], [i for i in live if i in self.cold]
        cached = max([self.everywhere(q), *(known[i] for i in warm)])
        return (cold or warm) if self.cold and q.goal - cached > self.router.cold_tokens else (warm or cold)

    def everywhere(self, q: Sequence) -> int:
        """Tokens of the prompt of `q` that each rank can take from KV tiers that all ranks share."""
        tiers = self.ranks[0].tiers
        names = q.ids[: (q.goal - 1) // self.ranks[0].limits.block_tokens]
        return tiers.shared(names) * self.ranks[0].limits.block_tokens

    def forget(self, rank: Rank) -> None:
        """Forget what a lost rank no longer holds, also events on their way (rule 7 of `faults`)."""
        number, holds = rank.number, rank.tiers.holds
        self.emitted[:] = [event for event in self.emitted if event[1] != number or holds(number, event[2])]
        for name, holders in self.known.items():
            if not holds(number, name):
                holders.discard(number)

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
        for name in q.ids[: q.goal // block]:
            alive &= self.known.get(name, set())
            for rank in alive:
                length[rank] += block
        return length
