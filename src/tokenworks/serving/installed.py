"""Whether the packages of the endpoint are installed."""

from __future__ import annotations

from importlib.util import find_spec

from tokenworks.errors import SpecError


def must_be_installed(where: str) -> None:
    """Refuse to go on without httptools and aiohttp.

    Parameters
    ----------
    where : what needs it, for the message
    """
    for package in ("httptools", "aiohttp"):
        if find_spec(package) is None:
            raise SpecError(f"needs the package {package}", where=where, hint='pip install "tokenworks[serve]"')
