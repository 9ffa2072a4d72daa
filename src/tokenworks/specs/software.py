"""Software stacks with measured points: how much longer a step takes there than all other constants say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field

from tokenworks.arrays import FloatArray
from tokenworks.specs.model import Model, parameters
from tokenworks.specs.provenance import Spec

PRIOR_DEVICES = 1.0
"""Devices without an error that the prior of a factor counts as, on a device without points of its own: variance
between the devices of one engine with one model / variance between engines and models. Its estimates are 0.9 with and
1.6 without outliers, and 1.4 and 2.2 for the change of a factor with the TP width [count]."""

DIGITS = 4
"""Significant digits of a factor."""


Time: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SoftwareKey(NamedTuple):
    """What makes a software stack, see `Software`."""

    device: str
    engine: str
    architecture: str
    parameters: int
    weights: str
    drafts: bool

    @classmethod
    def of(cls, device: str, engine: str, model: Model, *, drafts: bool) -> SoftwareKey:
        """The software stack of an engine with a model on a device.

        Parameters
        ----------
        device, engine : name of the device, and of the engine
        model : the model with its weights
        drafts : whether steps have draft tokens
        """
        return cls(device, engine, model.architecture, parameters(model), model.weights, drafts)

    def on(self, device: str) -> SoftwareKey:
        """The same engine and model on another device.

        Parameters
        ----------
        device : name of the other device
        """
        return self._replace(device=device)


class Software(Spec):
    """One software stack: an engine with a model on a device, with or without draft tokens.

    A measured point does not state the version of the engine, its kernels for the model, and most of its settings. What
    they do together is in `time`.

    Parameters
    ----------
    device, engine : name of the device, and of the serving engine
    model : name of the measured model
    architecture, parameters : `model_type` and size of it. A model with both equal is the same one to an engine, such
        as a fine-tuned one
    weights : dtype of most of the weights (`Model.weights`)
    drafts : whether steps have draft tokens (MTP)
    time : TP width -> time of a step / its time by all other constants [-]; see `at` for other widths
    points, splits : measured points, and different splits among them [count]
    measured_on : other devices of the vendor that have the points; empty: the device itself has them
    """

    device: str
    engine: str
    model: str
    architecture: str
    parameters: Annotated[int, Field(ge=1)]
    weights: str
    drafts: bool
    time: Annotated[dict[Annotated[int, Field(ge=1)], Time], Field(min_length=1)]
    points: Annotated[int, Field(ge=1)]
    splits: Annotated[int, Field(ge=1)]
    measured_on: tuple[str, ...] = ()

    @classmethod
    def like(cls, others: Sequence[Software], device: str) -> Software:
        """The factor of a device without points of its own: the geometric mean of other devices, pulled to 1.

            ln time(tp) = sum over devices (ln time(tp)) / (devices + PRIOR_DEVICES)

        The factors of one engine with one model resemble each other on devices of one vendor, which share kernels.

        Parameters
        ----------
        others : the same engine with the same model on other devices, at least one (see `Calibration.software_on`)
        device : name of the device
        """
        counted = len(others) + PRIOR_DEVICES
        turns = {
            tp: sum(math.log(float(one.at(tp))) for one in others) / counted
            for tp in sorted({tp for one in others for tp in one.time})
        }
        return others[0].model_copy(
            update={
                "device": device,
                "time": {tp: rounded(math.exp(turn)) for tp, turn in turns.items()},
                "points": sum(one.points for one in others),
                "splits": sum(one.splits for one in others),
                "measured_on": tuple(sorted(one.device for one in others)),
            }
        )

    def at(self, tp: FloatArray) -> FloatArray:
        """The factor at TP widths: a line over log2(tp) in its logarithm; outside, as at the nearest width [-].

        Parameters
        ----------
        tp : TP widths [-]
        """
        widths = sorted(self.time)
        times = np.log([self.time[one] for one in widths])
        return np.exp(np.interp(np.log2(tp), np.log2(widths), times))

    def used(self, widths: Iterable[int]) -> Software:
        """The same stack with its factors at some TP widths alone, such as those of a deployment.

        Parameters
        ----------
        widths : the TP widths, at least one [-]
        """
        return self.model_copy(update={"time": {tp: rounded(float(self.at(tp))) for tp in sorted(widths)}})

    @property
    def key(self) -> SoftwareKey:
        """What makes a software stack: two of them with one key are the same."""
        return SoftwareKey(self.device, self.engine, self.architecture, self.parameters, self.weights, self.drafts)

    @property
    def words(self) -> str:
        """A sentence for users: what the step times rest on."""
        mtp = ", MTP" if self.drafts else ""
        points = f"{self.points} points" if self.splits > 1 else f"{self.points} points of one split"
        devices = ", ".join(self.measured_on or (self.device,))
        none = f", and none on {self.device}" if self.measured_on else ""
        return (
            f"Step times are {times_words(self.time)} x what all other numbers give: {points} of {self.engine} with "
            f"{self.model} ({self.weights}{mtp}) on {devices} were measured{none}."
        )

    def runs(self, engine: str, model: Model) -> bool:
        """Whether the stack has this engine and this model.

        Parameters
        ----------
        engine : name of the engine
        model : the model with its weights
        """
        return self.key == SoftwareKey.of(self.device, engine, model, drafts=self.drafts)


def rounded(time: float) -> float:
    """A factor with `DIGITS` digits, as it is written [-].

    Parameters
    ----------
    time : the factor [-]
    """
    return float(f"{time:.{DIGITS}g}")


def times_words(time: Mapping[int, float]) -> str:
    """The factors at the smallest and at the largest TP width in words, such as `1.08 (TP 1) to 0.98 (TP 8)`.

    Parameters
    ----------
    time : TP width -> factor [-], as in `Software`
    """
    least, most = min(time), max(time)
    ends = [f"{time[tp]:.2f}" for tp in (least, most)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} (TP {least}) to {ends[1]} (TP {most})"
