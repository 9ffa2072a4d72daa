"""Ports of the endpoint: one for all replicas, or one for each replica or each data-parallel rank, for routers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenworks.errors import SpecError
from tokenworks.serving.build import ServedDeployment
from tokenworks.serving.http import HttpError

PortsName = Literal["replicas", "ranks"]
RANK_HEADER = "x-data-parallel-rank"
"""Header that chooses a data-parallel rank, as vLLM reads it."""
OPTION = "--ports"


@dataclass(frozen=True)
class Door:
    """What stands behind one port.

    Parameters
    ----------
    number : number of the port, from 0
    pin : where its requests go: 0 any rank; 1 + r: rank r; -1 - k: the ranks of instance k
    ranks : ranks that take its requests, instance after instance
    shown : ranks in its metrics
    instances : its instances of the first role
    alone : whether the server has this port only
    """

    number: int
    pin: int
    ranks: tuple[int, ...]
    shown: tuple[int, ...]
    instances: tuple[int, ...]
    alone: bool = False

    def pin_of(self, header: str | None) -> int:
        """Where a request goes.

        Parameters
        ----------
        header : value of `RANK_HEADER`; None: the request has none

        Raises
        ------
        HttpError : the value is no rank of this port
        """
        if header is None:
            return self.pin
        if not header.isdecimal() or int(header[:9]) >= len(self.ranks):
            raise HttpError(
                400, f"{RANK_HEADER}: {header[:20]!r} is no rank of this port; it has 0 to {len(self.ranks) - 1}",
                param=RANK_HEADER,
            )  # fmt: skip
        return 1 + self.ranks[int(header)]


def doors(served: ServedDeployment, by: PortsName | None) -> tuple[Door, ...]:
    """What stands behind each port.

    Parameters
    ----------
    served : the deployment
    by : what has a port of its own; None: there is one port for all

    Raises
    ------
    SpecError : prefill and decode stand apart
    """
    first, places = served.cluster.pools[0], served.places()
    count = first.instances * first.ranks
    order = tuple(sorted(range(count), key=lambda rank: places[rank][0]))
    if by is None:
        return (Door(0, 0, order, tuple(range(len(places))), tuple(range(first.instances)), alone=True),)
    if len(served.cluster.pools) > 1:
        raise SpecError("prefill and decode stand apart", where=OPTION,
                        hint="leave it out: one port takes requests for both roles")  # fmt: skip
    if by == "ranks":
        return tuple(
            Door(number, 1 + rank, (rank,), (rank,), (number // first.ranks,)) for number, rank in enumerate(order)
        )
    own = [order[k * first.ranks : (k + 1) * first.ranks] for k in range(first.instances)]
    return tuple(Door(k, -1 - k, ranks, ranks, (k,)) for k, ranks in enumerate(own))
