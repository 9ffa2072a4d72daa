"""What a device draws from its supply while it serves: idle, and a share for each roof that is in use."""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.breakdown import COMPUTE, HBM, Breakdown
from tokenworks.specs.calibration import Power, number


def roof_use(made: Breakdown) -> tuple[FloatArray, FloatArray]:
    """Shares of a step in which a device is on its compute roof and on its HBM roof [-].

    Both are in use at once in a kernel that hides one behind the other, so each is the time of that roof by itself,
    over all parts, in the time of the step: 0 .. 1 each, and 0 where the device waits for a link, the host or a launch.
    """
    seconds: dict[str, FloatArray] = {COMPUTE: 0.0, HBM: 0.0}
    for part in made.parts.values():
        for roof, spent in part.roofs.items():
            if roof in seconds:
                seconds[roof] = seconds[roof] + spent
    return np.minimum(seconds[COMPUTE] / made.seconds, 1.0), np.minimum(seconds[HBM] / made.seconds, 1.0)


def power(tdp: FloatArray, shares: Power, *, compute: FloatArray, hbm: FloatArray) -> FloatArray:
    """Mean power of a device, its memory in it, host, network and cooling not [W].

        P = TDP min(1, i + c U_c + m U_m)

    Energy goes by FLOP and by byte moved, so power goes by the share of time on each roof; firmware holds it at TDP.

    Parameters
    ----------
    tdp : limit that the device keeps to, as published [W]
    shares : i idle, c at the compute roof, m at the HBM roof, of TDP [-]
    compute, hbm : U_c, U_m: shares of all time, waiting in it, on each roof: `roof_use` x the share that is busy [-]

    References
    ----------
    [1] Choi et al., A roofline model of energy, IPDPS 2013, eq. 4 to 6: constant power, energy a FLOP and a byte.
    """
    drawn = number(shares.idle) + number(shares.compute) * compute + number(shares.hbm) * hbm
    return tdp * np.minimum(1.0, drawn)
