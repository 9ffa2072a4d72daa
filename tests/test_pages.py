"""Pages of the documentation: links lead somewhere, and options are those of the command line."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("*.md"))
OPTIONS = {
    path.stem: set(re.findall(r"(?<!\S)--?[a-z][\w-]*", " ".join(re.findall(r"^.*?(?= \()", path.read_text(), re.M))))
    for path in (Path(__file__).parent / "cli" / "options").glob("*.txt")
}
CODE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", head).lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s#]*)#?([^)\s]*)\)", CODE.sub("", page.read_text()))
    for file, heading in links:
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name} links to {file}"
        assert not heading or heading in anchors(target), f"{page.name} links to {file}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_have_their_options(page: Path) -> None:
    text = re.sub(r"\\\n", " ", page.read_text())
    text = re.sub(r"'[^'\n]*'", "", text)  # a launch command of an engine
    for verb, words in re.findall(r"tokenworks ([a-z]+)\b([^\n`|#]*)", text):
        used = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", words)) - {"--help"}
        assert not used - OPTIONS.get(verb, used), f"{page.name}: tokenworks {verb}{words}"


def test_every_option_stands_on_a_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    silent = [f"{verb} {name}" for verb, names in OPTIONS.items() for name in names if not name.startswith("--no-")]
    assert [one for one in silent if not re.search(rf"{re.escape(one.split()[1])}(?![\w-])", text)] == []
