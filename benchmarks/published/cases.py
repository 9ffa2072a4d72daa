"""Read `cases.yaml`: figures that operators, vendors and benchmarks published, and how they are read."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

PATH = Path(__file__).with_name("cases.yaml")
Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Strict):
    """One published figure.

    Parameters
    ----------
    id : key of the prediction
    what : what was measured
    at : split, batch or load of the measurement
    value, unit : the published value
    """

    id: Text
    what: Text
    at: Text
    value: Annotated[float, Field(gt=0)]
    unit: Text


class Case(_Strict):
    """Figures of one publication.

    Parameters
    ----------
    id : key of the case
    title : heading of its section
    source : where the figures were published, with their date
    figures : the published figures
    commands : commands that print the predictions
    reading : how the figures are read
    assumed : inputs that the source does not state, and the values used instead
    misses : why predictions differ
    """

    id: Text
    title: Text
    source: Text
    figures: Annotated[tuple[Figure, ...], Field(min_length=1)]
    commands: Annotated[tuple[Text, ...], Field(min_length=1)]
    reading: tuple[Text, ...]
    assumed: tuple[Text, ...]
    misses: Annotated[tuple[Text, ...], Field(min_length=1)]


class NotPredicted(_Strict):
    """A published figure without a prediction, and the reason."""

    figure: Text
    why: Text


class Published(_Strict):
    """All published figures."""

    cases: tuple[Case, ...]
    not_predicted: tuple[NotPredicted, ...]


@functools.cache
def published() -> Published:
    """The content of `cases.yaml`."""
    return Published.model_validate(yaml.safe_load(PATH.read_text(encoding="utf-8")))
