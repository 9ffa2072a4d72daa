"""Legal deployments -> bound -> estimate -> Pareto front. Callable: `tokenworks.plan(...)` is `plan.api.plan`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Once this package is imported it is the attribute `tokenworks.plan`, where users expect the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return plan(*args, **kwargs)


def plan(*args: Any, **kwargs: Any) -> Any:
    """See `tokenworks.plan.api.plan`; imported when it is called."""
    from tokenworks.plan import api

    return api.plan(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
