"""Software stacks with measured points: how much longer a step takes there than all other constants say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from tokenworks.specs.model import Model, parameters
from tokenworks.specs.provenance import Spec

PRIOR_DEVICES = 1.0
"""Devices without an error that the prior of a factor counts as, on a device without points of its own. With
0.5 or 2, the errors of each measured device differ by less than 1 point; chosen [count]."""

DIGITS = 4
"""Significant digits of a factor."""


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
    time : time of a step / its time by all other constants [-]
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
    time: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    points: Annotated[int, Field(ge=1)]
    splits: Annotated[int, Field(ge=1)]
    measured_on: tuple[str, ...] = ()

    @classmethod
    def like(cls, others: Sequence[Software], device: str) -> Software:
        """The factor of a device without points of its own: the geometric mean of other devices, pulled to 1.

            ln time = sum over devices (ln time) / (devices + PRIOR_DEVICES)

        The factors of one engine with one model resemble each other on devices of one vendor, which share kernels.

        Parameters
        ----------
        others : the same engine with the same model on other devices, at least one (see `Calibration.software_on`)
        device : name of the device
        """
        turn = sum(math.log(one.time) for one in others) / (len(others) + PRIOR_DEVICES)
        return others[0].model_copy(
            update={
                "device": device,
                "time": float(f"{math.exp(turn):.{DIGITS}g}"),
                "points": sum(one.points for one in others),
                "splits": sum(one.splits for one in others),
                "measured_on": tuple(sorted(one.device for one in others)),
            }
        )

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
            f"Step times are {self.time:.2f} x what all other numbers give: {points} of {self.engine} with "
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
