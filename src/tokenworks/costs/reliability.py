"""Goodput of a training run: the share of time that is left after checkpoints, failures, lost work and repairs.

Failures come at random with a constant rate (a Poisson process). Times are in seconds, rates in 1/s.
"""

from __future__ import annotations

import math


def failure_rate(devices: float, hosts: float, *, per_device: float, per_host: float) -> float:
    """Failures per second that stop a run.

    Each part that the run needs stops it: the rates add up.

    Parameters
    ----------
    devices, hosts : devices and host nodes of the run [count]
    per_device, per_host : failures of one device, and of one host node [1/s]

    Returns
    -------
    Rate of the run [1/s].
    """
    return devices * per_device + hosts * per_host


def checkpoint_bytes(parameters: float, *, weights: float, master: float, states: float) -> float:
    """Size of a checkpoint: the weights, the copy that the optimiser updates, and the states of the optimiser.

        S = P (b_weights + b_master + b_states)

    Parameters
    ----------
    parameters : weights that are trained [count]
    weights : size of a weight in the checkpoint [byte]
    master : size of an element of the optimiser's copy of the weights; 0 without a copy [byte]
    states : size of all states of the optimiser of one weight: Adam has two, 8 bytes in FP32 [byte]

    Returns
    -------
    Size [byte].

    References
    ----------
    [1] Rajbhandari et al., ZeRO, SC 2020, section 3.1 (16-bit training with Adam: K = 12 bytes a weight).
    """
    return parameters * (weights + master + states)


def young_interval(write_s: float, mtbf_s: float) -> float:
    """Time between two checkpoints that loses the least, first order.

        t = sqrt(2 C M)

    Parameters
    ----------
    write_s : time C for which a checkpoint stops the run [s]
    mtbf_s : mean time M between failures of the run [s]

    Returns
    -------
    Time of work between two checkpoints [s].

    References
    ----------
    [1] Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974.
    """
    return math.sqrt(2 * write_s * mtbf_s)


def daly_interval(write_s: float, mtbf_s: float) -> float:
    """Time between two checkpoints that loses the least, higher order.

        t = sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18 M) - C   for C < 2 M,   else M

    Parameters
    ----------
    write_s : time C for which a checkpoint stops the run [s]
    mtbf_s : mean time M between failures of the run; infinite: the run never fails [s]

    Returns
    -------
    Time of work between two checkpoints; infinite without failures [s].

    References
    ----------
    [1] Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22(3), 2006, eq. 37.
    """
    if math.isinf(mtbf_s):
        return math.inf
    if write_s >= 2 * mtbf_s:
        return mtbf_s
    half = write_s / (2 * mtbf_s)
    return young_interval(write_s, mtbf_s) * (1 + math.sqrt(half) / 3 + half / 9) - write_s


def working_share(interval_s: float, write_s: float, restart_s: float, mtbf_s: float) -> float:
    """Share of the time in which a run makes progress that it keeps.

    Work is done in pieces of length t, each followed by a checkpoint. A failure loses the piece, and a restart may fail
    itself. The expected time of a piece is M e^(R/M) (e^((t + C)/M) - 1), so the share is

        g = t / (M e^(R/M) (e^((t + C)/M) - 1))

    Parameters
    ----------
    interval_s : time t of work between two checkpoints [s]
    write_s : time C for which a checkpoint stops the run [s]
    restart_s : time R from a failure to the next step [s]
    mtbf_s : mean time M between failures of the run; infinite: the run never fails [s]

    Returns
    -------
    Share [-]; 1 without failures and checkpoints.

    References
    ----------
    [1] Daly, FGCS 22(3), 2006, eq. 13 (expected wall clock time with exponential failures).
    """
    if math.isinf(interval_s):
        return 1.0
    if math.isinf(mtbf_s):
        return interval_s / (interval_s + write_s)
    exponent = (interval_s + write_s) / mtbf_s
    if exponent + restart_s / mtbf_s > 700:  # e^700 is the end of floats
        return 0.0
    return interval_s / (mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1(exponent))


def broken_share(lost_rate: float, repair_s: float) -> float:
    """Share of the time in which at least one part is in repair.

    Lost parts come at random, and each one is in repair for a mean time D. Their number is that of an M/G/infinity
    queue, a Poisson number with the mean rate x D:

        p = 1 - e^(-rate D)

    Parameters
    ----------
    lost_rate : failures that take a part out of service [1/s]
    repair_s : mean time until a lost part is back [s]

    Returns
    -------
    Share [-].
    """
    return -math.expm1(-lost_rate * repair_s)


def waiting_share(working: float, lost_rate: float, repair_s: float) -> float:
    """Share of the time with progress, of a run that stands until a lost part is repaired.

    A run that works for the time T loses rate x T parts. It stands for D after each one:

        g' = g / (1 + rate D)

    Parameters
    ----------
    working : share of the time with progress, without repairs [-]
    lost_rate : failures that take a part out of service, while the run works [1/s]
    repair_s : mean time until a lost part is back [s]

    Returns
    -------
    Share [-].
    """
    return working / (1 + lost_rate * repair_s)


def elastic_share(working: float, rest: float, lost_rate: float, repair_s: float) -> float:
    """Progress of a run that goes on without the lost part / progress of a run that never fails.

        g' = g (1 - p + p r),   p = broken_share

    Parameters
    ----------
    working : share of the time with progress, without repairs [-]
    rest : speed of the run on the devices that are left / speed on all devices [-]
    lost_rate : failures that take a part out of service [1/s]
    repair_s : mean time until a lost part is back [s]

    Returns
    -------
    Share [-]; two parts that are in repair at once count as one.
    """
    broken = broken_share(lost_rate, repair_s)
    return working * (1 - broken + broken * rest)
