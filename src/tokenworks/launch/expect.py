"""Predictions for a file of deployments that has none: the deployment is simulated under the load of bench.sh."""

from __future__ import annotations

from typing import Any

from tokenworks.launch.bench import BenchLoad
from tokenworks.simulation.run import simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.slo import PERCENTILE, Slo


def simulated(deployed: Deployed, load: BenchLoad) -> tuple[dict[str, Any], list[str]]:
    """Simulate a deployment under the load of bench.sh.

    Parameters
    ----------
    deployed : the deployment, with the numbers that it was planned with
    load : the load

    Returns
    -------
    Predictions by the names of a ranked deployment, and notes.

    Raises
    ------
    SpecError : no request of the load fits into the context of the model
    DoesNotFit : no request fits into the KV cache
    """
    slo = Slo.of(load.workload.slo)
    traffic = Source.read(None, load.workload, seed=load.seed).traffic(rate=load.rate, concurrency=load.users)
    run = simulate(deployed, traffic, slo=slo, drain=False)
    plain, spread = run.plain(), run.site.rates.spread
    expected: dict[str, Any] = {
        name: plain[name] for name in ("output_tok_s_per_device", "effective_tok_s_per_device")
    } | {"requests_s": plain["completed"] / plain["duration"] if plain["duration"] else None}
    for name in ("ttft", "tpot"):
        bound = run.bounds.get(name)
        percentile = bound.seen_s if bound else _seconds(plain[f"p{PERCENTILE:g}_{name}_ms"])
        expected |= {f"{name}_s": _seconds(plain[f"mean_{name}_ms"]), f"{name}_slo_s": percentile}
    expected = {name: value for name, value in expected.items() if value is not None}
    if "tpot_s" in expected:
        expected["interval"] = {"tpot_s": [expected["tpot_s"] / spread, expected["tpot_s"] * spread]}
    overload = f"the deployment does not carry {load.words}: its queue grows, so times depend on the number of requests"
    return expected, [] if run.stable else [overload]


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
