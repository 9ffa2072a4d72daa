"""docs/python.md and the Python section of README.md: their snippets run, and name what there is."""

import re
from pathlib import Path
from typing import Any

import pytest

import tokenworks

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.+?)```", text, re.DOTALL)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("text", [PAGE, README], ids=["page", "readme"])
def test_the_snippets_run_in_their_order(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    assert snippets(text)
    for snippet in snippets(text):
        exec(compile(snippet, "snippet", "exec"), names)
    printed = capsys.readouterr().out
    if text is PAGE:
        assert "unknown system 'hgx-h1000'" in printed
        for row in re.findall(r"^\| `(\w+)\(.*?\| `\w+`: (.+) \|$", PAGE, re.MULTILINE):
            result = names.get({"plan": "plan", "simulate": "run", "capacity": "held"}.get(row[0], ""))
            attributes = re.findall(r"`\.(\w+)`", row[1])
            assert attributes
            assert result is None or all(hasattr(result, name) for name in attributes)


def test_every_public_function_and_error_is_on_the_page() -> None:
    assert [name for name in tokenworks.__all__ if name not in PAGE] == []
