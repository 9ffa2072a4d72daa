"""tokenworks: a token factory in software."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError, UnknownName
    from tokenworks.planning.plan import plan
    from tokenworks.simulation.run import simulate

__version__ = "0.1.0"

# Each public name and the module it lives in; imported on first use so that `import tokenworks` stays fast.
_PUBLIC = {
    "DoesNotFit": "errors",
    "SloMissed": "errors",
    "SpecError": "errors",
    "TokenworksError": "errors",
    "UnknownName": "errors",
    "plan": "planning.plan",
    "simulate": "simulation.run",
}

__all__ = ["DoesNotFit", "SloMissed", "SpecError", "TokenworksError", "UnknownName", "plan", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tokenworks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tokenworks.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
