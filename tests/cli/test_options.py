"""The command line is frozen: every option of every verb with its default and its help, in `options/VERB.txt`.

After a new verb, or a change that is meant, `python -m tests.cli.test_options` writes the files; the diff shows it.
"""

import importlib
from pathlib import Path

import pytest
from cyclopts import App

from tokenworks.cli import NAMES, VERBS

FROZEN = Path(__file__).parent / "options"


def options(verb: str) -> str:
    """One option a line, positional ones first: names, type, default and help."""
    app = App()
    name = NAMES.get(verb, verb)
    app.default(getattr(importlib.import_module(f"tokenworks.cli.{name}"), name))
    lines = []
    for one in app.assemble_argument_collection(parse_docstring=True):
        if "*" in one.names:  # the group that an option stands in is not seen by users
            continue
        default = "required" if one.required else repr(one.field_info.default)
        switch = ", no --no- twin" if one.parameter.negative == () and one.hint is bool else ""
        place = -1 if one.index is None else -one.index - 2
        hint = one.hint.__name__ if isinstance(one.hint, type) else str(one.hint)
        names = " ".join(sorted(one.names))
        text = " ".join((one.parameter.help or "").split())
        lines.append((place, f"{names} ({hint}, {default}{switch}): {text}"))
    return "".join(f"{line}\n" for _, line in sorted(lines))


@pytest.mark.parametrize("verb", VERBS)
def test_options_are_frozen(verb: str) -> None:
    assert options(verb) == (FROZEN / f"{verb}.txt").read_text()


def test_only_verbs_have_a_file() -> None:
    assert {path.stem for path in FROZEN.glob("*.txt")} == set(VERBS)


if __name__ == "__main__":
    for each in VERBS:
        (FROZEN / f"{each}.txt").write_text(options(each))
