"""Utilisation of each device family: what `roofline time / measured time` is, with its source and its spread."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.device import ComputeDtype
from tokenworks.specs.edits import edited
from tokenworks.specs.given import Assume, given, of
from tokenworks.specs.load import CATALOG, is_path, nearest, read_yaml, validate
from tokenworks.specs.machine import Assumption
from tokenworks.specs.provenance import Number, Quantity, Seconds, Spec, with_sources

Grade = Literal["datasheet", "kernel-calibrated", "end-to-end-calibrated"]


def _above_zero(found: Quantity) -> Quantity:
    if not found.value:
        raise ValueError("must be there and above zero: a cost function cannot do without it")
    return found


def _share(found: Quantity) -> Quantity:
    if found.value is None or not 0 < found.value <= 1:
        raise ValueError("a utilisation lies above 0 and at most at 1")
    return found


def _factor(found: Quantity) -> Quantity:
    if found.value is None or found.value < 1:
        raise ValueError("a spread is a factor of at least 1")
    return found


Util = Annotated[Number, AfterValidator(_share)]
Latency = Annotated[Seconds, AfterValidator(_above_zero)]
Spread = Annotated[Number, AfterValidator(_factor)]


def number(found: Quantity) -> float:
    """The value of a quantity that validation has found to be there."""
    assert found.value is not None
    return found.value


class Family(Spec):
    """One device family.

    gemm : at many rows, by compute dtype; grouped : what a grouped GEMM (experts) reaches of that, by the same
    hbm, experts_hbm : GEMMs that are bound by their weights, and experts that are
    attention_prefill, attention_decode : of the 16-bit peak; attention_hbm : reading the KV cache
    scale_up, scale_out : collectives of large messages, of the link's bandwidth; dispatch_up, dispatch_out : experts
    kernel : latency of a kernel inside a captured step; walk : of a GEMM's tile along an input of 8 bits
    attention_start, experts_start : latency of attention, and of a layer of routed experts (sort, quantise, two GEMMs,
        sum): several kernels each; expert : what each expert that is touched adds
    blockwise : latencies of a model whose weights are FP8 in blocks, over those of others, by engine; 1 where it is not
        listed: each input is quantised in groups, by kernels that engines have or lack for a device
    collective_start, dispatch_start : before the first byte: launch, and waiting for each other
    spread : half of the 80 % interval, as a factor: measured times lie in [t / spread, t x spread]
    """

    gemm: dict[ComputeDtype, Util]
    grouped: dict[ComputeDtype, Util]
    hbm: Util
    experts_hbm: Util
    attention_prefill: Util
    attention_decode: Util
    attention_hbm: Util
    scale_up: Util
    scale_out: Util
    dispatch_up: Util
    dispatch_out: Util
    kernel: Latency
    walk: Latency
    attention_start: Latency
    experts_start: Latency
    expert: Latency
    blockwise: dict[str, Number] = Field(default_factory=dict)
    collective_start: Latency
    dispatch_start: Latency
    spread: Spread

    def util(self, dtype: str) -> float:
        """Utilisation of a GEMM at many rows; a dtype that the family does not list is an error, not another's."""
        return _of(self.gemm, "gemm", dtype)

    def grouped_util(self, dtype: str) -> float:
        """Utilisation of a grouped GEMM at many rows."""
        return self.util(dtype) * _of(self.grouped, "grouped", dtype)


def _of(utils: Mapping[ComputeDtype, Quantity], field: str, dtype: str) -> float:
    for name, util in utils.items():
        if name == dtype:
            return number(util)
    raise SpecError(f"no utilisation for {dtype}", where=f"calibration: {field}", hint=f"it has {', '.join(utils)}")


SHARED = ("query", "sequence", "context_walk", "elementwise", "ring", "skew", "acceptance")
"""Constants of all families."""


class Power(Spec):
    """What a device draws, of its TDP: idle, and more at its full compute roof and at its full HBM roof [-].

    spread : half of the 80 % interval of a mean power, as a factor
    """

    idle: Util
    compute: Util
    hbm: Util
    spread: Spread


class Like(Spec):
    """A family that nobody has measured: it takes another one's numbers, with a spread of its own, and says why."""

    like: str
    why: str
    spread: Spread


KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
"""How the name of a source looks in a file: small words and numbers, joined by hyphens."""


class Calibration(Spec):
    """One catalog/calibration/*.yaml.

    fitted_on, data_sha256 : what a calibration of a higher grade was fitted on
    graded : families that its grade holds for; the others stay priors. Without any, it holds for all
    sources : in the file a source may be the name of a text in this table; every number here carries the text itself
    query, sequence : what begin and end of a tile cost in attention, as cached entries that each prefill query, and
        each decoding sequence, would have more; context_walk : latency of decode attention for each token of a context
    elementwise : share of the bandwidth of GEMMs that the small kernels between them reach on their activations
    ring : latency of a step around a ring of NCCL's kind, by which gathers go
    skew : log-deviation of expert popularity; acceptance : chance that a draft token is accepted
    power : of any device, by its TDP
    families : with numbers of their own; borrowed : those that take another one's
    lent : numbers of families as others borrow them, where points of their own have turned them since: what a fit makes
        of one device's software is worse for another device than what it had before
    draft_widening : how many times as wide, as a logarithm, the interval is where tokens are drafted
    ttft_spread : half of the 80 % interval of TTFT, as a factor, of all families: queues and servers, not devices
    """

    name: str
    title: str
    grade: Grade
    fitted_on: str = ""
    data_sha256: str = ""
    graded: tuple[str, ...] = ()
    sources: dict[Annotated[str, Field(pattern=f"^{KEY.pattern}$")], str] = Field(default_factory=dict)
    query: Number
    sequence: Number
    context_walk: Latency
    elementwise: Util
    ring: Latency
    skew: Number
    acceptance: Util
    power: Power
    draft_widening: Spread
    ttft_spread: Spread
    families: dict[str, Family] = Field(min_length=1)
    borrowed: dict[str, Like] = Field(default_factory=dict)
    lent: dict[str, Family] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        table = data.get("sources") if isinstance(data, dict) else None
        if not isinstance(table, dict):
            return data

        def text(source: str) -> str:
            if source not in table and KEY.fullmatch(source):
                hint = nearest(source, list(table)) or f"the table has {', '.join(table)}"
                raise ValueError(f"no source {source!r} in the table `sources`; {hint}")
            return str(table.get(source, source))

        return with_sources(data, text)

    @model_validator(mode="after")
    def _borrowed_from_known(self) -> Calibration:
        for name, borrowed in self.borrowed.items():
            if name in self.families or borrowed.like not in self.families:
                raise ValueError(f"borrowed.{name}.like: {borrowed.like!r} is no family with numbers of its own")
        for name in self.lent:
            if name not in self.families:
                raise ValueError(f"lent.{name}: no family with numbers of its own")
        return self

    def grade_of(self, family: str) -> Grade:
        """What a prediction for a device family is worth."""
        return self.grade if not self.graded or family in self.graded else "datasheet"

    def family(self, name: str) -> Family:
        """The factors of a device family."""
        if name in self.borrowed:
            borrowed = self.borrowed[name]
            lent = self.lent.get(borrowed.like, self.families[borrowed.like])
            return lent.model_copy(update={"spread": borrowed.spread})
        if name not in self.families:
            known = [*self.families, *self.borrowed]
            raise UnknownName("device family", name, known, hint=f"calibration {self.name} has no such family")
        return self.families[name]

    def standalone(self, names: Iterable[str]) -> Calibration:
        """The same with these families to be fitted: they borrow from none, and lend what they have now."""
        own = {name: self.family(name) for name in names}
        borrowed = {name: like for name, like in self.borrowed.items() if name not in own}
        lent = {like.like: own[like.like] for like in borrowed.values() if like.like in own} | self.lent
        return self.model_copy(update={"families": self.families | own, "borrowed": borrowed, "lent": lent})

    def assumed(self, name: str, dtypes: Iterable[str]) -> Iterator[Assumption]:
        """What a prediction for a family rests on beside measurements: one entry for all of its assumed factors.

        `dtypes` are those that the device computes in; factors of others are not used.
        """
        family = self.family(name)
        guessed = [path for path, quantity in _factors(family, dtypes) if quantity.assumed]
        if name in self.borrowed:
            yield Assumption(f"calibration.{name}", f"as {self.borrowed[name].like}", self.borrowed[name].why)
        elif guessed:
            yield Assumption(f"calibration.{name}", ", ".join(guessed), "priors by class; each says why in its file")
        for path in SHARED:
            quantity = getattr(self, path)
            if quantity.assumed:
                yield Assumption(f"calibration.{path}", quantity.written, quantity.source)

    def rests_on(self, name: str, factors: Iterable[str]) -> str:
        """Where some factors of a family come from: `measured`, `assumed` if one of them is, or `as` another family."""
        family = self.family(name)
        if name in self.borrowed:
            return f"as {self.borrowed[name].like}"
        statuses = {quantity.status for path, quantity in _factors(family, family.gemm) if path in factors}
        return "assumed" if statuses - {"measured", "derived"} else "measured"


def _factors(family: Family, dtypes: Iterable[str]) -> Iterator[tuple[str, Quantity]]:
    for name, value in family:
        if isinstance(value, Quantity):
            yield name, value
    for field in ("gemm", "grouped"):
        for dtype, util in getattr(family, field).items():
            if dtype in dtypes:
                yield f"{field}.{dtype}", util


DEFAULT = "serving"
"""The calibration that every command uses if none is named."""


CalibrationLike = str | Path | Mapping[str, Any] | Calibration
"""What names a calibration: a name of the catalog, a YAML file, what such a file holds, or a calibration."""


def load_calibration(calibration: CalibrationLike = DEFAULT, *, assume: Assume = None) -> Calibration:
    """A calibration, with the numbers of a user in place.

    Parameters
    ----------
    calibration : a name of the catalog; a YAML file such as `calibrate` writes, which is read at each call; what such
        a file holds, as a dict; or a calibration that was read before
    assume : values by path, such as `calibration.skew: 0.3`, as a YAML file or a dict; other areas are left alone

    Raises
    ------
    SpecError : no such calibration, or a file, a path or a value that is not valid
    """
    if isinstance(calibration, Calibration):
        loaded = calibration
    elif isinstance(calibration, Mapping):
        loaded = validate(Calibration, dict(calibration), "calibration")
    elif is_path(calibration):
        loaded = validate(Calibration, read_yaml(calibration), str(calibration))
    else:
        loaded = _shipped(str(calibration))
    return edited(loaded, of("calibration", given(assume)), prefix="calibration.", but=("name", "sources"))


def calibration_name(calibration: CalibrationLike) -> str:
    """How results name a calibration: as it was named, or by the path of its file."""
    return str(calibration) if isinstance(calibration, (str, Path)) else load_calibration(calibration).name


@functools.cache
def _shipped(name: str) -> Calibration:
    path = CATALOG / "calibration" / f"{name}.yaml"
    known = sorted(file.stem for file in path.parent.glob("*.yaml"))
    if name not in known:
        raise UnknownName("calibration", name, known)
    return validate(Calibration, read_yaml(path), str(path))
