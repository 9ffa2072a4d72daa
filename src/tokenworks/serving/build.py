"""A deployment as the endpoint plays it: cluster, step times, and what clients may ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tokenworks.costs.split import KV_BYTES
from tokenworks.engine.types import Cluster, Router
from tokenworks.simulation.cluster import cluster, room
from tokenworks.simulation.layout import device_layout
from tokenworks.simulation.predictor import site_for
from tokenworks.simulation.run import EVENT_DELAY
from tokenworks.simulation.source import Source
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import CalibrationLike
from tokenworks.specs.deployment import RETRIES, Deployment, RouterName
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Assume
from tokenworks.specs.model import kv_bytes_per_token
from tokenworks.specs.workload import Workload


@dataclass(frozen=True)
class ServedDeployment:
    """What stands behind the endpoint.

    Parameters
    ----------
    deployment : the deployment
    site : model, machine, engine, rates and mean request
    cluster : pools and links of the engine
    workload : workload that the mean request comes from; None: it comes from a trace
    """

    deployment: Deployment
    site: Site
    cluster: Cluster
    workload: Workload | None

    @property
    def block_tokens(self) -> int:
        """Size of a block of the prefix cache; 0 without one [token]."""
        limits = self.cluster.pools[0].limits
        return limits.block_tokens if limits.prefix_caching else 0

    @property
    def block_bytes(self) -> float:
        """Size of a KV block over all layers [byte]."""
        token = kv_bytes_per_token(self.site.model, KV_BYTES[self.deployment.roles[0].kv_dtype])
        return token * self.cluster.pools[0].limits.block_tokens

    @property
    def max_context(self) -> int:
        """Longest input + output of a request [token]."""
        return self.site.model.max_context

    def places(self) -> list[tuple[int, int]]:
        """Of each rank of the engine: its number, instance after instance, and its number in its instance."""
        layout = device_layout(self.deployment, self.site.machine)
        own = [(instance, rank) for instance, (_, ranks, _) in enumerate(layout.instances) for rank in range(ranks)]
        by_rank = {layout.engine_rank(*one): (number, one[1]) for number, one in enumerate(own)}
        return [by_rank[rank] for rank in range(len(own))]

    def memory_bytes(self) -> list[tuple[float, float]]:
        """Of each role: memory of a device without KV blocks, and its KV blocks when all are in use [byte, byte]."""
        sizes = []
        for role in self.deployment.roles:
            own = room(role, self.site)
            sizes.append((float(np.max(own.usable - own.kv)), float(np.min(own.kv))))
        return sizes


def served(
    deployed: Deployed,
    source: Source,
    *,
    router: RouterName | None = None,
    max_queue: int = 0,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
) -> ServedDeployment:
    """Build what stands behind the endpoint.

    Parameters
    ----------
    deployed : the deployment, with the inputs of its plan
    source : trace or workload that the clients will send; step times are exact for its mean request
    router : rule that assigns requests to ranks; None: the router of the deployment, else prefix_aware
    max_queue : a rank rejects a request if this number of requests waits there; 0 = no limit [count]
    assume, calibration : as in `tokenworks.simulate`

    Raises
    ------
    SpecError : a role breaks a rule
    DoesNotFit : the deployment does not fit the machine
    """
    deployment = deployed.deployment
    site = site_for(deployed, source, assume=assume, calibration=calibration)
    aware = deployment.prefix_caching or deployment.scheduling.name == "cold_pool"
    name = router or deployment.router or ("prefix_aware" if aware else "least_loaded")
    routes = Router(name, event_delay_s=EVENT_DELAY, seed=source.seed)
    built = cluster(
        deployment, site, router=routes, block_tokens=site.engine.kv_block, prefix_caching=deployment.prefix_caching,
        max_queue=max_queue,
    )  # fmt: skip
    retries = RETRIES if deployment.retries is None else deployment.retries
    live = replace(built, window_s=0.0, on_loss=deployment.on_loss, retries=retries)
    return ServedDeployment(deployment, site, live, source.workload)
