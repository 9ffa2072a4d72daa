"""The drawing of a machine: its scale-up domains, hosts and devices, and the instances that use them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenworks.report.content import Cell, DomainDrawing, HostDrawing, Part, TextPart, TopologyPart
from tokenworks.report.figures import figure, percent
from tokenworks.report.placed import Need, Owner, placed
from tokenworks.report.strings import filled
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Machine

MOST_DRAWN = 1024
"""A domain with more devices is described in words [count]."""

MOST_GROUPS = 12
"""Most groups of equal domains that are drawn; the others are described in one line [count]."""

ROW = 8
"""Devices in a row where the hosts of the machine are not known [count]."""

Words = Mapping[str, str]


def topology(
    machine: Machine, deployment: Deployment, words: Words, loads: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Part]:
    """The drawing of a machine with a deployment on it, and a sentence on the placement.

    Parameters
    ----------
    machine : the machine of the deployment
    deployment : the roles that are placed
    words : texts of the language
    loads : role -> `busy_share` and `link_busy_share` of a simulation; None: the loads are not known
    """
    needs = [Need(role.replicas, role.parallel.devices) for role in deployment.roles]
    domains = placed(machine.domain, machine.devices, needs)
    names = [role.name for role in deployment.roles]
    roles = tuple((role.name, _role_words(role, words, (loads or {}).get(role.name))) for role in deployment.roles)
    drawings = () if domains is None else tuple(_groups(domains, names, machine, words))
    drawing = TopologyPart(domains=drawings, network=_network(machine, words), roles=roles)
    return [drawing, TextPart(words["no_placement" if domains is None else "placement"], style="note")]


def _role_words(role: Any, words: Words, load: Mapping[str, Any] | None) -> str:
    text = filled(
        words["role_words"], replicas=figure(role.replicas), split=str(role.parallel), devices=figure(role.devices)
    )
    if load is None:
        return text
    text += filled(words["busy"], share=percent(min(1.0, load["busy_share"])))
    if load["link_busy_share"]:
        text += filled(words["link_busy"], share=percent(load["link_busy_share"]))
    return text


def _network(machine: Machine, words: Words) -> str:
    if machine.scale_out is None or machine.devices <= machine.domain:
        return ""
    name = f" {machine.network}" if machine.network else ""
    return filled(words["scale_out"], name=name, bandwidth=figure(machine.scale_out.bandwidth / 1e9))


def _fabric(machine: Machine, words: Words) -> str:
    if machine.domain == 1:
        return ""
    bandwidth = machine.scale_up.bandwidth
    if not math.isfinite(bandwidth):
        return words["scale_up_open"]
    return filled(words["scale_up"], bandwidth=figure(bandwidth / 1e9))


def _groups(
    domains: Sequence[list[Owner]], names: Sequence[str], machine: Machine, words: Words
) -> list[DomainDrawing]:
    """Domains that follow each other and have the same devices of each role, drawn once."""
    groups: list[DomainDrawing] = []
    first = 1
    for _, equal in itertools.groupby(domains, key=lambda owners: _counts(owners, names)):
        together = list(equal)
        last = first + len(together) - 1
        title = filled(words["domain_one"], first=str(first))
        if last > first:
            title = filled(words["domain_many"], first=str(first), last=str(last), count=figure(len(together)))
        owners = together[0]
        drawn = len(owners) <= MOST_DRAWN and len(groups) < MOST_GROUPS
        hosts = tuple(_hosts(owners, names, machine.host.devices, words)) if drawn else ()
        groups.append(DomainDrawing(title, _fabric(machine, words), hosts, _summary(owners, names, words)))
        first = last + 1
    return groups


def _counts(owners: Sequence[Owner], names: Sequence[str]) -> tuple[tuple[str, int], ...]:
    counts = Counter("" if owner is None else names[owner[0]] for owner in owners)
    return tuple(sorted(counts.items()))


def _summary(owners: Sequence[Owner], names: Sequence[str], words: Words) -> str:
    parts = [f"{figure(count)} {name or words['idle_role']}" for name, count in _counts(owners, names)]
    return filled(words["domain_summary"], devices=figure(len(owners)), owners=", ".join(parts))


def _hosts(owners: Sequence[Owner], names: Sequence[str], size: int, words: Words) -> list[HostDrawing]:
    size = size if 1 <= size <= len(owners) else min(ROW, len(owners))
    hosts = []
    for number, start in enumerate(range(0, len(owners), size), 1):
        cells = tuple(
            Cell("", 0) if owner is None else Cell(names[owner[0]], owner[1] + 1)
            for owner in owners[start : start + size]
        )
        label = filled(words["host_label"], number=str(number), devices=_spoken(cells, words))
        hosts.append(HostDrawing(label, cells))
    return hosts


def _spoken(cells: Sequence[Cell], words: Words) -> str:
    """The devices of a host in words, such as 4 times prefill 1."""
    parts = []
    for cell, equal in itertools.groupby(cells):
        name = f"{cell.role} {cell.instance}" if cell.role else words["idle_devices"]
        parts.append(filled(words["spoken"], count=str(len(list(equal))), name=name))
    return ", ".join(parts)
