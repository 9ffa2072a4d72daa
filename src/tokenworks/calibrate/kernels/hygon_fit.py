"""Fit the numbers of the family `hygon-dcu` on the rows of `hygon`, with the error of each row that was left out.

The rows determine six numbers: the rates of dense GEMMs, of the experts in 16 and in 8 bits and of prefill attention,
the memory bandwidth of experts, and three latencies of expert layers. No other number of the family is in the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.factors import Factor, changed, quantities, turned
from tokenworks.calibrate.fit import fit
from tokenworks.calibrate.kernels import hygon
from tokenworks.calibrate.kernels.fit import SPREAD, START, RowProblem, measured_at
from tokenworks.calibrate.kernels.operations import OperationRows
from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.provenance import Quantity

FAMILY = "hygon-dcu"
NARROW = 0.8
"""Utilisation of dense GEMMs in 8 bits / in 16 bits: 0.80 on H100 and H200, 0.83 on B200, 0.80 on L40S in the kernel
tables, and 0.80 assumed for AMD. No dense 8-bit GEMM of the cards is public [-]."""

DECODE = 0.87
"""Utilisation of decode attention / of prefill attention: 0.84 on H100 and H200, 0.91 on B200 and GB200 in the kernel
tables. No decode attention of the cards is public [-]."""

LATENT = 128
"""Largest number of tokens of a rank for the fit of the latency of dispatch: below, the links carry next to nothing
[token]."""


LEAST = 2
"""Smallest number of items of an operation [count]."""


@dataclass(frozen=True, slots=True)
class CardOperation:
    """One operation of the fit.

    Parameters
    ----------
    name : name of the operation
    fields : numbers that the fit changes
    read : reads the rows from the folder of the tables
    after : makes assumed numbers from the fitted ones
    """

    name: str
    fields: tuple[str, ...]
    read: Callable[[Path], list[OperationRows]]
    after: Callable[[Calibration], Calibration] = lambda calibration: calibration


@dataclass(frozen=True, slots=True)
class CardFitted:
    """Fit of one operation.

    Parameters
    ----------
    operation : name of the operation
    values : field -> fitted number in SI units
    rows : number of rows
    errors : item -> log(predicted / measured) of its rows in the fit [-]
    left_out : item -> the same errors, from a fit without this item [-]
    """

    operation: str
    values: Mapping[str, float]
    rows: int
    errors: Mapping[str, Floats]
    left_out: Mapping[str, Floats]

    @property
    def error(self) -> float:
        """Mean |log(predicted / measured)| of all rows [-]."""
        return float(np.mean(np.abs(np.concatenate(list(self.errors.values())))))

    @property
    def left_out_error(self) -> float:
        """Mean |log(predicted / measured)| of all rows, each predicted by a fit without its item [-]."""
        return float(np.mean(np.abs(np.concatenate(list(self.left_out.values())))))


def _with(calibration: Calibration, **values: float) -> Calibration:
    """The calibration with other numbers of the family; `__` in a name stands for a dot."""
    family = calibration.families[FAMILY]
    for name, value in values.items():
        family = changed(family, name.replace("__", "."), partial(_at, value=value))
    return calibration.model_copy(update={"families": calibration.families | {FAMILY: family}})


def _at(quantity: Quantity, value: float) -> Quantity:
    return quantity.model_copy(update={"value": value})


def _value(calibration: Calibration, field: str) -> float:
    return number(quantities(calibration.families[FAMILY], field)[0])


def _narrow(calibration: Calibration) -> Calibration:
    """Dense GEMMs in 8 bits, from those in 16 bits."""
    share = NARROW * _value(calibration, "gemm.bf16")
    return _with(calibration, gemm__fp8=share, gemm__int8=share)


def _decode(calibration: Calibration) -> Calibration:
    """Decode attention, from prefill attention."""
    share = DECODE * _value(calibration, "attention_prefill")
    return _with(calibration, attention_decode=share, latent_decode=share)


OPERATIONS: Sequence[CardOperation] = (
    CardOperation("GEMM", ("gemm.bf16",), hygon.gemm_rows, _narrow),
    CardOperation("experts", ("grouped", "experts_hbm", "experts_start", "expert"), hygon.expert_rows),
    CardOperation("grouped GEMM", ("grouped.bf16",), hygon.grouped_rows),
    CardOperation("attention", ("attention_prefill",), hygon.attention_rows, _decode),
    CardOperation("expert layers", ("dispatch_start",), partial(hygon.layer_rows, most=LATENT)),
)
"""All operations, in the order of the fit. A rate of experts is a share of the rate of dense GEMMs. Experts have one
share for both 8-bit dtypes, because their rows agree; `grouped GEMM` then gives 16 bits another one."""


def fit_card(folder: Path, prior: Calibration) -> tuple[Calibration, list[CardFitted]]:
    """Fit the numbers of the family.

    Parameters
    ----------
    folder : folder of the tables
    prior : calibration that gives all other numbers, such as `datasheet`

    Returns
    -------
    The calibration with the fitted numbers, and the fit of each operation.

    Raises
    ------
    SpecError : a table is missing, a row is not valid, or an operation has too few rows
    """
    fitted: list[CardFitted] = []
    tables = [operation.read(folder) for operation in OPERATIONS]
    dense = tables[0][:1]  # the peak at which GEMMs were measured counts for all operations
    calibration = measured_at(prior.standalone([FAMILY]), [item.machine for item in dense])
    for operation, items in zip(OPERATIONS, tables, strict=True):
        if len(items) < LEAST:
            raise SpecError(
                f"{len(items)} kernels or series of {operation.name}", where=str(folder),
                hint=f"a fit that leaves out each in turn needs at least {LEAST}",
            )  # fmt: skip
        start = _with(
            calibration, **{field.replace(".", "__"): START[field.partition(".")[0]] for field in operation.fields}
        )
        without = {item.name: [other for other in items if other is not item] for item in items}
        left = {item.name: _errors(item, _fitted(start, operation, without[item.name])) for item in items}
        calibration = _fitted(start, operation, items)
        errors = {item.name: _errors(item, calibration) for item in items}
        values = {field: _value(calibration, field) for field in operation.fields}
        fitted.append(CardFitted(operation.name, values, sum(map(len, errors.values())), errors, left))
    return calibration, fitted


def _fitted(start: Calibration, operation: CardOperation, items: Sequence[OperationRows]) -> Calibration:
    factors = [Factor((FAMILY,), field, SPREAD, FAMILY) for field in operation.fields]
    result = fit(RowProblem(start, items), factors, enough=1e-5)
    return operation.after(turned(start, factors, result.theta))


def _errors(item: OperationRows, calibration: Calibration) -> Floats:
    """log(predicted / measured) of the rows of an item."""
    return np.asarray(np.log(item.predict(rates(item.machine, calibration)) / item.measured))


def layer_errors(folder: Path, calibration: Calibration, skew: float | None = None) -> dict[str, dict[int, float]]:
    """Errors of all expert layers with dispatch and combine.

    Parameters
    ----------
    folder : folder of the tables
    calibration : the calibration of the prediction
    skew : log-deviation of expert popularity; None: the skew of the calibration [-]

    Returns
    -------
    Machine, mode and ranks -> tokens of a rank -> predicted / measured - 1 [-].

    Raises
    ------
    SpecError : the table is missing, or a row is not valid
    """
    return {
        item.name: {
            int(tokens): float(error)
            for tokens, error in zip(
                hygon.tokens_of(folder, item.name), np.expm1(_errors(item, calibration)), strict=True
            )
        }
        for item in hygon.layer_rows(folder, skew=skew)
    }
