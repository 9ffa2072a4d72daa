"""Types of the plain form of a simulation. `simulation.summary` fills them."""

from __future__ import annotations

from typing import Annotated, NotRequired

from typing_extensions import TypedDict

from tokenworks.simulation.measured import Seen
from tokenworks.specs.deployment import Deployment, Eplb
from tokenworks.specs.faults import FaultSchedule
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain
from tokenworks.specs.software import Software

SloPlain = dict[str, str | bool | Annotated[Plain, FormOf(Seen)]]
"""`text` (the SLO), `met`, and each bound with its simulated value: `ttft`, `tpot`, or with classes `batch.ttft`."""


class SimulateInputs(Inputs):
    """Inputs of the simulation; trace : name of the trace or workload; source : origin of the trace."""

    deployment: Annotated[Plain, FormOf(Deployment)]
    devices: int
    trace: str
    source: str
    requests: int
    endless: bool
    concurrency: int
    router: str
    seed: int
    max_queue: int
    block_tokens: int


class MetricsPlain(TypedDict):
    """The metrics of `engine.metrics.Metrics`; None without a request to take a mean of."""

    completed: int
    duration: float
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    request_goodput: float
    output_throughput: float
    total_token_throughput: float
    effective_throughput: float
    mean_ttft_ms: float | None
    median_ttft_ms: float | None
    std_ttft_ms: float | None
    p99_ttft_ms: float | None
    mean_tpot_ms: float | None
    median_tpot_ms: float | None
    std_tpot_ms: float | None
    p99_tpot_ms: float | None
    mean_itl_ms: float | None
    median_itl_ms: float | None
    std_itl_ms: float | None
    p99_itl_ms: float | None
    mean_e2el_ms: float | None
    median_e2el_ms: float | None
    std_e2el_ms: float | None
    p99_e2el_ms: float | None


class CountsPlain(TypedDict):
    """State of all requests at the end, and start and end of the measured window [s]."""

    measured_from_s: float
    measured_to_s: float
    completed_in_all: int
    unsent: int
    queued: int
    running: int
    rejected: int
    failed: int


class RatesPlain(TypedDict):
    """Throughput of the whole deployment per device [token/s]."""

    output_tok_s_per_device: float
    total_tok_s_per_device: float
    effective_tok_s_per_device: float


class PowerPlain(TypedDict):
    """Mean power of a device [W] and energy of an output token [J]; None if the TDP is not published."""

    watts_per_device: float | None
    joules_per_output_token: float | None


class BacklogPlain(TypedDict):
    """Requests that wait for their first step, at four times of the sending time [s]."""

    at_s: list[float]
    waiting: list[int]


ClassName = TypedDict("ClassName", {"class": str})


class ClassPlain(ClassName, MetricsPlain):
    """A class of requests with its metrics and its SLO."""

    priority: int
    requests: int
    slo: SloPlain


class RolePlain(TypedDict):
    """What the instances of one role did in the measured window."""

    role: str
    instances: int
    ranks: int
    devices: int
    steps: int
    step_ms: float
    mean_batch: float
    prefill_tokens_per_step: float
    busy_share: float
    link_busy_share: float
    bound_by: str
    prefill_tokens: int
    output_tokens: int
    query_tokens: int
    hit_tokens: int
    hit_share: float
    preemptions: int
    evictions: int


class TierPlain(TypedDict):
    """One tier of the KV cache in the measured window: `hbm`, then the tiers below."""

    name: str
    capacity_bytes: float
    used_share: float
    hit_tokens: int
    hit_share: float
    read_bytes: float
    written_bytes: float
    evictions: int
    failed_loads: int
    late_tokens: int
    pays_from_tokens: int | None
    pays_from_share: float | None


class TierWorthPlain(TypedDict):
    """The same requests without KV tiers below HBM, and what no policy can pass (`simulation.tier_worth`)."""

    pays: bool
    without: MetricsPlain
    without_effective_tok_s_per_device: float
    hit_share: float
    without_hit_share: float
    belady_share: float
    endless_share: float
    enough_bytes: float | None


class SeriesPlain(TypedDict):
    """Values per window of time, see `simulation.summary.series`."""

    window_s: float
    running: list[int]
    waiting: list[int]
    kv_used: list[float]
    output_tok_s: list[float]
    prefill_tok_s: list[float]
    bound: list[str]


class ExpertSeriesPlain(TypedDict):
    """Balance of the ranks from a time on, and the balance that experts in their first places would have."""

    at_s: list[float]
    balance: list[float]
    worst_balance: list[float]
    plain_balance: list[float]


class RoleExpertsPlain(TypedDict):
    """Experts of one role: balance of its ranks, and what EPLB did."""

    role: str
    ep: int
    redundant_experts: int
    eplb: Annotated[Plain, FormOf(Eplb)] | None
    balance: float
    worst_balance: float
    plain_balance: float
    touched: float
    routed_tokens: float
    rebalances: int
    moved_copies: int
    moved_inside_bytes: float
    moved_between_bytes: float
    pause_s: float
    levels: list[float]
    series: ExpertSeriesPlain


class PopularityPlain(TypedDict):
    """Popularity of the experts, and each role with expert parallelism."""

    load: str
    roles: list[RoleExpertsPlain]


class FeltPlain(TypedDict):
    """A window of time as requests felt it (`simulation.felt.FeltWindow`)."""

    from_s: float
    to_s: float
    arrived: int
    failed: int
    completed: int
    median_ttft_ms: float | None
    p99_ttft_ms: float | None
    median_tpot_ms: float | None
    p99_tpot_ms: float | None
    output_tok_s: float
    effective_tok_s: float


class FaultPlain(TypedDict):
    """A fault: what it stopped, what the requests lost, and what they felt before, during and after it."""

    part: str
    at_s: float
    lasts_s: float
    permanent: bool
    devices: int
    instances: list[int]
    ranks: int
    lost_bandwidth_share: float
    noticed_s: float | None
    down_s: float
    whole_s: float
    lost_requests: int
    retries: int
    lost_output_tokens: int
    lost_kv_tokens: int
    before: FeltPlain
    during: FeltPlain
    after: FeltPlain


class FaultTimesPlain(TypedDict):
    """Times of the recovery; `start_s` by role."""

    detect_s: float
    shrink_s: float
    start_s: dict[str, float]


class FaultSeriesPlain(TypedDict):
    """Windows of time as requests felt them, with the faults and without them (`healthy`)."""

    window_s: float
    arrived: list[int]
    failed: list[int]
    median_ttft_ms: list[float | None]
    p99_ttft_ms: list[float | None]
    median_tpot_ms: list[float | None]
    p99_tpot_ms: list[float | None]
    effective_tok_s: list[float]
    healthy_p99_ttft_ms: list[float | None]
    healthy_effective_tok_s: list[float]


class FaultsPlain(TypedDict):
    """The faults of a run, and the same run without them."""

    seed: int | None
    hazard: float | None
    expected: float | None
    reliability: str
    schedule: Annotated[Plain, FormOf(FaultSchedule)] | None
    times: FaultTimesPlain
    faults: list[FaultPlain]
    lost_steps: int
    lost_requests: int
    retries: int
    lost_output_tokens: int
    lost_kv_tokens: int
    down_s: float
    effective_tokens: int
    healthy_effective_tokens: int | None
    lost_effective_share: float | None
    series: FaultSeriesPlain


class SimulateBody(MetricsPlain, CountsPlain, RatesPlain, PowerPlain):
    """The plain form of `simulate`; software : software stacks whose measured points the step times rest on."""

    inputs: SimulateInputs
    grade: str
    software: list[Annotated[Plain, FormOf(Software)]]
    spread: float
    partial: bool
    stable: bool
    backlog: BacklogPlain
    slo: SloPlain
    preemptions: int
    classes: list[ClassPlain]
    roles: list[RolePlain]
    tiers: list[TierPlain]
    tier_worth: TierWorthPlain | None
    experts: NotRequired[PopularityPlain]
    faults: NotRequired[FaultsPlain]
    series: SeriesPlain
    assumed: list[Assumed]
    notes: list[str]
