"""Settings that the tests of this room share, cached: models and machines of the catalog."""

import functools

from tokenworks.costs.rates import rates
from tokenworks.legal.points import Setting
from tokenworks.planning.costing import Costing, OfferedLoad
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import EngineName, Parallel, Role
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload

R1 = "deepseek-ai/DeepSeek-R1"
SMALL_MOE = "Qwen/Qwen3-30B-A3B"
DENSE = "Qwen/Qwen3-32B"

PLAIN = Workload(name="plain", isl=4000, osl=1000)
SESSIONS = Workload(name="sessions", isl=20000, osl=500, hit_share=0.9, reused_context=18000, think_time=30)


@functools.cache
def setting(model: str, on: str, engine: EngineName = "vllm", workload: Workload = PLAIN) -> Setting:
    return Setting(load_model(model), machine(on), load_engine(engine), workload)


def costing(
    model: str,
    on: str,
    slo: str = "ttft=2s,tpot=50ms",
    *,
    engine: EngineName = "vllm",
    workload: Workload = PLAIN,
    load: OfferedLoad | None = None,
) -> Costing:
    made = setting(model, on, engine, workload)
    return Costing(made, rates(made.machine, load_calibration()), Slo.parse(slo), load)


def role(max_sequences: int = 1, chunk_tokens: int = 8192, **widths: int | str) -> Role:
    names = Parallel.model_fields
    parallel = Parallel.model_validate({name: width for name, width in widths.items() if name in names})
    rest = {name: value for name, value in widths.items() if name not in names}
    return Role.model_validate(
        {"name": "aggregated", "parallel": parallel, "max_sequences": max_sequences, "chunk_tokens": chunk_tokens}
        | rest
    )
