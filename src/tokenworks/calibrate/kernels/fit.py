"""Fit factors on rows of kernel tables, one operation after the other, and all device families at once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from typing_extensions import TypedDict

from tokenworks import units
from tokenworks.arrays import Floats
from tokenworks.calibrate.factors import Factor, changed, quantities, turned
from tokenworks.calibrate.file import write_file
from tokenworks.calibrate.fit import fit
from tokenworks.calibrate.kernels.operations import OPERATIONS, Operation, OperationRows
from tokenworks.calibrate.kernels.tables import WHEEL, KernelTable, Tables
from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.compose import machine
from tokenworks.specs.interval import Silicon
from tokenworks.specs.machine import Machine
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs

Which = Literal["default", "all"]
DEFAULT = {
    "h100_sxm": "8xhgx-h100", "h200_sxm": "8xhgx-h200", "b200_sxm": "8xhgx-b200", "gb200": "gb200-nvl72",
    "l40s": "pcie-l40s", "rtx_pro_6000_server": "pcie-rtx-pro-6000",
}  # fmt: skip
"""Systems of the tables with their names in the catalog. The calibrations of the catalog may use them."""

HELD_OUT = {
    "a100_sxm": "8xhgx-a100", "b300_sxm": "8xhgx-b300", "gb300": "gb300-nvl72", "b60": "pcie-arc-b60",
}  # fmt: skip
"""Systems that are kept for tests of predictions: only `all` reads them."""

START = {
    "gemm": 0.6, "grouped": 0.5, "hbm": 0.8, "experts_hbm": 0.8, "attention_prefill": 0.5, "attention_decode": 0.5,
    "attention_hbm": 0.8, "latent_decode": 0.5, "latent_fp8": 1.2, "scale_up": 0.6, "dispatch_up": 0.6,
    "dispatch_out": 0.8, "query": 300.0, "sequence": 50.0,
    "kernel": 4e-6, "walk": 1e-9, "attention_start": 10e-6, "context_walk": 2e-10, "experts_start": 30e-6,
    "expert": 2e-7, "collective_start": 4e-6, "dispatch_start": 15e-6, "ring": 1e-6,
}  # fmt: skip
"""Start values of the fit, equal in every family and independent of the rows [-, s]."""

SPREAD = 0.5
"""Freedom of a factor: the standard deviation of log(fitted / start) [-]."""

DIGITS = 3
"""Significant digits of a fitted factor. Its error is a few per cent."""

GRADING = ("gemm", "experts")
"""Operations that must be measured on a device for the grade kernel-calibrated: dense GEMMs, and experts."""

UNSEEN = "no kernel of the family is left: where every fit of kernels starts"


@dataclass(frozen=True, slots=True)
class Fitted:
    """Fit of one operation in one device family.

    Parameters
    ----------
    family, operation : names of the family and of the operation
    devices : devices with rows
    rows : number of rows
    error : mean |log(predicted / measured)| [-]
    bias : median of predicted / measured - 1 [-]
    errors : error of each kind of rows [-]
    factors : fitted numbers in SI units
    written : fitted numbers as text with units
    """

    family: str
    operation: str
    devices: tuple[str, ...]
    rows: int
    error: float
    bias: float
    errors: dict[str, float]
    factors: dict[str, float]
    written: dict[str, str]


class KernelsBody(TypedDict):
    """The plain form of `calibrate --kernels`; shared : numbers that all families share."""

    inputs: Inputs
    fitted_on: str
    data_sha256: str
    shared: dict[str, float | None]
    operations: list[Annotated[Plain, FormOf(Fitted)]]
    tables: list[Annotated[Plain, FormOf(KernelTable)]]


@dataclass(frozen=True)
class KernelFit:
    """A calibration fitted on kernel tables.

    Parameters
    ----------
    calibration : the fitted calibration
    fitted : fit of each operation in each family
    used : kernel tables that were read
    prior : name of the calibration that the fit started from
    """

    calibration: Calibration
    fitted: list[Fitted]
    used: list[KernelTable]
    prior: str

    def plain(self) -> Plain:
        """The complete result as plain data."""
        body: KernelsBody = {
            "inputs": inputs(calibration=self.prior),
            "fitted_on": self.calibration.fitted_on,
            "data_sha256": self.calibration.data_sha256,
            "shared": {field: getattr(self.calibration, field).value for of in OPERATIONS for field in of.shared},
            "operations": [asdict(one) for one in self.fitted],
            "tables": [asdict(one) for one in self.used],
        }
        return envelope("calibrate-kernels", body)


@dataclass(frozen=True)
class RowProblem:
    """Rows of one operation, as a problem for `fit`.

    Parameters
    ----------
    calibration : the calibration that the factors multiply
    rows : the rows
    family : the only family with errors; None for all families
    """

    calibration: Calibration
    rows: Sequence[OperationRows]
    family: str | None = None

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:
        """log(predicted / measured) of the time of every row; NaN in other families than `family`."""
        calibration = turned(self.calibration, factors, theta)
        return np.concatenate([self._of(item, calibration) for item in self.rows])

    def touched(self, factor: Factor) -> RowProblem:
        """The rows of the family of a factor."""
        return RowProblem(self.calibration, self.rows, factor.families[0] if factor.families else None)

    def _of(self, item: OperationRows, calibration: Calibration) -> Floats:
        if self.family not in (None, item.machine.family):
            return np.full(len(item.measured), np.nan)
        return np.asarray(np.log(item.predict(rates(item.machine, calibration)) / item.measured))


@dataclass(frozen=True)
class KernelRows:
    """All rows of the chosen systems.

    Parameters
    ----------
    title : name of the tables
    rows : rows by operation
    used : kernel tables that were read
    """

    title: str
    rows: Mapping[str, list[OperationRows]] = dataclasses.field(repr=False)
    used: list[KernelTable] = dataclasses.field(repr=False)

    @classmethod
    def read(cls, root: Path, which: Which, say: Callable[[str], None] | None = None) -> KernelRows:
        """Read the kernel tables of a directory.

        Parameters
        ----------
        root : directory of the tables
        which : `default`, or `all` to include the systems that are held out
        say : receives progress messages; None for no messages

        Raises
        ------
        SpecError : there are no tables
        UnknownName : a system is not in the catalog
        """
        wanted = DEFAULT if which == "default" else DEFAULT | HELD_OUT
        tables = Tables(root)
        rows: dict[str, list[OperationRows]] = {operation.name: [] for operation in OPERATIONS}
        for system in tables.systems():
            if system not in DEFAULT | HELD_OUT:
                raise UnknownName("system of kernel tables", system, [*DEFAULT, *HELD_OUT], hint=str(root))
            if system not in wanted:
                continue
            if say:
                say(f"reading kernel tables of {system}")
            of = machine(wanted[system])
            for operation in OPERATIONS:
                rows[operation.name] += operation.build(tables, system, of)
        if not any(rows.values()):
            raise SpecError(f"no kernel tables of {', '.join(wanted)}", where=str(root))
        return cls(_title(root), rows, list(tables.used.values()))

    @property
    def devices(self) -> list[str]:
        """Names of the devices with rows."""
        return sorted({item.machine.device for rows in self.rows.values() for item in rows})

    def fit(
        self, prior: Calibration, *, name: str = "kernels", without: Collection[str] = (),
        say: Callable[[str], None] | None = None,
    ) -> KernelFit:  # fmt: skip
        """Fit the numbers that the rows determine. All other numbers keep their prior value.

        Parameters
        ----------
        prior : calibration that the fit starts from
        name : name of the fitted calibration
        without : devices whose rows are left out, and also the numbers of the prior from kernels of their family
        say : receives progress messages; None for no messages
        """
        calibration = prior.standalone({item.machine.family for rows in self.rows.values() for item in rows})
        kept = [item for rows in self.rows.values() for item in rows if item.machine.device not in without]
        calibration = measured_at(calibration, [item.machine for item in kept])
        calibration = calibration.model_copy(
            update={"lent": {}}
        )  # families that borrow also get the numbers of the tables
        fitted: list[Fitted] = []
        for operation in OPERATIONS:
            rows = self.rows[operation.name]
            calibration = _started(calibration, operation, rows)
            kept = [item for item in rows if item.machine.device not in without]
            if kept:
                if say:
                    say(f"fitting {operation.name}")
                calibration, results = _fit(calibration, operation, kept, self.title)
                fitted += results
        seen = f"{self.title}: {', '.join(device for device in self.devices if device not in without)}"
        calibration = calibration.model_copy(
            update={
                "name": name,
                "title": f"Kernels fitted on {seen}",
                "grade": "kernel-calibrated",
                "kernels": self._kernels(prior, without),
                "fitted_on": seen,
                "data_sha256": hashlib.sha256("".join(used.sha256 for used in self.used).encode()).hexdigest(),
            }
        )
        return KernelFit(calibration, fitted, self.used, prior.name)

    def _kernels(self, prior: Calibration, without: Collection[str]) -> dict[str, Silicon]:
        """The devices with rows of GEMMs and of experts, and those of the prior whose families have no rows."""
        families = {item.machine.family for rows in self.rows.values() for item in rows}
        kernels = {name: one for name, one in prior.kernels.items() if one.family not in families}
        gemms, experts = ({item.machine.device: item.machine for item in self.rows[name]} for name in GRADING)
        both = {name: Silicon.of(machine) for name, machine in gemms.items() if name in experts and name not in without}
        return dict(sorted((kernels | both).items()))


def measured_at(calibration: Calibration, machines: Sequence[Machine]) -> Calibration:
    """The calibration with the peaks at which the utilisations of its families are measured, see `Family.utilised`.

    Parameters
    ----------
    calibration : the calibration
    machines : machines with measured kernels. A family with several devices gets the geometric mean of their peaks
    """
    families = dict(calibration.families)
    for name in sorted({on.family for on in machines}):
        devices = {on.device: on.peak for on in machines if on.family == name}
        peaks: dict[str, list[float]] = {}
        for device in sorted(devices):
            for dtype, peak in devices[device].items():
                peaks.setdefault(dtype, []).append(peak)
        source = f"geometric mean of {', '.join(sorted(devices))}" if len(devices) > 1 else f"peak of {min(devices)}"
        families[name] = families[name].model_copy(
            update={
                "peak": {dtype: _peak(float(np.exp(np.mean(np.log(each)))), source) for dtype, each in peaks.items()}
            }
        )
    return calibration.model_copy(update={"families": families})


def _peak(value: float, source: str) -> Quantity:
    written = f"{value / 1e12:.4g} TFLOP/s"
    return Quantity(
        value=units.parse(written, "FLOP/s"), status="derived", source=source, written=written, unit="FLOP/s"
    )


def write(fitted: KernelFit, path: Path) -> None:
    """Write the fit as a catalog file. Comments list the error of every operation, and every table with its hash.

    Parameters
    ----------
    fitted : the fit
    path : the file
    """
    lines = [f"# {fitted.calibration.title}. Mean |log(predicted / measured)| by operation:"]
    lines += [
        f"# {one.family}, {one.operation}: {one.rows:,} rows, {one.error:.3f} "
        f"({', '.join(f'{kind} {error:.3f}' for kind, error in one.errors.items())}), bias {100 * one.bias:+.1f} %"
        for one in fitted.fitted
    ]
    lines += ["# Tables: rows, repeated rows, sha256."]
    lines += [f"# {used.path}: {used.rows:,}, {used.repeated:,}, {used.sha256}" for used in fitted.used]
    write_file(fitted.calibration, lines, path)


def _title(root: Path) -> str:
    """Name of the tables: `aiconfigurator-core 0.12.0` for the installed package, else the name of the directory."""
    if root.parent.parent.name != WHEEL.replace("-", "_"):
        return root.name
    try:
        return f"{WHEEL} {version(WHEEL)}"
    except PackageNotFoundError:
        return WHEEL


def _started(calibration: Calibration, operation: Operation, rows: Sequence[OperationRows]) -> Calibration:
    """The calibration with start values for all numbers that rows determine: the prior may know left-out rows."""
    families = dict(calibration.families)
    shared = {field: _at(getattr(calibration, field), field) for field in operation.shared if rows}
    for name in {item.machine.family for item in rows}:
        for field in _fields(operation, [item for item in rows if item.machine.family == name]):
            families[name] = changed(families[name], field, partial(_at, field=field))
    return calibration.model_copy(update={"families": families, **shared})


def _at(was: Quantity, field: str) -> Quantity:
    return written_as(was.model_copy(update={"value": START[field.partition(".")[0]]}), "assumed", UNSEEN)


def _fields(operation: Operation, rows: Sequence[OperationRows]) -> list[str]:
    """Numbers that the rows of one family determine: rates of the dtypes of its devices, and of their networks."""
    dtypes = {dtype for item in rows for dtype in item.machine.peak}
    outer = any(item.machine.scale_out for item in rows)
    return [
        field for field in operation.fields
        if ("." not in field or field.partition(".")[2] in dtypes) and (field != "dispatch_out" or outer)
    ]  # fmt: skip


def _fit(
    calibration: Calibration, operation: Operation, rows: Sequence[OperationRows], title: str
) -> tuple[Calibration, list[Fitted]]:
    families = list(dict.fromkeys(item.machine.family for item in rows))
    mine = {name: [item for item in rows if item.machine.family == name] for name in families}
    factors = [Factor((name,), field, SPREAD, name) for name in families for field in _fields(operation, mine[name])]
    factors += [Factor((), field, SPREAD) for field in operation.shared]
    result = fit(RowProblem(calibration, rows), factors, enough=1e-5)
    calibrated = turned(calibration, factors, result.theta)
    sizes = [len(item.measured) for item in rows]
    of = np.repeat([item.machine.family for item in rows], sizes)
    kind = np.repeat([item.name for item in rows], sizes)
    new, fitted = dict(calibrated.families), []
    for name in families:
        errors, kinds = result.errors[of == name], kind[of == name]
        devices = tuple(dict.fromkeys(item.machine.device for item in mine[name]))
        error = float(np.mean(np.abs(errors)))
        source = _source(title, devices, operation, errors)
        values, written = {}, {}
        for field in _fields(operation, mine[name]):
            new[name] = changed(new[name], field, partial(written_as, status="measured", source=source))
            (quantity,) = quantities(new[name], field)
            values[field], written[field] = number(quantity), quantity.written
        each = {str(one): float(np.mean(np.abs(errors[kinds == one]))) for one in np.unique(kinds)}
        bias = float(np.expm1(np.median(errors)))
        fitted.append(Fitted(name, operation.name, devices, len(errors), error, bias, each, values, written))
    everywhere = _source(title, dict.fromkeys(item.machine.device for item in rows), operation, result.errors)
    shared = {field: written_as(getattr(calibrated, field), "measured", everywhere) for field in operation.shared}
    return calibrated.model_copy(update={"families": new, **shared}), fitted


def _source(title: str, devices: Iterable[str], operation: Operation, errors: Floats) -> str:
    error = np.mean(np.abs(errors))
    fitted = f"fit of {len(errors):,} rows of {operation.name}, mean |log error| {error:.2f}"
    return f"kernel tables of {title}, {', '.join(devices)}: {fitted}"


def written_as(quantity: Quantity, status: Literal["measured", "assumed"], source: str) -> Quantity:
    """The quantity rounded to the digits of a fit, with its status and source.

    Parameters
    ----------
    quantity : the fitted number
    status : how the number is known
    source : where the number comes from
    """
    value = number(quantity)
    scale, unit = (1.0, "") if quantity.unit != "s" else (1e9, " ns") if value < 1e-6 else (1e6, " us")
    written = f"{scale * value:.{DIGITS}g}{unit}"
    value = units.parse(written, quantity.unit)
    return Quantity(value=value, status=status, source=source, written=written, unit=quantity.unit)
