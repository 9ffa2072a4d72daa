"""Questions in closed form about one split: the parts of its steps, and what its memory holds."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

import numpy as np

from tokenworks.costs.step import COMMUNICATION
from tokenworks.errors import DoesNotFit, NoPrediction, SpecError
from tokenworks.ledger.claims.asks import ClaimAsk, options
from tokenworks.ledger.workers import Say
from tokenworks.legal.points import Points
from tokenworks.planning.estimate import estimate
from tokenworks.planning.fit import fit
from tokenworks.planning.plan import prepare
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.compose import parts
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.given import Given

ROOM_ENGINE: EngineName = "vllm"
"""Engine whose memory and overheads `RoomAsk` assumes, as `fit` does."""

MOST = 1e5
"""Most sequences of an instance that `RoomAsk` looks at [count]."""

TALK = "communication"
"""Name of all communication as one part of a step."""

CAPACITY = "device.hbm.capacity"
"""Path of the memory of a device."""

MOST_BYTES = 1e12
"""Most memory of a device that `LeastMemoryAsk` tries [byte]."""


@dataclass(frozen=True, slots=True)
class StepParts:
    """One step of a split.

    Parameters
    ----------
    kind : "decode" or "prefill"
    amount : decoding sequences or prefill tokens of a device [count]
    seconds : time of the step [s]
    exchange : time of all-reduces, dispatch and combine / time of all parts [-]
    largest : the part that takes longest; all communication counts as one part
    """

    kind: str
    amount: int
    seconds: float
    exchange: float
    largest: str


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """Steps of a split.

    Parameters
    ----------
    steps : a decode step and a prefill step
    deploy : the split
    error : why there are no steps, in words; empty: there are some
    """

    steps: tuple[StepParts, ...]
    deploy: str = ""
    error: str = ""


@dataclass(frozen=True)
class StepAsk(ClaimAsk):
    """The parts of a decode step and of a prefill step of one instance; the answer is a `StepAnswer`.

    Parameters
    ----------
    model, system, workload, calibration : as `estimate` takes them
    deploys : widths of the instance, as `estimate --deploy` takes them; the first that fits counts
    devices : devices of the instance [count]
    batch : decoding sequences of a device [count]
    chunk : prefill tokens of a device [token]
    assume : numbers of this machine and of these requests
    """

    model: str
    system: str
    workload: str
    deploys: tuple[str, ...]
    devices: int
    batch: int
    chunk: int
    assume: tuple[Given, ...] = ()
    calibration: str = DEFAULT

    @property
    def name(self) -> str:
        """Model and machine."""
        return f"a step of {self.model.rsplit('/', 1)[-1]} on {self.system}"

    @property
    def command(self) -> str:
        """The estimate, as a command."""
        words = ["tokenworks", "estimate", self.model, "--on", self.system, "--deploy", self.deploys[0]]
        words += ["--workload", self.workload, "--batch", str(self.batch * self.devices)]
        words += ["--chunk", str(self.chunk * self.devices)]
        if self.calibration != DEFAULT:
            words += ["--calibration", self.calibration]
        return shlex.join([*words, *options(self.assume)])

    @property
    def weight(self) -> float:
        """Two steps of the closed form."""
        return 0.01

    def answer(self, _say: Say | None) -> StepAnswer:
        """The parts of both steps. If no split fits, the answer has the reason of the last one."""
        error = ""
        for deploy in self.deploys:
            try:
                return self._answer(deploy)
            except (DoesNotFit, NoPrediction) as refused:
                error = str(refused)
        return StepAnswer((), error=error)

    def _answer(self, deploy: str) -> StepAnswer:
        found = estimate(
            self.model, self.system, deploy=deploy, workload=self.workload, batch=self.batch * self.devices,
            chunk=self.chunk * self.devices, assume=self.assume or None, calibration=self.calibration,
        )  # fmt: skip
        steps = []
        for step in found.steps:
            spent = {name: step.of_part(name, "seconds") for name in step.cost.parts}
            exchange = sum(spent.pop(name, 0.0) for name in COMMUNICATION)
            spent[TALK] = exchange
            amount = self.batch if step.kind == "decode" else self.chunk
            largest = max(spent, key=lambda name: spent[name])
            steps.append(StepParts(step.kind, amount, step.seconds, exchange / sum(spent.values()), largest))
        return StepAnswer(tuple(steps), deploy)


@dataclass(frozen=True, slots=True)
class RoomRow:
    """One context.

    Parameters
    ----------
    context : tokens of a sequence [token]
    held : sequences of this context that the memory of the whole machine holds [count]
    quick : sequences at which a decode step takes as long as the bound on TPOT [count]
    """

    context: int
    held: float
    quick: float


@dataclass(frozen=True, slots=True)
class RoomAnswer:
    """What the memory of a machine holds beside a model.

    Parameters
    ----------
    rows : one for each context that the model reads
    devices : devices of the machine [count]
    kv_tokens : KV cache of the whole machine [token]
    bytes_per_token : KV cache of one token, on all devices of its rank [byte]
    longest : longest request that the model reads [token]
    concurrency : requests of the longest length that one rank holds, with the split that holds most [-]
    split : the split of all other fields, in words
    error : why nothing fits, in words; empty: it fits
    """

    rows: tuple[RoomRow, ...]
    devices: int
    kv_tokens: float = 0.0
    bytes_per_token: float = 0.0
    longest: int = 0
    concurrency: float = 0.0
    split: str = ""
    error: str = ""


@dataclass(frozen=True)
class RoomAsk(ClaimAsk):
    """The KV cache that a machine has beside a model, in sequences of several contexts; the answer is a `RoomAnswer`.

    The split is the one that leaves the largest KV cache without a pipeline.

    Parameters
    ----------
    model, system, calibration : as `fit` takes them
    contexts : tokens of a sequence [token]
    tpot_s : bound on the time of a decode step [s]
    assume : numbers of this machine
    """

    model: str
    system: str
    contexts: tuple[int, ...]
    tpot_s: float
    assume: tuple[Given, ...] = ()
    calibration: str = DEFAULT

    @property
    def name(self) -> str:
        """Model and machine."""
        return f"memory of {self.model.rsplit('/', 1)[-1]} on {self.system}"

    @property
    def command(self) -> str:
        """What fits, as a command."""
        return shlex.join(["tokenworks", "fit", self.model, "--on", self.system, *options(self.assume)])

    @property
    def weight(self) -> float:
        """The splits of the machine."""
        return 0.02

    def answer(self, _say: Say | None) -> RoomAnswer:
        """Sequences of each context that the memory holds, and that the speed of the machine allows."""
        devices = parts(self.system, assume=self.assume or None).devices
        try:
            found = fit(self.model, self.system, engine=ROOM_ENGINE, assume=self.assume or None)
        except (DoesNotFit, SpecError) as error:
            return RoomAnswer((), devices, error=str(error))
        width = found.flat or found.best
        longest = found.load.length
        rows = tuple(
            RoomRow(context, width.kv_tokens / context, self._quick(context, width.role))
            for context in self.contexts if context < longest
        )  # fmt: skip
        wide = width.role.parallel
        return RoomAnswer(
            rows, devices, width.kv_tokens, width.kv_bytes_per_token * wide.tp * wide.pp, longest,
            max(one.concurrency for one in found.widths), f"{width.role.replicas} x [{wide}]",
        )  # fmt: skip

    def _quick(self, context: int, role: Role) -> float:
        """Sequences of a context on all instances, at which a decode step takes `tpot_s`; memory does not count."""
        (costing,) = prepare(
            self.model, self.system, workload=None, isl=float(context), osl=2.0, rate=None, concurrency=None, slo="",
            engine=ROOM_ENGINE, assume=self.assume or None, calibration=self.calibration,
        )  # fmt: skip
        amounts = np.geomspace(1.0, MOST, 400)
        batch = costing.batch(Points.of(role), amounts, np.zeros(len(amounts)))
        seconds = np.asarray(costing.breakdown(Points.of(role), batch, role.overlap).seconds)
        return role.replicas * float(np.interp(self.tpot_s, seconds, amounts, left=0.0))


@dataclass(frozen=True)
class LeastMemoryAsk(ClaimAsk):
    """The least memory of a device with which a machine holds one request of the longest length that a model reads.

    The answer is a number [byte]; None: no memory of up to `MOST_BYTES` is enough.

    Parameters
    ----------
    model, system : as `fit` takes them
    assume : numbers of this machine, without the capacity of its memory
    """

    model: str
    system: str
    assume: tuple[Given, ...] = ()

    @property
    def name(self) -> str:
        """Model and machine."""
        return f"least memory for {self.model.rsplit('/', 1)[-1]} on {self.system}"

    @property
    def command(self) -> str:
        """What fits, as a command."""
        return shlex.join(["tokenworks", "fit", self.model, "--on", self.system, *options(self.assume)])

    @property
    def weight(self) -> float:
        """The splits of the machine, for about twenty sizes of memory."""
        return 0.4

    def answer(self, _say: Say | None) -> float | None:
        """Bisection over the memory of a device."""
        low, high = 1e9, MOST_BYTES
        if not self._holds(high):
            return None
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self._holds(middle) else (middle, high)
        return high

    def _holds(self, memory: float) -> bool:
        capacity = Given(path=CAPACITY, value=f"{memory!r} B", why="what-if")
        try:
            found = fit(self.model, self.system, engine=ROOM_ENGINE, assume=(*self.assume, capacity))
        except (DoesNotFit, SpecError):
            return False
        return max(one.concurrency for one in found.widths) >= 1
