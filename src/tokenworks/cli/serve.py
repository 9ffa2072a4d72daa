"""`tokenworks serve`: an OpenAI-compatible endpoint that behaves like a deployment, in real time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

import tokenworks
from tokenworks.cli.options import DEPLOYMENTS, REQUESTS, DeployedOptions
from tokenworks.cli.output import notes
from tokenworks.cli.progress import compile_once, note_mended
from tokenworks.errors import SpecError

if TYPE_CHECKING:
    from tokenworks.serving.http import HttpLimits
    from tokenworks.serving.server import Server
    from tokenworks.simulation.source import Source
    from tokenworks.specs.deployment_file import Deployed

ENDPOINT = Group("Endpoint", sort_key=1)
FAULTS = Group("Faults", sort_key=3)
BOUNDS = Group("Bounds", sort_key=4)
KEY = "TOKENWORKS_API_KEY"
"""Environment variable with an API key, which the list of processes does not show."""
ADMIN_KEY = "TOKENWORKS_ADMIN_KEY"
"""Environment variable with an admin key."""
FALLBACK = "chat"
"""Workload of the mean request if the deployment file names none."""


@Parameter(name="*", group=BOUNDS)
@dataclass(frozen=True, kw_only=True)
class BoundOptions:
    """Bounds of what clients may do.

    Parameters
    ----------
    max_queue
        Reject a request with 503 if MAX_QUEUE requests already wait at its rank; 0 rejects none.
    max_requests
        Requests in flight; the next one gets 429.
    max_connections
        Connections at the same time; the next one gets 503.
    max_body
        Size of a request body [byte]; a longer one gets 413.
    drain
        Most time that requests in flight get when the server stops [s].
    """

    max_queue: int = 0
    max_requests: int = 16384
    max_connections: int = 8192
    max_body: int = 32 << 20
    drain: float = 30.0

    def limits(self) -> HttpLimits:
        """The bounds of connections and bodies."""
        from tokenworks.serving.http import HttpLimits

        return HttpLimits(connections=self.max_connections, body=self.max_body)


@Parameter(name="*", group=FAULTS)
@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """Faults of the simulated machine.

    Parameters
    ----------
    faults
        Schedule of faults from the start on: a YAML file, as for `simulate`. POST /admin/faults adds faults later.
    chaos
        Seed of random faults, by the failure rates of the parts.
    hazard
        With --chaos: all failure rates are multiplied by HAZARD, 1 by default.
    reliability
        Failure rates and times of the recovery: name in the catalog or YAML file; `published` by default.
    admin_key
        Key for /admin; the environment variable TOKENWORKS_ADMIN_KEY adds one. Without a key, only this computer may
        use /admin. May be repeated.
    """

    faults: Path | None = None
    chaos: int | None = None
    hazard: float | None = None
    reliability: str | None = None
    admin_key: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()

    def keys(self) -> tuple[str, ...]:
        """All admin keys."""
        return (*self.admin_key, *filter(None, [os.environ.get(ADMIN_KEY)]))


def serve(
    deployment: Annotated[Path, DEPLOYMENTS],
    /,
    *,
    host: Annotated[str, Parameter(group=ENDPOINT)] = "127.0.0.1",
    port: Annotated[int, Parameter(group=ENDPOINT)] = 8000,
    ports: Annotated[Literal["replicas", "ranks"] | None, Parameter(group=ENDPOINT)] = None,
    api: Annotated[Literal["openai", "sglang"], Parameter(group=ENDPOINT)] = "openai",
    api_key: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, group=ENDPOINT)] = (),
    served_model_name: Annotated[str | None, Parameter(group=ENDPOINT)] = None,
    speed: Annotated[float, Parameter(group=ENDPOINT)] = 1.0,
    kv_events_config: Annotated[str | None, Parameter(group=ENDPOINT)] = None,
    startup: Annotated[float, Parameter(group=ENDPOINT)] = 0.0,
    tokenizer: Annotated[Path | None, Parameter(group=REQUESTS)] = None,
    text: Annotated[Literal["filler", "echo"], Parameter(group=REQUESTS)] = "filler",
    lengths: Annotated[Literal["max", "workload", "trace"], Parameter(group=REQUESTS)] = "max",
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    trace: Annotated[Path | None, Parameter(group=REQUESTS)] = None,
    seed: Annotated[int, Parameter(group=REQUESTS)] = 0,
    slo: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    usd_per_device_hour: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    deployed: DeployedOptions = DeployedOptions(),  # noqa: B008 - frozen
    failing: ChaosOptions = ChaosOptions(),
    bounds: BoundOptions = BoundOptions(),
) -> None:
    """Start an OpenAI-compatible endpoint that behaves like a deployment, in real time.

    Parameters
    ----------
    host
        Address to listen on. The default takes connections from this computer only.
    port
        Port to listen on; 0 takes any free port. The address is printed.
    ports
        Give each replica, or each data-parallel rank, a port of its own, from --port on, for a router in front.
    api
        Routes and names of metrics: openai as vLLM has them, sglang as SGLang has them.
    api_key
        Key that clients must send; the environment variable TOKENWORKS_API_KEY adds one. May be repeated.
    served_model_name
        Name of the model in the API; by default the model of the deployment.
    speed
        Seconds of the deployment's time in a real second: 10 is ten times as fast.
    kv_events_config
        Publish what enters and leaves the prefix caches over ZMQ: JSON as vLLM takes it, such as
        '{"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}'.
    startup
        Time until the server is ready, as if weights were loaded [s].
    tokenizer
        Count tokens with this tokenizer.json; by default 4 bytes of text count as one token.
    text
        Text of answers: filler words, or an echo of the prompt.
    lengths
        Output lengths: max is the max_tokens of the request, workload draws them, trace repeats those of --trace.
    workload
        Requests that the step times are computed for: a workload of the catalog, or a YAML file; by default the
        workload of the file, else chat.
    trace
        Recorded requests that the step times are computed for, instead of --workload.
    seed
        Random seed of texts, lengths and the router power_of_two.
    slo
        Bounds of each request for the metrics of effective tokens, such as ttft=2s,tpot=50ms; by default the SLO of the
        workload.
    usd_per_device_hour
        Price of a device [USD/h], for the metric of the cost so far.
    """
    from tokenworks.serving.installed import must_be_installed

    must_be_installed("serve")
    from tokenworks.serving.chaos import FaultTerms
    from tokenworks.serving.kv_events import KvEventsConfig
    from tokenworks.serving.serve import prepare
    from tokenworks.serving.server import Settings

    chosen = deployed.read(deployment)
    keys = (*api_key, *filter(None, [os.environ.get(KEY)]))
    source = _source(chosen, workload, trace, seed)
    settings = Settings(
        version=tokenworks.__version__,
        host=host, port=port, ports=ports, api=api, keys=keys, name=served_model_name or "", speed=speed, text=text,
        tokenizer=tokenizer, seed=seed, slo=source.slo(slo), usd_per_device_hour=usd_per_device_hour,
        admin_keys=failing.keys(), kv_events=KvEventsConfig.read(kv_events_config),
        faults=FaultTerms.read(failing.faults, failing.chaos, failing.hazard, failing.reliability),
        startup_s=startup, drain_s=bounds.drain, max_requests=bounds.max_requests, limits=bounds.limits(),
    )  # fmt: skip
    compile_once()
    _run(prepare(chosen, source, lengths, settings, router=deployed.router, max_queue=bounds.max_queue))


def _run(server: Server) -> None:
    """Serve until Ctrl-C, and say where."""
    from tokenworks.serving.server import run

    host = server.settings.host
    if not server.settings.keys and host not in {"127.0.0.1", "::1", "localhost"}:
        notes().paragraph(f"note: {host} may be open to other computers; --api-key lets only your clients in")
    run(
        server,
        lambda where, _: notes().paragraph(f"{server.model} on {_addresses(where, server.ports)}, Ctrl-C stops it"),
    )


def _addresses(where: str, ports: list[int]) -> str:
    """The addresses of all ports, for a message; a row of ports is shortened."""
    if len(ports) > 2 and ports == list(range(ports[0], ports[0] + len(ports))):
        return f"http://{where}:{ports[0]} to {ports[-1]}"
    return " ".join(f"http://{where}:{port}" for port in ports)


def _source(chosen: Deployed, workload: str | None, trace: Path | None, seed: int) -> Source:
    """The requests that step times are computed for: those of the trace, else of the workload."""
    from tokenworks import ingest
    from tokenworks.simulation.source import Source

    if trace is not None:
        recorded = ingest.load_trace(trace)
        note_mended(recorded)
        if workload is not None:
            raise SpecError("--workload and --trace", hint="give one of them")
        return Source.read(recorded, None, seed=seed, file=str(trace), assume=chosen.given)
    given = workload if workload is not None else chosen.workload or FALLBACK
    return Source.read(None, given, seed=seed, file=None, assume=chosen.given)
