"""A level of the KV cache below device memory, as a deployment file describes it, and named set-ups of such levels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_serializer, model_validator
from typing_extensions import TypedDict

from tokenworks.errors import SpecError
from tokenworks.specs.provenance import (
    GIVEN,
    ByteRate,
    Bytes,
    Number,
    Quantity,
    Seconds,
    Spec,
    file_form,
    not_published,
)

Medium = Literal["host", "pool", "ssd", "remote"]
Scope = Literal["private", "host", "shared"]
TierLink = Literal["host-link", "scale-up", "network", "none"]
TierLayout = Literal["layer", "block"]
Copies = Literal["each", "once"]
Written = Literal["through", "selective", "back"]
Prefetch = Literal["none", "best_effort", "wait", "timeout"]
Eviction = Literal["lru", "arc", "cost"]
KvLoad = Literal["layerwise", "async"]
KvLoadFailure = Literal["recompute", "fail"]

SELECTIVE_USES = 2
"""Uses of a block from which on "selective" writes it: write_through_threshold of SGLang's hiradix_cache.py [count]."""


@dataclass(frozen=True, slots=True)
class ByOneValue:
    """Marks a field with several values that one value can replace, as in `--set tiers=hicache`.

    Parameters
    ----------
    unit : unit of that value; None: the value is a word
    """

    unit: str | None = None


class RatePoint(Spec):
    """One point of a bandwidth curve.

    Parameters
    ----------
    size : size of one transfer; null: all sizes [byte]
    rate : bandwidth that transfers of this size reach [byte/s]
    """

    size: Bytes = not_published("byte")
    rate: ByteRate


class SharePoint(Spec):
    """One point of an efficiency curve.

    Parameters
    ----------
    size : size of one transfer; null: all sizes [byte]
    share : bandwidth that transfers of this size reach / bandwidth of the link [-]
    """

    size: Bytes = not_published("byte")
    share: Number


class _Curve(Spec):
    """A number over the size of a transfer. Between two points, its logarithm is linear in the logarithm of size."""

    @model_validator(mode="before")
    @classmethod
    def _one_number_is_flat(cls, data: Any) -> Any:
        if isinstance(data, (str, int, float)) and not isinstance(data, bool):
            data = {"value": data, "status": "assumed", "source": GIVEN}
        if isinstance(data, dict) and "value" in data:
            return {"points": [{cls._y(): data}]}
        return {"points": data} if isinstance(data, list) else data

    @classmethod
    def _y(cls) -> str:
        """Name of the number of a point."""
        raise NotImplementedError

    def numbers(self) -> list[Quantity]:
        """The number of each point, in the order of size."""
        return [getattr(point, self._y()) for point in self.points]  # type: ignore[attr-defined]

    def sizes(self) -> list[float | None]:
        """Size of each point; None: the point stands for all sizes [byte]."""
        return [point.size.value for point in self.points]  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _rises(self) -> _Curve:
        sizes = self.sizes()
        if len(sizes) > 1 and any(size is None for size in sizes):
            raise ValueError("a point has no size: only a curve of one point can leave it out")
        written = [size for size in sizes if size is not None]
        if any(size <= 0 for size in written) or any(a >= b for a, b in itertools.pairwise(written)):
            raise ValueError(f"sizes {', '.join(f'{size:g}' for size in written)} byte: write them from small to large")
        for quantity in self.numbers():
            if quantity.value is None or quantity.value <= 0:
                raise ValueError(f"{self._y()} {quantity.written or 'null'}: write a number above zero")
        return self

    def at(self, size: float) -> float:
        """The number at a size of transfer. Beyond the first and the last point the curve is flat.

        Parameters
        ----------
        size : size of one transfer [byte]
        """
        values = [float(quantity.value or 0) for quantity in self.numbers()]
        sizes = [float(one or 1.0) for one in self.sizes()]
        if len(values) == 1 or size <= sizes[0]:
            return values[0]
        if size >= sizes[-1]:
            return values[-1]
        above = next(i for i, one in enumerate(sizes) if one >= size)
        part = math.log(size / sizes[above - 1]) / math.log(sizes[above] / sizes[above - 1])
        return float(values[above - 1] * (values[above] / values[above - 1]) ** part)

    @property
    def most(self) -> float:
        """The number at the largest size."""
        return float(self.numbers()[-1].value or 0)


class RateCurve(_Curve):
    """Bandwidth over the size of a transfer, such as `50 GB/s` for all sizes.

    Parameters
    ----------
    points : the points, from small to large transfers
    """

    points: tuple[RatePoint, ...] = Field(min_length=1)

    @classmethod
    def _y(cls) -> str:
        return "rate"


class ShareCurve(_Curve):
    """Share of the bandwidth of a link over the size of a transfer, such as `0.8` for all sizes.

    Parameters
    ----------
    points : the points, from small to large transfers
    """

    points: tuple[SharePoint, ...] = Field(min_length=1)

    @classmethod
    def _y(cls) -> str:
        return "share"

    @model_validator(mode="after")
    def _at_most_one(self) -> ShareCurve:
        if any((quantity.value or 0) > 1 for quantity in self.numbers()):
            raise ValueError("a share of the bandwidth of a link is at most 1")
        return self


class NumberForm(TypedDict, total=False):
    """A number with its source in the plain form of a tier."""

    value: str | None
    status: str
    source: str
    note: str


class CurvePointForm(TypedDict, total=False):
    """A point of a curve in the plain form of a tier: size, and rate or share."""

    size: NumberForm
    rate: NumberForm
    share: NumberForm


class CurveForm(TypedDict):
    """A curve in the plain form of a tier."""

    points: list[CurvePointForm]


class TierForm(TypedDict, total=False):
    """The plain form of a tier, as in a file. Fields with their default value are left out; see `Tier`."""

    name: str
    medium: str
    capacity: NumberForm
    scope: str
    read: CurveForm
    write: CurveForm
    efficiency: CurveForm
    duplex: NumberForm
    total: NumberForm
    latency: NumberForm
    link: str
    gateway: str
    layout: str
    transfer_tokens: int
    copies: str
    semantics: str
    written: str
    uses: int
    eviction: str
    prefetch: str
    timeout: NumberForm
    failures: NumberForm


class Tier(Spec):
    """One level of the KV cache below device memory. Null: the default of the medium and of the machine.

    Parameters
    ----------
    name : name in results, and for `gateway`; default: the medium
    medium : "host" is memory of the hosts; "pool" is memory of all hosts as one pool; "ssd" is flash storage of the
        hosts; "remote" is a store outside the machine
    capacity : size of all stores of the tier together; null: what the machine has [byte]
    scope : which ranks share a store: "private" none, "host" the ranks of a host, "shared" all ranks
    read, write : bandwidth that one device reaches, over the size of a transfer; null: bandwidth of `link` x
        `efficiency` [byte/s]
    efficiency : share of the bandwidth of `link` that one device reaches, over the size of a transfer [-]
    duplex : bandwidth of one device that reads and writes at the same time, both together / (read + write): 1 if both
        directions reach full speed, 0.5 if they share the link [-]
    total : bandwidth of the medium, which all ranks share: of one host for "host" and "ssd", of all for "pool" and
        "remote"; null: what the machine has [byte/s]
    latency : time of a read beside its transfer [s]
    link : link of a device that reads and writes occupy; tiers with the same link share it
    gateway : name of an earlier tier through which all blocks pass; empty: blocks travel from and to device memory
    layout : "block": all layers of a block are one transfer; "layer": keys and values of each layer are a transfer
    transfer_tokens : tokens of one transfer; null: a KV block of the engine [token]
    copies : "each": every device of a rank stores what it holds, so an MLA cache is stored tp times; "once": one copy
    semantics : "message": software of the engine moves blocks; "load-store": devices read the memory directly
    written : "through" writes a block at its first use; "selective" after `uses` uses; "back" when it is evicted above
    uses : uses from which on "selective" writes a block; null: 2 [count]
    eviction : which block a full store evicts: least recently used, ARC, or by the cost to compute it again
    prefetch : what happens for a waiting request whose blocks are in this tier, see `engine.tiers`
    timeout : longest wait of prefetch "timeout" [s]
    failures : share of reads that fail; null: none [-]
    """

    name: str = ""
    medium: Medium
    capacity: Bytes = not_published("byte")
    scope: Scope | None = None
    read: Annotated[RateCurve | None, ByOneValue("byte/s")] = None
    write: Annotated[RateCurve | None, ByOneValue("byte/s")] = None
    efficiency: Annotated[ShareCurve | None, ByOneValue("")] = None
    duplex: Number = not_published("")
    total: ByteRate = not_published("byte/s")
    latency: Seconds = not_published("s")
    link: TierLink | None = None
    gateway: str = ""
    layout: TierLayout = "block"
    transfer_tokens: Annotated[int, Field(ge=1, le=10**6)] | None = None
    copies: Copies | None = None
    semantics: Literal["message", "load-store"] = "message"
    written: Written = "through"
    uses: Annotated[int, Field(ge=1, le=10**6)] | None = None
    eviction: Eviction = "lru"
    prefetch: Prefetch = "none"
    timeout: Seconds = not_published("s")
    failures: Number = not_published("")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("medium"), str):
            return {**data, "name": data.get("name") or data["medium"]}
        return data

    @field_validator("capacity", "total")
    @classmethod
    def _above_zero(cls, quantity: Quantity) -> Quantity:
        if quantity.value is not None and quantity.value <= 0:
            raise ValueError(f"{quantity.written} is zero: write more, or leave the tier out")
        return quantity

    @model_validator(mode="after")
    def _possible(self) -> Tier:
        if (self.read is None) != (self.write is None):
            raise ValueError("read and write belong together: write both, or none of them")
        if self.read is not None and self.efficiency is not None:
            raise ValueError("efficiency is for the bandwidth of the link: leave it out, or leave read and write out")
        if self.uses is not None and self.written != "selective":
            raise ValueError(f"uses {self.uses} is for written: selective, not for {self.written}")
        if self.prefetch != "none" and not self.gateway:
            raise ValueError(f"prefetch {self.prefetch} loads blocks into a gateway, and the tier has none")
        if (self.prefetch == "timeout") != (self.timeout.value is not None):
            raise ValueError("timeout is the longest wait of prefetch: timeout, and belongs to it only")
        if self.duplex.value is not None and not 0.5 <= self.duplex.value <= 1:
            raise ValueError(f"duplex {self.duplex.written}: write a number from 0.5 to 1")
        if self.failures.value is not None and self.failures.value > 1:
            raise ValueError(f"failures {self.failures.written} is a share of reads: write one from 0 to 1")
        if self.semantics == "load-store" and (self.gateway or self.medium in ("ssd", "remote")):
            raise ValueError("semantics load-store: devices read memory of hosts directly, without a gateway")
        return self

    @model_serializer(mode="plain")
    def _as_in_a_file(self) -> TierForm:
        return cast("TierForm", file_form(self))

    @property
    def of_memory(self) -> bool:
        """Whether the tier holds blocks in memory of the hosts."""
        return self.medium in ("host", "pool")


class TierMedium(Spec):
    """Defaults of the tiers of one medium.

    Parameters
    ----------
    share : share of the memory or storage of the machine that a tier takes if it has no capacity [-]
    latency : time of a read beside its transfer [s]
    efficiency : share of the bandwidth of the link that one device reaches, over the size of a transfer [-]
    duplex, scope, copies : as in `Tier`
    """

    share: Number
    latency: Seconds
    efficiency: ShareCurve
    duplex: Number
    scope: Scope
    copies: Copies


class TierSetup(Spec):
    """Tiers as an engine has them: one file of catalog/tiers.

    Parameters
    ----------
    name : name in deployment files
    title : title for people
    engines : engines that have the set-up; empty: it is a what-if for any engine
    load : how a request waits for its blocks; null: as the engine does by default
    on_failure : what happens to a request whose read fails; null: as the engine does by default
    tiers : the tiers, the fastest first
    source : where the set-up is described
    """

    name: str
    title: str
    engines: tuple[str, ...] = ()
    load: KvLoad | None = None
    on_failure: KvLoadFailure | None = None
    tiers: tuple[Tier, ...]
    source: str


class TierOffers(Spec):
    """What an engine offers for KV tiers.

    Parameters
    ----------
    eviction, written, prefetch : policies that the engine has
    load : how requests can wait for their blocks; the first one is the default
    on_failure : what can happen to a request whose read fails; the first one is the default
    gateway : whether lower tiers exchange blocks with the tier in host memory only
    source : where the engine says so
    """

    eviction: tuple[Eviction, ...]
    written: tuple[Written, ...]
    prefetch: tuple[Prefetch, ...]
    load: tuple[KvLoad, ...]
    on_failure: tuple[KvLoadFailure, ...]
    gateway: bool = True
    source: str


def must_be_ordered(tiers: tuple[Tier, ...]) -> None:
    """Refuse tiers with equal names, and a gateway that is not an earlier tier.

    Parameters
    ----------
    tiers : the tiers of a deployment, the fastest first

    Raises
    ------
    ValueError : the tiers cannot work together
    """
    for at, tier in enumerate(tiers):
        names = [one.name for one in tiers[:at]]
        if tier.name in names:
            raise ValueError(f"tiers.{at}: two tiers have the name {tier.name}: give each a name of its own")
        if tier.gateway and tier.gateway not in names:
            known = f"earlier tiers: {', '.join(names)}" if names else "it is the first tier, so it cannot have one"
            raise ValueError(f"tiers.{at}.gateway: {tier.gateway} is not there; {known}")


def must_be_offered(
    tiers: tuple[Tier, ...], load: KvLoad | None, on_failure: KvLoadFailure | None, offers: TierOffers | None,
    engine: str,
) -> None:  # fmt: skip
    """Refuse policies that the engine does not have. If devices read the first tier directly, no engine has the tiers:
    they are a what-if, and every policy is possible.

    Parameters
    ----------
    tiers : the tiers of a deployment
    load, on_failure : as in `TierOffers`; None: the default of the engine
    offers : what the engine offers; None: it has no tiers
    engine : name of the engine

    Raises
    ------
    SpecError : the engine does not have a policy. The message lists the policies of the engine
    """
    if tiers[0].semantics == "load-store":
        return
    if offers is None:
        hint = "take --engine vllm or --engine sglang, or tiers: pooled"
        raise SpecError(f"tokenworks knows no KV tiers of {engine}", where="tiers", hint=hint)
    for at, tier in enumerate(tiers):
        for name in ("eviction", "written", "prefetch"):
            word, known = getattr(tier, name), getattr(offers, name)
            if word not in known and not (name == "prefetch" and not tier.gateway):
                raise _not_offered(f"tiers.{at}.{name}", word, known, engine)
        if offers.gateway and at and not tier.gateway and tiers[0].medium == "host":
            raise SpecError(
                f"{engine} exchanges blocks of {tier.name} with host memory only", where=f"tiers.{at}.gateway",
                hint=f"write gateway: {tiers[0].name}",
            )  # fmt: skip
    for path, word, known in (("kv_load", load, offers.load), ("kv_load_failure", on_failure, offers.on_failure)):
        if word is not None and word not in known:
            raise _not_offered(path, word, known, engine)


def _not_offered(path: str, word: str, known: tuple[str, ...], engine: str) -> SpecError:
    return SpecError(f"{engine} does not offer {word}", where=path, hint=f"{engine} offers {', '.join(known)}")
