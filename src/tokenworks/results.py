"""The kinds of results that commands print, and their JSON Schemas.

`python -m tokenworks.results` writes the schemas to the catalog. A test compares these files with this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tokenworks.calibrate.calibrate import CalibrateBody
from tokenworks.calibrate.intervals import CalibrateIntervalsBody
from tokenworks.calibrate.kernels.fit import KernelsBody
from tokenworks.calibrate.leave_out import LeaveOutBody
from tokenworks.calibrate.own_machine import CalibrateOwnBody
from tokenworks.calibrate.training_fit import CalibrateTrainingBody
from tokenworks.calibrate.training_validate import ValidateTrainingBody
from tokenworks.calibrate.validate import ValidateBody
from tokenworks.launch.emit import EmitBody
from tokenworks.launch.importing import ImportBody
from tokenworks.launch.training import ImportTrainingBody
from tokenworks.ledger.advise import AdviseBody
from tokenworks.ledger.availability_result import AvailabilityBody
from tokenworks.ledger.claims.result import ClaimsBody
from tokenworks.ledger.comparison import CompareBody
from tokenworks.ledger.sweep import SweepBody
from tokenworks.ledger.train_comparison import CompareTrainingBody
from tokenworks.planning.estimate import EstimateBody
from tokenworks.planning.fit import FitBody
from tokenworks.planning.listing import CatalogBody, EntryBody, ModelBody, ModelsBody, SystemBody, SystemsBody
from tokenworks.planning.result import PlanBody
from tokenworks.planning.train_result import TrainBody
from tokenworks.planning.train_why import TrainWhyBody
from tokenworks.planning.why import WhyBody
from tokenworks.simulation.capacity import CapacityBody
from tokenworks.simulation.shape import SimulateBody
from tokenworks.specs.load import CATALOG
from tokenworks.specs.result import Plain, schema_name
from tokenworks.traffic.statistics import TraceBody

KINDS: dict[str, Any] = {
    "systems": SystemsBody,
    "system": SystemBody,
    "models": ModelsBody,
    "model": ModelBody,
    "catalog": CatalogBody,
    "catalog-entry": EntryBody,
    "fit": FitBody,
    "estimate": EstimateBody,
    "plan": PlanBody,
    "plan-why": WhyBody,
    "train": TrainBody,
    "train-why": TrainWhyBody,
    "compare": CompareBody,
    "compare-training": CompareTrainingBody,
    "simulate": SimulateBody,
    "capacity": CapacityBody,
    "availability": AvailabilityBody,
    "claims": ClaimsBody,
    "emit": EmitBody,
    "import": ImportBody,
    "import-training": ImportTrainingBody,
    "advise": AdviseBody,
    "sweep": SweepBody,
    "trace": TraceBody,
    "validate": ValidateBody,
    "validate-training": ValidateTrainingBody,
    "calibrate": CalibrateBody,
    "calibrate-own": CalibrateOwnBody,
    "calibrate-intervals": CalibrateIntervalsBody,
    "calibrate-kernels": KernelsBody,
    "calibrate-leave-out": LeaveOutBody,
    "calibrate-training": CalibrateTrainingBody,
}
"""Kind -> type of its body, which has all keys except the keys of the envelope."""


def json_schema(kind: str) -> Plain:
    """The JSON Schema of a kind: its body in the envelope. Objects may have further keys, so that a kind may grow."""
    body = TypeAdapter(KINDS[kind]).json_schema(mode="serialization")
    name = schema_name(kind)
    properties = {
        "schema": {"const": name},
        "kind": {"const": kind},
        **body["properties"],
        "wall": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{name}", "title": name}
    required = ["schema", "kind", *body["required"], "wall"]
    return {**head, **{key: body[key] for key in ("description", "type", "$defs") if key in body},
            "properties": properties, "required": required}  # fmt: skip


def path_of(kind: str) -> Path:
    """Where the catalog has the schema of a kind."""
    return CATALOG / "schemas" / f"{kind}.json"


def written(kind: str) -> str:
    """The text of the file."""
    return json.dumps(json_schema(kind), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in KINDS:
        path_of(each).parent.mkdir(exist_ok=True)
        path_of(each).write_text(written(each), encoding="utf-8")
