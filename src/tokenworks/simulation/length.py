"""How many requests a run needs."""

from __future__ import annotations

import math

from tokenworks.specs.workload import Workload


def requests_for(workload: Workload, rate: float, life_s: float) -> int:
    """Placeholder until merged."""
    return max(4300, math.ceil(15 * life_s * rate))
