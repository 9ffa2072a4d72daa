"""Calibrations by name or by path."""

from __future__ import annotations

from pathlib import Path

from tokenworks.specs import load
from tokenworks.specs.calibration import Calibration, load_calibration


def find_calibration(name_or_path: str) -> Calibration:
    """A calibration of the catalog, or of a YAML file."""
    if load.is_path(name_or_path):
        return load.validate(Calibration, load.read_yaml(Path(name_or_path)), name_or_path)
    return load_calibration(name_or_path)
