"""Prepare the endpoint of a deployment: check the settings, build the cluster, choose output lengths."""

from __future__ import annotations

import math

from tokenworks.errors import SpecError
from tokenworks.serving.build import served
from tokenworks.serving.lengths import LengthsName, OutputLengths
from tokenworks.serving.server import Server, Settings
from tokenworks.simulation.source import Source
from tokenworks.specs.calibration import CalibrationLike
from tokenworks.specs.deployment import RouterName
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Assume
from tokenworks.specs.trace import Trace

MOST_SPEED = 1e4


def prepare(
    deployed: Deployed,
    source: Source,
    lengths: LengthsName,
    settings: Settings,
    *,
    router: RouterName | None = None,
    max_queue: int = 0,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
) -> Server:
    """The endpoint of a deployment, ready to run.

    Parameters
    ----------
    deployed : the deployment, with the inputs of its plan
    source : trace or workload that the step times are computed for
    lengths : how output lengths are chosen
    settings : how the endpoint behaves
    router, max_queue, assume, calibration : as in `build.served`

    Raises
    ------
    SpecError : a setting is out of range, or httptools is not installed
    DoesNotFit : the deployment does not fit the machine
    """
    _check(settings, max_queue)
    trace = source.of if isinstance(source.of, Trace) else None
    chosen = OutputLengths(lengths, workload=source.workload, recorded=None if trace is None else trace.output_tokens)
    behind = served(deployed, source, router=router, max_queue=max_queue, assume=assume, calibration=calibration)
    return Server(behind, chosen, settings)


def _check(settings: Settings, max_queue: int) -> None:
    ranges: list[tuple[str, float, float, float]] = [
        ("--port", settings.port, 0, 65535), ("--speed", settings.speed, 1e-3, MOST_SPEED),
        ("--startup", settings.startup_s, 0, 86400), ("--drain", settings.drain_s, 0, 86400),
        ("--max-queue", max_queue, 0, 10**9), ("--max-requests", settings.max_requests, 1, 10**6),
        ("--max-connections", settings.limits.connections, 1, 10**6), ("--max-body", settings.limits.body, 1, 1 << 30),
        ("--usd-per-device-hour", settings.usd_per_device_hour or 0, 0, 1e6),
    ]  # fmt: skip
    for where, value, least, most in ranges:
        if not (math.isfinite(value) and least <= value <= most):
            raise SpecError(f"{value:g} is out of range", where=where, hint=f"give {least:g} to {most:g}")
    for option, keys in (("--api-key", settings.keys), ("--admin-key", settings.admin_keys)):
        if any(not key.strip() for key in keys):
            raise SpecError("is empty", where=option, hint="leave it out, or give a key")
