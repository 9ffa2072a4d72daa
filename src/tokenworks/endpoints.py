"""The commands that listen, `serve` and `record`, as Python functions. They import the packages of HTTP when called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import tokenworks
from tokenworks.api import TraceLike, source_of
from tokenworks.arguments import checked
from tokenworks.planning.asked import DeploymentLike, deployed_of
from tokenworks.serving.record_settings import RecordedCounts, RecorderSettings
from tokenworks.specs.calibration import CalibrationLike
from tokenworks.specs.deployment import RouterName
from tokenworks.specs.faults import FaultsLike
from tokenworks.specs.given import Assume
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.reliability import ReliabilityLike
from tokenworks.specs.slo import SloLike


@checked
def serve(
    deployment: DeploymentLike,
    *,
    trace: TraceLike | None = None,
    workload: WorkloadLike | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    ports: Literal["replicas", "ranks"] | None = None,
    api: Literal["openai", "sglang"] = "openai",
    api_keys: Sequence[str] = (),
    name: str = "",
    speed: float = 1.0,
    startup: float = 0.0,
    tokenizer: str | Path | None = None,
    text: Literal["filler", "echo"] = "filler",
    lengths: Literal["max", "workload", "trace"] = "max",
    slo: SloLike | None = None,
    router: RouterName | None = None,
    max_queue: int = 0,
    faults: FaultsLike | None = None,
    chaos: int | None = None,
    hazard: float | None = None,
    reliability: ReliabilityLike | None = None,
    admin_keys: Sequence[str] = (),
    kv_events: str | None = None,
    pick: int = 1,
    seed: int = 0,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
    listening: Callable[[str, int], None] | None = None,
) -> None:
    """Start an OpenAI-compatible endpoint that behaves like a deployment, in real time. It runs until Ctrl-C.

    Parameters
    ----------
    trace, workload : requests that the step times are computed for; None is the workload of the plan, else chat
    host, port : address to listen on; port 0 is any free port
    ports : give each replica, or each data-parallel rank, a port of its own, from `port` on; None: one port for all
    api : routes and names of metrics: as vLLM ("openai") or as SGLang ("sglang") has them
    api_keys : keys, one of which a client must send; empty: no key
    name : name of the model in the API; empty: the model of the deployment
    speed : seconds of the deployment's time in a real second [-]
    startup : time until the server is ready, as if weights were loaded [s]
    tokenizer : tokenizer.json; None: 4 bytes of text count as one token
    text : text of answers: filler words, or an echo of the prompt
    lengths : output lengths: max_tokens of the request, drawn from the workload, or those of the trace
    chaos : seed of random faults; `faults`, `hazard` and `reliability` as in `simulate`
    admin_keys : keys of /admin; empty: only this computer may use it
    kv_events : JSON of vLLM's --kv-events-config: publish what enters and leaves the prefix caches; None: nothing
    listening : function that gets the address and the port when the server listens

    The other parameters have the same meaning as in `simulate`.

    Raises
    ------
    SpecError : an argument is wrong, or the address is in use
    DoesNotFit : the deployment does not fit the machine
    """
    from tokenworks.serving.installed import must_be_installed

    must_be_installed("tokenworks.serve")
    from tokenworks.serving.chaos import FaultTerms
    from tokenworks.serving.kv_events import KvEventsConfig
    from tokenworks.serving.serve import prepare
    from tokenworks.serving.server import Settings, run

    if trace is None and workload is None and deployed_of(deployment).workload is None:
        workload = "chat"
    source = source_of(deployment, trace, workload, (), requests=None, limit=None, seed=seed, assume=assume)
    settings = Settings(
        version=tokenworks.__version__,
        host=host, port=port, ports=ports, api=api, keys=tuple(api_keys), name=name, speed=speed, text=text, seed=seed,
        tokenizer=None if tokenizer is None else Path(tokenizer), slo=source.slo(slo), startup_s=startup,
        faults=FaultTerms.read(faults, chaos, hazard, reliability), admin_keys=tuple(admin_keys),
        kv_events=KvEventsConfig.read(kv_events),
    )  # fmt: skip
    server = prepare(
        deployed_of(deployment, pick), source, lengths, settings, router=router, max_queue=max_queue, assume=assume,
        calibration=calibration,
    )  # fmt: skip
    run(server, listening or (lambda _host, _port: None))


@checked
def record(
    to: str,
    out: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    tokenizer: str | Path | None = None,
    block_tokens: int = 16,
    text: bool = False,
    max_body: int = 32 << 20,
    listening: Callable[[str, int], None] | None = None,
) -> RecordedCounts:
    """Record the requests that pass through to an OpenAI-compatible server, as a trace. It runs until Ctrl-C.

    Parameters
    ----------
    to : address of the server, such as http://127.0.0.1:8000
    out : the trace; the file must not exist
    host, port : address to listen on; port 0 is any free port
    tokenizer : tokenizer.json that counts the tokens of prompts; None: 4 bytes of text count as one token
    block_tokens : size of the blocks whose hashes are written [token]
    text : whether requests and answers are written as text, too
    max_body : size of a request body [byte]
    listening : function that gets the address and the port when the recorder listens

    Returns
    -------
    How many requests were recorded, and how many were not.

    Raises
    ------
    SpecError : an argument is wrong, the address is in use, or the file cannot be written
    """
    from tokenworks.serving.installed import must_be_installed

    must_be_installed("tokenworks.record")
    from tokenworks.serving.record import record as recorded

    settings = RecorderSettings(
        to=to, out=Path(out), host=host, port=port, tokenizer=None if tokenizer is None else Path(tokenizer),
        block_tokens=block_tokens, text=text, max_body=max_body,
    )  # fmt: skip
    return recorded(settings, listening or (lambda _host, _port: None))
