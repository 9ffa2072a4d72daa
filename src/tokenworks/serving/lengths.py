"""Output lengths of requests: as the client asks, from a distribution, or from a recorded trace."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from tokenworks.arrays import Ints
from tokenworks.errors import SpecError
from tokenworks.specs.workload import Workload

LengthsName = Literal["max", "workload", "trace"]

DEFAULT = 256
"""Output of a request that gives no limit, if there is no workload either [token]."""


class OutputLengths:
    """Chooses the output length of each request.

    Parameters
    ----------
    name : "max": max_tokens of the request, or the mean output of the workload if the request has none; "workload":
        lognormal with the mean and the variation of the workload; "trace": the outputs of a trace, one after the other
    workload : the workload; None: a request without max_tokens gets `DEFAULT` tokens
    recorded : output lengths of the trace [token]

    Raises
    ------
    SpecError : the workload or the trace is missing
    """

    def __init__(self, name: LengthsName, *, workload: Workload | None, recorded: Ints | None) -> None:
        if name == "workload" and workload is None:
            raise SpecError("has no distribution", where="--lengths workload", hint="give --workload NAME")
        if name == "trace" and recorded is None:
            raise SpecError("has no recorded lengths", where="--lengths trace", hint="give --trace FILE")
        self.name, self._workload, self._recorded, self._next = name, workload, recorded, 0

    def of(self, most: int | None, room: int, seed: int, *, least: int = 0, whole: bool = False) -> tuple[int, bool]:
        """Output tokens of a request, and whether the model ends the answer by itself (finish reason "stop").

        Parameters
        ----------
        most : max_tokens of the request; None: not given [token]
        room : tokens that the context of the model has left [token]
        seed : random number of the request
        least : min_tokens of the request [token]
        whole : whether the answer has exactly `most` tokens (ignore_eos)
        """
        limit = min(room, most) if most is not None else room
        if whole and most is not None:
            return limit, False
        wanted = self._wanted(most, seed)
        wanted = max(wanted, least, 1)
        return (wanted, True) if wanted < limit or (wanted == limit and most is None) else (limit, False)

    def _wanted(self, most: int | None, seed: int) -> int:
        if self.name == "trace":
            assert self._recorded is not None
            self._next += 1
            return int(self._recorded[(self._next - 1) % len(self._recorded)])
        if self.name == "max" and most is not None:
            return most
        if self._workload is None:
            return DEFAULT
        if self.name == "max":
            return max(1, round(self._workload.osl))
        spread = math.log1p(self._workload.osl_cv**2)
        draw = np.random.Generator(np.random.PCG64(seed)).standard_normal()
        return max(1, round(self._workload.osl * math.exp(math.sqrt(spread) * draw - spread / 2)))
