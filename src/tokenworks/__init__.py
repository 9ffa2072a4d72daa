"""tokenworks: a token factory in software."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenworks.api import (
        advise,
        availability,
        capacity,
        claims,
        compare,
        compare_training,
        emit,
        estimate,
        fit,
        import_launch,
        import_training,
        load_machine,
        load_model,
        load_trace,
        plan,
        predictor,
        simulate,
        sweep,
        train,
        validate,
    )
    from tokenworks.endpoints import record, serve
    from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError, UnknownName
    from tokenworks.specs.deployment import Deployment
    from tokenworks.specs.slo import Slo
    from tokenworks.specs.workload import Workload

__version__ = "0.1.0"

# Each public name and the module it lives in; imported on first use so that `import tokenworks` stays fast.
_PUBLIC = {
    "Deployment": "specs.deployment",
    "DoesNotFit": "errors",
    "Slo": "specs.slo",
    "SloMissed": "errors",
    "SpecError": "errors",
    "TokenworksError": "errors",
    "UnknownName": "errors",
    "Workload": "specs.workload",
    "advise": "api",
    "availability": "api",
    "capacity": "api",
    "claims": "api",
    "compare": "api",
    "compare_training": "api",
    "emit": "api",
    "estimate": "api",
    "fit": "api",
    "import_launch": "api",
    "import_training": "api",
    "load_machine": "api",
    "load_model": "api",
    "load_trace": "api",
    "plan": "api",
    "predictor": "api",
    "record": "endpoints",
    "serve": "endpoints",
    "simulate": "api",
    "sweep": "api",
    "train": "api",
    "validate": "api",
}

__all__ = [
    "Deployment",
    "DoesNotFit",
    "Slo",
    "SloMissed",
    "SpecError",
    "TokenworksError",
    "UnknownName",
    "Workload",
    "advise",
    "availability",
    "capacity",
    "claims",
    "compare",
    "compare_training",
    "emit",
    "estimate",
    "fit",
    "import_launch",
    "import_training",
    "load_machine",
    "load_model",
    "load_trace",
    "plan",
    "predictor",
    "record",
    "serve",
    "simulate",
    "sweep",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tokenworks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tokenworks.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
