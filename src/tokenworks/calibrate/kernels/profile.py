"""Operator profiles of hcu-train-simulator (YAML) as rows of kernels, and the fit of a card's numbers on them.

A profile lists the mean times of single operators of training, forward and backward together, in eager mode [1]:

    operators:
      gemm:            {"part=linear_fc1,m=OUTPUTS,n=TOKENS,k=INPUTS,dtype=bf16": {status, mean_ms, tflops}}
                       grouped: "...,m=OUTPUTS,n=INPUTS,k=TOKENS OF AN EXPERT,grouped_gemm=True,num_gemms=EXPERTS"
      flash_attention: {"batch=,seq=,heads=,head_dim=,value_head_dim=,dtype=,causal=": {status, mean_ms}}
      non_gemm:        {"part=,elements=,dtype=": {status, mean_ms}}

Three numbers of the card's family are fitted: the rate of dense GEMMs, the rate of grouped GEMMs, and the rate of
prefill attention. Operators without GEMM are counted and not fitted: they ran as separate eager kernels.

References
----------
[1] HYGON-AI/hcu-train-simulator @55da280 (Apache-2.0), src/hcu_train_simulator/benchmarks/profile.py, and
    profiles/builtin/bw1100_torch271_dtk2604.yaml.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.calibrate.factors import Factor, changed, turned
from tokenworks.calibrate.fit import fit
from tokenworks.calibrate.kernels import hygon
from tokenworks.calibrate.kernels.fit import SPREAD, START, Fitted, KernelFit, RowProblem, measured_at, written_as
from tokenworks.calibrate.kernels.operations import LEAST, MS, OperationRows
from tokenworks.calibrate.kernels.tables import KernelTable
from tokenworks.costs import roofline
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.compose import machine
from tokenworks.specs.hf.formats import FP8
from tokenworks.specs.interval import Silicon
from tokenworks.specs.load import read_yaml
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import BF16, Format

CARDS: Mapping[str, str] = {"bw1100": "scalex40", "bw1000": "bw1000-8"}
"""Accelerator of a profile -> system of the catalog with this card."""

LINKS: Mapping[str, Mapping[str, str]] = {"bw1000": hygon.LINK}
"""Accelerator -> numbers of its machine that are not published. No row of a single card depends on them."""

FORMS: Mapping[str, Format] = {"bf16": BF16, "fp16": BF16, "fp8": FP8}
"""Dtype of a profile -> format of the GEMM. FP16 has the peak of BF16."""

FLOOR = 2.0
"""A row must take this many times the launch floor, the time of the smallest GEMM of the profile [-]."""

UNFITTED = "operators without GEMM: eager kernels, whose time is launch and memory traffic"
LAUNCH = f"GEMMs near the launch floor, or with fewer than {LEAST} outputs or inputs"
CONTRADICTS = "rows without a rate, or whose rate contradicts their time"
UNVALIDATED = "rows that the profile does not mark as validated"
OTHER_DTYPE = "rows of a dtype that is not read"
REPEATED = "rows with the shape of another row"


@dataclass
class KernelProfile:
    """The rows of one operator profile.

    Parameters
    ----------
    path : the file
    name : name that the profile gives itself
    updated : date of the measurements; empty: not stated
    machine : machine of the card
    sha256 : hash of the file
    rows : field of the family that the rows determine -> the rows
    left_out : reason -> number of rows that are not fitted
    """

    path: Path
    name: str
    updated: str
    machine: Machine
    sha256: str
    rows: dict[str, list[OperationRows]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def title(self) -> str:
        """Name and date of the profile."""
        return f"{self.name} of {self.updated}" if self.updated else self.name

    @property
    def notes(self) -> list[str]:
        """Sentences for the user on the rows that are not fitted."""
        return [f"{self.path.name}: {count} rows are not fitted: {why}" for why, count in self.left_out.items()]


def read_profile(path: Path, on: str | None = None) -> KernelProfile:
    """Read an operator profile.

    Parameters
    ----------
    path : the YAML file
    on : machine with the card of the profile, such as scalex40; None: the accelerator that the profile names

    Raises
    ------
    SpecError : the file is no profile, a row is not valid, or the accelerator is unknown
    """
    data = read_yaml(path)
    operators = data.get("operators") if isinstance(data, dict) else None
    if not isinstance(operators, dict):
        hint = "give a YAML file of hcu-train-simulator with operators.gemm and operators.flash_attention"
        raise SpecError("is no operator profile: it has no mapping `operators`", where=str(path), hint=hint)
    about, environment = (
        data.get(key) if isinstance(data.get(key), dict) else {} for key in ("profile", "environment")
    )
    hardware = environment.get("hardware")
    accelerator = str(hardware.get("accelerator", "")) if isinstance(hardware, dict) else ""
    profile = KernelProfile(
        path, str(about.get("name") or path.stem), str(about.get("updated_at") or ""),
        _card(accelerator.strip().lower(), on, path), hashlib.sha256(path.read_bytes()).hexdigest(),
    )  # fmt: skip
    entries = {kind: list(_entries(profile, operators, kind)) for kind in ("gemm", "flash_attention", "non_gemm")}
    profile.left_out[UNFITTED] += len(entries["non_gemm"])
    _read_gemms(profile, entries["gemm"])
    for one in entries["flash_attention"]:
        _read_attention(profile, one)
    profile.left_out = Counter({why: count for why, count in profile.left_out.items() if count})
    if not profile.rows:
        raise SpecError("has no row that a fit can use", where=str(path), hint="; ".join(profile.notes))
    return profile


def _card(accelerator: str, on: str | None, path: Path) -> Machine:
    if on is not None:
        return machine(on)
    if accelerator not in CARDS:
        hint = f"known are {', '.join(CARDS)}; name the machine of the card with --on"
        raise SpecError(f"accelerator {accelerator!r} is not known", where=f"{path}: environment.hardware", hint=hint)
    return machine(CARDS[accelerator], assume=dict(LINKS.get(accelerator, {})) or None)


@dataclass(frozen=True)
class _Entry:
    """One row of a profile: the words of its key, its time and its stated rate."""

    words: Mapping[str, str]
    seconds: float
    rate: float | None
    where: str

    def size(self, name: str) -> float:
        """A size above zero."""
        return _positive(self.words.get(name), f"{name} in the key", self.where)

    @property
    def form(self) -> Format | None:
        """Format of the numbers; None: a dtype that is not read."""
        return FORMS.get(self.words.get("dtype", ""))


def _positive(value: Any, what: str, where: str) -> float:
    try:
        read = float(value)
    except (TypeError, ValueError):
        read = np.nan
    if not (np.isfinite(read) and read > 0) or isinstance(value, bool):
        raise SpecError(f"{what}: {value!r} is not a number above zero", where=where)
    return read


def _entries(profile: KernelProfile, operators: Mapping[str, Any], kind: str) -> Iterator[_Entry]:
    """The validated rows of one kind of operators."""
    table = operators.get(kind) or {}
    if not isinstance(table, dict):
        raise SpecError("must be a mapping of operators", where=f"{profile.path}: operators.{kind}")
    for key, content in table.items():
        where = f"{profile.path}: operators.{kind}: {str(key)[:80]}"
        if not isinstance(content, dict):
            raise SpecError("must be a mapping with status and mean_ms", where=where)
        if str(content.get("status", "validated")).lower() != "validated":
            profile.left_out[UNVALIDATED] += 1
            continue
        words = dict(word.split("=", 1) for word in str(key).replace(" ", "").split(",") if "=" in word)
        rate = content.get("tflops")
        stated = None if rate is None else 1e12 * _positive(rate, "tflops", where)
        yield _Entry(words, MS * _positive(content.get("mean_ms"), "mean_ms", where), stated, where)


def _read_gemms(profile: KernelProfile, entries: Sequence[_Entry]) -> None:
    """Dense and grouped GEMMs. The smallest dense GEMM shows the launch floor of the eager mode."""
    seen: set[tuple[float, ...]] = set()
    tiny = [one.seconds for one in entries if _is_tiny(one)]
    floor = FLOOR * min(tiny, default=0.0)
    for one in entries:
        m, n, k, form = one.size("m"), one.size("n"), one.size("k"), one.form
        grouped = one.words.get("grouped_gemm", "").lower() == "true"
        experts = one.size("num_gemms") if grouped else 1.0
        flop = experts * hygon.PASSES * float(roofline.gemm_flop(n, m, k))
        if form is None or form.compute not in profile.machine.peak:
            profile.left_out[OTHER_DTYPE] += 1
        elif (shape := (m, n, k, experts, float(form.bytes))) in seen:
            profile.left_out[REPEATED] += 1
        elif one.rate is None or abs(flop / one.seconds / one.rate - 1) > hygon.AGREE:
            profile.left_out[CONTRADICTS] += 1
        elif not grouped and (_is_tiny(one) or one.seconds < floor):
            profile.left_out[LAUNCH] += 1
        else:
            seen.add(shape)
            name = f"{one.words.get('part', 'gemm')} {m:.0f} x {n:.0f} x {k:.0f}"
            card, seconds = profile.machine, one.seconds
            row = (
                hygon.trained_experts(
                    f"{name}, {experts:.0f}",
                    card,
                    experts=experts,
                    out=m,
                    inputs=n,
                    tokens=k,
                    seconds=seconds,
                    form=form,
                )
                if grouped
                else hygon.trained_gemm(name, card, out=m, tokens=n, inputs=k, seconds=seconds, form=form)
            )
            profile.rows.setdefault(f"{'grouped' if grouped else 'gemm'}.{form.compute}", []).append(row)


def _is_tiny(one: _Entry) -> bool:
    return one.words.get("grouped_gemm") is None and min(one.size("m"), one.size("k")) < LEAST


def _read_attention(profile: KernelProfile, one: _Entry) -> None:
    if one.form is not BF16:
        profile.left_out[OTHER_DTYPE] += 1
        return
    head = one.size("head_dim")
    sizes = {"batch": one.size("batch"), "tokens": one.size("seq"), "heads": one.size("heads"), "key": head}
    if "value_head_dim" in one.words:
        sizes["value"] = one.size("value_head_dim")
    causal = one.words.get("causal", "true").lower() == "true"
    if not causal:  # images: the profile pads their heads, and a language model has none
        profile.left_out["attention that is not causal: image encoders"] += 1
        return
    name = f"attention {sizes['tokens']:.0f} x {sizes['heads']:.0f} x {head:.0f}"
    profile.rows.setdefault("attention_prefill", []).append(
        hygon.trained_attention(name, profile.machine, sizes, one.seconds)
    )


# ── the fit ───────────────────────────────────────────────────────────────────────────────────────────────────────


def fit_profile(profile: KernelProfile, prior: Calibration, *, name: str = "kernels") -> KernelFit:
    """Fit the numbers of the card's family that a profile determines. All other numbers keep their prior value.

    Parameters
    ----------
    profile : the rows
    prior : calibration that the fit starts from
    name : name of the fitted calibration
    """
    on = profile.machine
    calibration = measured_at(prior.standalone([on.family]), [on])
    fitted: list[Fitted] = []
    for field_name in sorted(profile.rows, key=lambda one: not one.startswith("gemm")):  # dense rates come first
        calibration, result = _fit(profile, calibration, field_name)
        fitted.append(result)
    used = KernelTable(profile.path.name, sum(map(len, profile.rows.values())), 0, profile.sha256)
    known = dict(prior.kernels)
    if {"gemm", "grouped"} <= {one.partition(".")[0] for one in profile.rows}:
        known[on.device] = Silicon.of(on)
    calibration = calibration.model_copy(
        update={
            "name": name, "title": f"Kernels of {on.device} fitted on the operator profile {profile.title}",
            "grade": "kernel-calibrated", "kernels": dict(sorted(known.items())),
            "fitted_on": f"operator profile {profile.title}", "data_sha256": profile.sha256,
        }
    )  # fmt: skip
    return KernelFit(calibration, fitted, [used], prior.name)


def _fit(profile: KernelProfile, calibration: Calibration, name: str) -> tuple[Calibration, Fitted]:
    """Fit one number of the family on its rows."""
    family, items = profile.machine.family, profile.rows[name]
    start = START[name.partition(".")[0]]
    own = changed(calibration.families[family], name, lambda was: was.model_copy(update={"value": start}))
    calibration = calibration.model_copy(update={"families": calibration.families | {family: own}})
    result = fit(RowProblem(calibration, items), [Factor((family,), name, SPREAD, family)], enough=1e-5)
    calibration = turned(calibration, result.factors, result.theta)
    error, bias = float(np.mean(np.abs(result.errors))), float(np.expm1(np.median(result.errors)))
    source = (
        f"operator profile {profile.title}, {profile.machine.device}: fit of {len(items)} rows, "
        f"mean |log error| {error:.2f}"
    )
    own = changed(calibration.families[family], name, partial(written_as, status="measured", source=source))
    quantity = getattr(own, name.partition(".")[0])
    quantity = quantity[name.partition(".")[2]] if "." in name else quantity
    calibration = calibration.model_copy(update={"families": calibration.families | {family: own}})
    parts = [item.name.partition(" ")[0] for item in items]
    each = {
        part: float(np.mean([abs(off) for of, off in zip(parts, result.errors, strict=True) if of == part]))
        for part in dict.fromkeys(parts)
    }
    return calibration, Fitted(
        family, name, (profile.machine.device,), len(items), error, bias, each, {name: number(quantity)},
        {name: quantity.written},
    )  # fmt: skip
