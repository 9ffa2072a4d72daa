"""Failures, as the engine sees them: instances stop, ranks are lost and come back, and steps change their cost.

The engine knows no cards, rates or repairs. The layer above turns them into events from outside (`outside.KINDS`,
`simulator.Simulator.at`). An instance is named by its number in all pools, pool after pool. A rank is named by its
number in its pool plus the ranks of earlier pools. The reference (`reference_faults`) and the kernel (`kernel.faults`)
follow the same rules:

1. *Stop*. `stop` ends the step in flight of an instance: it gives no tokens, and its time counts as busy time. No step
   begins until `start`. Nobody has noticed yet, so requests stay, the router sends new ones, and KV transfers and loads
   go on. A request that is cancelled while it runs leaves at the end of its next step. A second `stop` changes nothing.
2. *Start*. The instance goes on. A step that was lost begins again with the same requests, chunks and blocks; its time
   is computed anew, with the present cost. `start` of an instance that has not stopped changes nothing.
3. *Pause*. The step in flight ends as planned, and the next step begins `value` seconds after that end. The pause of an
   idle instance begins now. Pauses add up. While an instance is paused, its scheduler looks for no requests. A stopped
   instance ignores a pause.
4. *Cost*. Steps that begin from now on have the cost `Pool.variants[value - 1]`, or `Pool.cost` if `value` is 0.
5. *Loss*. `lose` says that the cluster has noticed the loss of a rank. If the instance has not stopped, its step in
   flight is lost, and begins again at once without the requests of the rank. All requests of the rank leave it at
   once: those that wait in its queue, or for a prefetch, a load or a KV transfer, and those that run. Requests whose KV
   the rank holds for a decode rank leave the decode rank. A prefill rank frees the KV of requests that leave a decode
   rank. Flows that were booked keep their links busy.
6. *Requests of a lost rank*. With `on_loss="fail"` they end with the status FAILED. With "restart" the router sends
   them to another rank at the same time, and they begin anew: the client gets a first token again. With "migrate" they
   keep their output tokens: the new rank computes their prompt and these tokens again, and goes on, as after a
   preemption (NVIDIA Dynamo: request migration). A request that was lost more than `retries` times fails. So does a
   migrated request whose prompt and tokens exceed the KV cache of a prefill rank. A request that was cancelled, or
   whose blocks could not be read from a KV tier, ends as such. Lost requests are sent again in the order of submission,
   after all events from outside at that time. They need no slot of the client and no time of the front end. Hits count
   at the first admission only.
7. *Cache*. The HBM of a lost rank is empty. A store of a KV tier is emptied when all ranks that use it are lost, if
   they belong to one instance, unless it survives (`tiers.Store.survives`). Blocks that are lost count as no evictions
   and are written nowhere. The router forgets at once what the rank no longer holds.
8. *Router*. It sends no request to a lost rank. round_robin passes over it; power_of_two draws among the other ranks;
   prefix_aware takes the other group (cold ranks, all others) if all ranks of a group are lost. If no rank is left, the
   request is REJECTED. The same holds for a finished prefill, if no decode rank is left.
9. *Return*. After `back` the router sends requests to the rank again. Its instance may still be stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LossName = Literal["fail", "restart", "migrate"]


@dataclass(frozen=True)
class FaultCounts:
    """Counters of failures in one pool. All are zero without events from outside.

    lost_steps : steps that were in flight when their instance stopped or lost a rank
    lost_requests : requests that left a lost rank; a request that was lost twice counts twice
    retries : lost requests that the router sent again
    lost_output_tokens : output tokens of lost requests that failed, began anew, or found no decode rank [token]
    lost_kv_tokens : tokens in the KV cache of lost requests [token]
    down_s : time for which instances were stopped, summed over instances [s]
    """

    lost_steps: int = 0
    lost_requests: int = 0
    retries: int = 0
    lost_output_tokens: int = 0
    lost_kv_tokens: int = 0
    down_s: float = 0.0

    def since(self, earlier: FaultCounts) -> FaultCounts:
        """Counters since an earlier time."""
        return FaultCounts(**{name: value - vars(earlier)[name] for name, value in vars(self).items()})
