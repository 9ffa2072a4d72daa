"""Whether the packages of the endpoint are installed."""

from __future__ import annotations

from importlib.util import find_spec

from tokenworks.errors import SpecError


def must_be_installed(where: str) -> None:
    """Refuse to go on without httptools.

    Parameters
    ----------
    where : what needs it, for the message
    """
    if find_spec("httptools") is None:
        raise SpecError("needs the package httptools", where=where, hint='pip install "tokenworks[serve]"')
