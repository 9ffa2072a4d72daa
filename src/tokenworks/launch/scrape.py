"""`prometheus.yml`: which hosts and ports show metrics, and which figures they should show."""

from __future__ import annotations

import json

from tokenworks.launch.commands import ROUTER_METRICS, Launch
from tokenworks.launch.figures import Figure
from tokenworks.launch.layout import instances

INTERVAL = "5s"


def scrape_config(launch: Launch, figures: tuple[Figure, ...]) -> str:
    """The text of a configuration of Prometheus.

    Parameters
    ----------
    launch : the launch
    figures : figures that the metrics should show
    """
    lines = ["# Prometheus: run `prometheus --config.file=prometheus.yml`.", "#"]
    for figure in figures:
        if "(" in figure.read:
            lines += [f"# {figure.title}: {figure.text}", f"#   {figure.read}"]
    lines += [
        "global:",
        f"  scrape_interval: {INTERVAL}",
        "scrape_configs:",
        "  - job_name: engine",
        "    static_configs:",
    ]
    for role in launch.deployment.roles:
        for instance in instances(launch.layout, role.name):
            seat = launch.layout.first(role.name, instance)
            target = f"{launch.hosts[seat.host]}:{launch.port_of(seat)}"
            labels = {"role": role.name, "replica": str(instance)}
            lines += [f"      - targets: [{json.dumps(target)}]", f"        labels: {json.dumps(labels)}"]
    if launch.commands[-1].role == "router":
        target = f"{launch.hosts[0]}:{ROUTER_METRICS}"
        lines += ["  - job_name: router", "    static_configs:", f"      - targets: [{json.dumps(target)}]"]
    return "\n".join(lines) + "\n"
