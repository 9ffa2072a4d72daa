"""Availability of parts and machines, and goodput of a training run: what failures and repairs leave of the time.

Failures come at random with a constant rate (a Poisson process). Times are in seconds, rates in 1/s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

YEAR_S = 365 * 24 * 3600.0
"""A year [s]."""


def availability(mtbf_s: float, mttr_s: float) -> float:
    """Share of the time in which a part works.

        A = MTBF / (MTBF + MTTR)

    Parameters
    ----------
    mtbf_s : mean time of work between two failures; infinite: the part never fails [s]
    mttr_s : mean time until a failed part works again [s]

    Returns
    -------
    Share [-].

    References
    ----------
    [1] Barlow and Proschan, Mathematical Theory of Reliability, 1965, section 5.2 (alternating renewal process).
    """
    return 1.0 if math.isinf(mtbf_s) else mtbf_s / (mtbf_s + mttr_s)


def series(availabilities: Iterable[float]) -> float:
    """Share of the time in which all parts work, for parts that fail and are repaired independently.

        A = A_1 A_2 ... A_n

    Parameters
    ----------
    availabilities : availability of each part [-]
    """
    return math.prod(availabilities)


def k_of_n(k: int, n: int, available: float) -> float:
    """Share of the time in which at least k of n equal parts work.

        A = sum over i = k..n of C(n, i) a^i (1 - a)^(n - i)

    Parameters
    ----------
    k : parts that are needed [count]
    n : parts [count]
    available : availability of one part [-]
    """
    return math.fsum(math.comb(n, i) * available**i * (1 - available) ** (n - i) for i in range(max(k, 0), n + 1))


def down_states(parts: int, failure_rate: float, repair_s: float, crews: int | None = None) -> list[float]:
    """Share of the time in which 0, 1, ... n of n equal parts are down.

    A birth-death process. A working part fails at the rate l, spare or not. Each of c crews repairs one part at a time.
    With j parts down, failures come at the rate (n - j) l, and repairs end at the rate min(j, c) / D:

        p_(j + 1) / p_j = (n - j) l D / min(j + 1, c)

    Parameters
    ----------
    parts : number n of parts, spare ones among them [count]
    failure_rate : rate l of one part [1/s]
    repair_s : mean repair time D [s]
    crews : number c of crews; None: each repair begins at once [count]

    References
    ----------
    [1] Trivedi, Probability and Statistics with Reliability, Queueing and Computer Science Applications, 2nd ed., 2002,
        section 8.2 (machine repairman model).
    """
    weights = [1.0]
    for down in range(parts):
        busy = down + 1 if crews is None else min(down + 1, crews)
        weights.append(weights[-1] * (parts - down) * failure_rate * repair_s / busy)
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def with_spares(needed: int, spares: int, failure_rate: float, repair_s: float, crews: int | None = None) -> float:
    """Share of the time in which enough of the parts work: at most `spares` of `needed + spares` parts are down.

    Parameters
    ----------
    needed : parts in use [count]
    spares : further parts [count]
    failure_rate : failures of one part [1/s]
    repair_s : mean repair time [s]
    crews : repairs at the same time; None: no limit [count]
    """
    return min(1.0, math.fsum(down_states(needed + spares, failure_rate, repair_s, crews)[: spares + 1]))


def downtime_s(available: float) -> float:
    """Time of a year without service [s].

    Parameters
    ----------
    available : availability [-]
    """
    return (1 - available) * YEAR_S


def mttr_for(promise: float, failures_rate: float) -> float:
    """Longest mean time without service after a failure that keeps a promised availability [s].

        A = 1 / (1 + l D), so D = (1 - A) / (A l)

    Parameters
    ----------
    promise : promised availability A, above 0 [-]
    failures_rate : failures l that stop the service, while it works [1/s]

    Returns
    -------
    Time D; infinite if nothing fails [s].
    """
    return math.inf if failures_rate == 0 else (1 - promise) / (promise * failures_rate)


def bad_node_factors(bad_hosts: float, bad_share: float) -> tuple[float, float]:
    """Failure rate of good hosts and of bad hosts / mean failure rate.

    A share f of the hosts has a share s of all failures. The mean rate stays the same:

        good = (1 - s) / (1 - f),  bad = s / f

    Parameters
    ----------
    bad_hosts : share f of the hosts, above 0 and below 1 [-]
    bad_share : share s of the failures [-]
    """
    return (1 - bad_share) / (1 - bad_hosts), bad_share / bad_hosts


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
