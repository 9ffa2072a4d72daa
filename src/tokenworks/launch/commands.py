"""A deployment becomes launch commands: one for each node of each instance, and one for the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tokenworks.errors import SpecError
from tokenworks.launch import sglang, vllm
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import Dialect, DialectEngine
from tokenworks.launch.fabric import NO_GRAPHS, dispatch_of, environment_of, visible_devices
from tokenworks.launch.layout import Layout, Seat, instances, layout_of
from tokenworks.launch.router import PROGRAMS, Backends, router_arguments
from tokenworks.launch.settle import failure_notes, inside_engine, needs_router, ranks_of, settled
from tokenworks.launch.table import write
from tokenworks.launch.target import LaunchTarget
from tokenworks.launch.tiers import IO, tier_notes
from tokenworks.launch.words import Writer
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Deployment, Role, RoleName

SERVERS: dict[DialectEngine, tuple[str, ...]] = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python3", "-m", "sglang.launch_server"),
}
"""Engine -> program of its server."""
PORTS: dict[DialectEngine, int] = {"vllm": 8000, "sglang": 30000}
"""Engine -> port of the API server of the first instance on a host."""
ROUTER_PORT, ROUTER_METRICS = 8080, 29000
BOOTSTRAP, GROUP, RANKS, SIDE = 8998, 20000, 13345, 5600
"""First ports of a host: transfer of the KV cache (SGLang), process groups, data-parallel ranks (vLLM), NIXL (vLLM)."""
APART = 100
"""Distance between the ports of two seats of one host, where an engine uses several ports from the first one on."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Launch:
    """The launch of a deployment.

    Parameters
    ----------
    deployment : the deployment as the dialect runs it
    dialect : version of the engine
    commands : commands of the engines, in the order of roles, instances and nodes; then the router
    hosts : name of each host that is used
    layout : devices of each command
    entry : URL that clients send requests to
    served : name of the model in requests
    notes : what a reader must know
    """

    deployment: Deployment
    dialect: Dialect
    commands: tuple[Command, ...]
    hosts: tuple[str, ...]
    layout: Layout
    entry: str
    served: str
    notes: tuple[str, ...]

    def port_of(self, seat: Seat) -> int:
        """Port of the API server of an instance.

        Parameters
        ----------
        seat : first node of the instance
        """
        return PORTS[self.dialect.engine] + seat.place

    def host_of(self, command: Command) -> str:
        """The host that a command runs on."""
        if command.role == "router":
            return self.hosts[0]
        seat = next(p for p in self.layout.seats if (p.role, p.instance, p.node) == _place(command))
        return self.hosts[seat.host]


def _place(command: Command) -> tuple[str, int, int]:
    return command.role, command.instance, command.node


@dataclass(frozen=True, slots=True)
class LaunchNames:
    """LaunchNames that a launch writes into commands.

    Parameters
    ----------
    weights : model as the engine loads it: a folder, or an id of the Hugging Face hub
    served : name of the model in requests
    hosts : names or addresses of the hosts; empty: node-0, node-1, ...
    """

    weights: str
    served: str
    hosts: Sequence[str] = ()


def launch_of(
    deployment: Deployment, target: LaunchTarget, dialect: Dialect, names: LaunchNames, *,
    shares_prefixes: bool = False, kv_bytes: Mapping[str, float] | None = None,
) -> Launch:  # fmt: skip
    """The launch commands of a deployment.

    Parameters
    ----------
    deployment : the deployment
    target : model, machine and engine
    dialect : version of the engine
    names : names of the model and of the hosts
    shares_prefixes : whether requests share prefixes
    kv_bytes : role -> memory of one device for its KV cache, for engines that ask for it [byte]

    Raises
    ------
    SpecError : the engine cannot run the deployment, or there are fewer names of hosts than hosts
    """
    deployment, notes = settled(deployment, target, dialect, shares_prefixes=shares_prefixes)
    per_host = deployment.devices_per_host or target.machine.host.devices
    layout = layout_of(deployment, per_host, -(-target.machine.devices // per_host))
    hosts = _hosts(names.hosts, layout.hosts)
    builder = _Builder(deployment, target, dialect, names, layout, hosts, dict(kv_bytes or {}))
    commands = [
        builder.server(role, seat) for role in deployment.roles for seat in layout.seats if seat.role == role.name
    ]
    router = builder.router()
    notes += [*builder.notes, *tier_notes(deployment, dialect), *failure_notes(deployment, dialect)]
    entry = builder.url(layout.first(deployment.roles[0].name, 0))
    if router is not None:
        commands.append(router)
        entry = f"http://{hosts[0]}:{ROUTER_PORT}"
    return Launch(deployment, dialect, tuple(commands), hosts, layout, entry, names.served, tuple(dict.fromkeys(notes)))


def _hosts(given: Sequence[str], count: int) -> tuple[str, ...]:
    """LaunchNames of the hosts that are used."""
    if given and len(given) < count:
        names = ", ".join(given)
        raise SpecError(f"{len(given)} names ({names}), {count} hosts", where="--hosts", hint=f"name {count} hosts")
    if given:
        return tuple(given[:count])
    return (LOOPBACK,) if count == 1 else tuple(f"node-{number}" for number in range(count))


@dataclass(slots=True)
class _Builder:
    """Builds the commands of one deployment."""

    deployment: Deployment
    target: LaunchTarget
    dialect: Dialect
    names: LaunchNames
    layout: Layout
    hosts: tuple[str, ...]
    kv_bytes: Mapping[str, float]
    notes: list[str] = field(default_factory=list)

    @property
    def family(self) -> str:
        """Family of the devices."""
        return self.target.machine.family

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode are separate."""
        return len(self.deployment.roles) > 1

    def url(self, seat: Seat) -> str:
        """URL of the API server of an instance."""
        return f"http://{self.hosts[seat.host]}:{self.port(seat)}"

    def port(self, seat: Seat) -> int:
        """Port of the API server of an instance, as `Launch.port_of`."""
        return PORTS[self.dialect.engine] + seat.place

    def server(self, role: Role, seat: Seat) -> Command:
        """The command of one node of an instance."""
        nodes = self.layout.nodes(role.name)
        elastic = self.deployment.elastic_ep and role.can_shrink
        dispatch = dispatch_of(role, self.family, self.dialect.engine, nodes, elastic=elastic)
        writer = Writer(self.dialect)
        head = self.layout.first(role.name, seat.instance)
        if self.dialect.engine == "vllm":
            self._vllm(writer, role, seat, head, dispatch)
        else:
            self._sglang(writer, role, seat, head, dispatch)
        return Command(
            SERVERS[self.dialect.engine], tuple(writer.arguments), self._environment(role, seat, dispatch), role.name,
            seat.instance, seat.node, where=f"{role.name}-{seat.instance} node {seat.node}",
        )  # fmt: skip

    def _address(self) -> str:
        """Address that API servers listen on: all, if clients or routers are on other hosts."""
        return LOOPBACK if self.hosts == (LOOPBACK,) else "0.0.0.0"

    def _vllm(self, writer: Writer, role: Role, seat: Seat, head: Seat, dispatch: str) -> None:
        writer.arguments.append(self.names.weights)
        writer.add("--served-model-name", self.names.served)
        if self.target.in_fp32:
            writer.add("--dtype", "float32")
        write(writer, vllm.values_of(role, self.deployment, self.target))
        if dispatch != "none":
            writer.add("--all2all-backend", dispatch)
        if role.overlap == "two-batch" and role.parallel.dp == 1:
            self.notes.append(
                f"{role.name}: vLLM overlaps batches between data-parallel ranks, and this role has one rank: expect "
                "the times without two-batch overlap"
            )
        if not self.family.startswith(NO_GRAPHS) and role.name != "prefill":
            tokens = role.max_sequences // role.parallel.dp * (1 + role.draft_tokens)
            writer.add("--max-cudagraph-capture-size", _captured(min(tokens, self._graph_tokens())))
        nodes = self.layout.nodes(role.name)
        if nodes > 1:
            self._vllm_nodes(writer, role, seat, head, nodes)
        elif role.parallel.dp > 1:
            writer.add("--data-parallel-rpc-port", RANKS + APART * seat.place)
        if seat.node == 0:
            writer.add("--host", self._address())
            writer.add("--port", self.port(seat))
        else:
            writer.add("--headless")

    def _vllm_nodes(self, writer: Writer, role: Role, seat: Seat, head: Seat, nodes: int) -> None:
        """Flags of an instance over several nodes: whole ranks on each node, or ranks over several nodes."""
        parallel, address = role.parallel, self.hosts[head.host]
        local, rest = divmod(parallel.dp, nodes)
        if parallel.dp > 1 and rest == 0:
            writer.add("--data-parallel-size-local", local)
            writer.add("--data-parallel-address", address)
            writer.add("--data-parallel-rpc-port", RANKS + APART * head.place)
            if seat.node:
                writer.add("--data-parallel-start-rank", seat.node * local)
            return
        writer.add("--nnodes", nodes)
        writer.add("--node-rank", seat.node)
        writer.add("--master-addr", address)
        writer.add("--master-port", GROUP + APART * head.place)
        if parallel.dp > 1:
            writer.add("--data-parallel-address", address)
            writer.add("--data-parallel-rpc-port", RANKS + APART * head.place)

    def _sglang(self, writer: Writer, role: Role, seat: Seat, head: Seat, dispatch: str) -> None:
        parallel = role.parallel
        writer.add("--model-path", self.names.weights)
        writer.add("--served-model-name", self.names.served)
        if self.target.in_fp32:
            writer.add("--dtype", "float32")
        if self.target.engine.receive_interval > 1:
            writer.add("--scheduler-recv-interval", self.target.engine.receive_interval)
        write(writer, sglang.values_of(role, self.deployment, self.target, self.dialect, dispatch))
        if self.deployment.tiers and role.name != "decode":
            writer.add("--hicache-mem-layout", IO[self.deployment.tiers[0].layout][1])
        if dispatch == "deepep":
            modes = {"prefill": "normal", "decode": "low_latency"}
            writer.add("--deepep-mode", modes.get(role.name, "auto"))
        if parallel.dp > 1:
            if parallel.tp == 1:
                writer.add("--moe-dense-tp-size", 1)
            writer.add("--enable-dp-lm-head")
            if role.name != "decode" and self.dialect.has("--enable-prefill-delayer"):
                writer.add("--enable-prefill-delayer")
            router = self.deployment.router
            if router in sglang.BALANCE and not self.disaggregated:
                writer.add("--load-balance-method", sglang.BALANCE[router])
        if not self.family.startswith(NO_GRAPHS) and role.name != "prefill":
            most = min(role.max_sequences // parallel.dp, self._graph_tokens())
            flags = ("--cuda-graph-max-bs-decode", "--cuda-graph-max-bs")
            writer.add(next(flag for flag in flags if self.dialect.has(flag)), max(most, 1))
        if self.disaggregated:
            writer.add("--disaggregation-transfer-backend", "mooncake")
            writer.add("--disaggregation-bootstrap-port", self._bootstrap(head))
        nodes = self.layout.nodes(role.name)
        if nodes > 1:
            writer.add("--nnodes", nodes)
            writer.add("--node-rank", seat.node)
        if nodes > 1 or len(self.layout.seats) > 1:
            writer.add("--dist-init-addr", f"{self.hosts[head.host]}:{GROUP + APART * head.place}")
        writer.add("--host", self._address())
        writer.add("--port", self.port(seat))
        writer.add("--enable-metrics")

    def _bootstrap(self, seat: Seat) -> int:
        return BOOTSTRAP + seat.place

    def _graph_tokens(self) -> int:
        return int(number(self.target.engine.graph_tokens))

    def _environment(self, role: Role, seat: Seat, dispatch: str) -> dict[str, str]:
        engine, per_host = self.dialect.engine, self.layout.per_host
        spanning = min(self.target.machine.domain, self.target.machine.devices) > per_host
        variables = environment_of(self.family, engine, dispatch, spanning=spanning, disaggregated=self.disaggregated)
        visible = visible_devices(self.family)
        if visible and len(seat.devices) < min(per_host, self.target.machine.devices):
            variables[visible] = ",".join(str(device) for device in seat.devices)
        if dispatch == "deepep" and role.name == "decode":
            tokens = role.max_sequences // role.parallel.dp * (1 + role.draft_tokens)
            variables["SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"] = str(-(-max(tokens, 1) // 16) * 16)
        if engine == "vllm" and self.disaggregated:
            variables["VLLM_NIXL_SIDE_CHANNEL_HOST"] = self.hosts[seat.host]
            variables["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(SIDE + APART * seat.place)
        if engine == "vllm" and self.family.startswith("cpu") and role.name in self.kv_bytes:
            variables["VLLM_CPU_KVCACHE_SPACE"] = str(max(int(self.kv_bytes[role.name] / 2**30), 1))
        return variables

    def router(self) -> Command | None:
        """The command of the router; None: requests go to the only instance."""
        router, engine = self.deployment.router, self.dialect.engine
        processes = needs_router(self.deployment)
        if router is None or (not processes and inside_engine(self.deployment, self.dialect)):
            return None
        names = [role.name for role in self.deployment.roles]
        urls: dict[RoleName, list[str]] = {
            name: [self.url(self.layout.first(name, one)) for one in instances(self.layout, name)] for name in names
        }
        bootstrap = []
        if engine == "sglang" and self.disaggregated:
            bootstrap = [
                self._bootstrap(self.layout.first("prefill", one)) for one in instances(self.layout, "prefill")
            ]
        chooses_rank = not inside_engine(self.deployment, self.dialect) and not self.disaggregated
        ranks = ranks_of(self.deployment) if chooses_rank else 1
        if ranks > 1 and engine == "vllm":
            self.notes.append("router.sh: vllm-router chooses ranks only with an API key: add --api-key to all scripts")
        routed = Backends(urls, bootstrap, ranks)
        arguments = router_arguments(engine, router, routed, ROUTER_PORT)
        arguments += ["--prometheus-port", str(ROUTER_METRICS)]
        return Command(PROGRAMS[engine], tuple(arguments), {}, "router", where="router")


def _captured(tokens: int) -> int:
    """The captured size of vLLM that holds a number of tokens: multiples of 8 up to 256, then multiples of 16."""
    step = 1 if tokens <= 2 else 4 if tokens <= 4 else 8 if tokens <= 256 else 16
    return -(-max(tokens, 1) // step) * step
