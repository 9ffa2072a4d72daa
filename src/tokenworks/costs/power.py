"""Power of a device while it serves: idle power, and a share for each roof in use."""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.breakdown import COMPUTE, HBM, Breakdown
from tokenworks.specs.calibration import Power, number


def roof_use(step: Breakdown) -> tuple[FloatArray, FloatArray]:
    """Shares of the step time in which a device uses its compute roof and its HBM roof.

    A kernel can use both roofs at the same time. So each share is the sum of this roof's time over all parts / the time
    of the step. While the device waits for a link, the host or a kernel launch, both roofs are unused.

    Parameters
    ----------
    step : cost of a step, by part

    Returns
    -------
    Share of the compute roof, and share of the HBM roof, each 0 to 1 [-, -].
    """
    seconds: dict[str, FloatArray] = {COMPUTE: 0.0, HBM: 0.0}
    for part in step.parts.values():
        for roof, spent in part.roofs.items():
            if roof in seconds:
                seconds[roof] = seconds[roof] + spent
    return np.minimum(seconds[COMPUTE] / step.seconds, 1.0), np.minimum(seconds[HBM] / step.seconds, 1.0)


def power(tdp: FloatArray, shares: Power, *, compute: FloatArray, hbm: FloatArray) -> FloatArray:
    """Mean power of a device with its memory, without host, network and cooling.

        P = TDP min(1, i + c U_c + m U_m)

    Each FLOP and each byte takes a fixed energy. So power grows with the share of time on each roof. The firmware of
    the device limits power to TDP.

    Parameters
    ----------
    tdp : published power limit of the device [W]
    shares : shares of TDP: i idle, c at the full compute roof, m at the full HBM roof [-]
    compute : U_c, share of all time, idle time included, on the compute roof: `roof_use` x busy share [-]
    hbm : U_m, share of all time, idle time included, on the HBM roof: `roof_use` x busy share [-]

    Returns
    -------
    Mean power [W].

    References
    ----------
    [1] Choi et al., A roofline model of energy, IPDPS 2013, eq. 4 to 6: constant power, energy a FLOP and a byte.
    """
    drawn = number(shares.idle) + number(shares.compute) * compute + number(shares.hbm) * hbm
    return tdp * np.minimum(1.0, drawn)
