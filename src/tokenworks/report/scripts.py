"""The JavaScript that draws the charts of a page: Vega, Vega-Lite and Vega-Embed, as vl-convert ships them."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
from pathlib import Path

from tokenworks.errors import SpecError

FILES = Path(__file__).parent / "files"
"""Folder with the template, the style, the script and the licences."""

NEEDED = ("altair", "jinja2", "vl_convert")


def must_be_installed(what: str) -> None:
    """Check that the libraries of the extra `report` are there.

    Parameters
    ----------
    what : the option that needs them, for the message

    Raises
    ------
    SpecError : a library is missing
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        hint = "install the extra: pip install 'tokenworks[report]'"
        raise SpecError(f"a page needs {', '.join(missing)}, which is not installed", where=what, hint=hint)


@functools.cache
def vega() -> str:
    """The libraries as one script. The script sets `window.vegaEmbed`, and contains no end of a script element."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def hashed(script: str) -> str:
    """The source expression of a Content-Security-Policy that allows this inline script, and no other."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def file_text(name: str) -> str:
    """Text of a file of the folder `files`."""
    return (FILES / name).read_text(encoding="utf-8")
