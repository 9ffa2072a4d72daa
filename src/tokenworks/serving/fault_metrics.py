"""Metrics of faults and of the availability, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenworks.engine.outcome import Counts
from tokenworks.simulation.faults import total_faults

if TYPE_CHECKING:
    from tokenworks.serving.driver import Driver


def fault_lines(driver: Driver, counts: Counts) -> Iterable[str]:
    """Availability of the deployment and of its cards, faults, and what requests lost.

    Parameters
    ----------
    driver : the engine on a real clock
    counts : the counters of the engine
    """
    faults = driver.faults
    if faults is None:
        return
    faults.account(min(driver.now(), faults.next_s))
    passed, devices = max(faults.accounted_s, 1e-9), sum(len(one.devices) for one in faults.states)
    serving = sum(len(one.serving) for one in faults.states)
    lost = total_faults(counts)
    kinds = Counter(effect.fault.fault.kind for effect in faults.effects if effect.begun)
    states = Counter((one.role, one.word) for one in faults.states)
    series: dict[str, tuple[str, str, dict[str, float]]] = {
        "tokenworks_available_seconds_total": (
            "counter", "Time in which each role had an instance that ran.", {"": faults.serving_s}),
        "tokenworks_availability": (
            "gauge", "Share of the time in which each role had an instance that ran.", {"": faults.serving_s / passed}),
        "tokenworks_device_availability": (
            "gauge", "Share of the time of all devices of the deployment in which they worked for requests.",
            {"": faults.device_s / (passed * devices)}),
        "tokenworks_devices": (
            "gauge", "Devices of the deployment.",
            {'state="serving"': serving, 'state="not_serving"': devices - serving}),
        "tokenworks_instances": (
            "gauge", "Instances by role and state.",
            {f'role="{role}",state="{word}"': count for (role, word), count in sorted(states.items())}),
        "tokenworks_faults_total": (
            "counter", "Parts that failed, by kind.",
            {f'kind="{kind}"': count for kind, count in sorted(kinds.items())}),
        "tokenworks_fault_requests_total": (
            "counter", "Requests that left a lost rank, and those of them that were sent again.",
            {'what="lost"': lost.lost_requests, 'what="sent_again"': lost.retries}),
        "tokenworks_fault_output_tokens_total": (
            "counter", "Output tokens that lost requests lost.", {"": lost.lost_output_tokens}),
        "tokenworks_fault_down_seconds_total": (
            "counter", "Time for which instances were stopped, summed over instances.", {"": lost.down_s}),
    }  # fmt: skip
    for name, (kind, text, values) in series.items():
        yield f"# HELP {name} {text}"
        yield f"# TYPE {name} {kind}"
        for labels, value in values.items():
            yield f"{name}{{{labels}}} {float(value)!r}" if labels else f"{name} {float(value)!r}"
