"""Software stacks with measured points: how much longer a step takes there than all other constants say."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

from tokenworks.specs.model import Model, parameters
from tokenworks.specs.provenance import Spec


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

    @property
    def key(self) -> SoftwareKey:
        """What makes a software stack: two of them with one key are the same."""
        return SoftwareKey(self.device, self.engine, self.architecture, self.parameters, self.weights, self.drafts)

    @property
    def words(self) -> str:
        """A sentence for users: what the step times rest on."""
        mtp = ", MTP" if self.drafts else ""
        points = f"{self.points} points" if self.splits > 1 else f"{self.points} points of one split"
        return (
            f"Step times are {self.time:.2f} x what all other numbers give: {points} of {self.engine} with "
            f"{self.model} ({self.weights}{mtp}) on {self.device} were measured."
        )

    def runs(self, engine: str, model: Model) -> bool:
        """Whether the stack has this engine and this model.

        Parameters
        ----------
        engine : name of the engine
        model : the model with its weights
        """
        return self.key == SoftwareKey.of(self.device, engine, model, drafts=self.drafts)
