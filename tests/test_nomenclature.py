"""docs/nomenclature.md against the code: every column and every JSON key has an entry, and no entry is out of date."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tokenworks
from tokenworks.simulation import per_request

SOURCE = Path(tokenworks.__file__).parent
REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "nomenclature.md"
SCHEMAS = sorted((SOURCE / "catalog" / "schemas").glob("*.json"))
SIDES = {"left", "right"}


def entries() -> dict[str, str]:
    """Every name in the first column of a table of the page, with the heading of its section."""
    names: dict[str, str] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        if not line.startswith("| ") or line.startswith(("| name ", "| key ", "| value ", "| column ")):
            continue
        cell = re.split(r"(?<!\\)\|", line)[1].strip().replace("\\|", "|")
        quoted = re.findall(r"`([^`]+)`", cell)
        names |= dict.fromkeys(quoted or cell.split(", "), section)
    return names


# ── what the commands print ───────────────────────────────────────────────────────────────────────────────────────


def words_of(node: ast.AST, constants: dict[str, ast.AST]) -> set[str]:
    """All words in an expression.

    A name stands for its tuple, or for the keys of its dict. `name.values()` stands for the values of the dict.
    """
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, ast.Name):
        known = constants.get(node.id)
        others = {name: value for name, value in constants.items() if name != node.id}
        parts = [] if known is None else known.keys if isinstance(known, ast.Dict) else [known]
        return set().union(*(words_of(part, others) for part in parts if part))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values":
        owner = node.func.value
        known = constants.get(owner.id) if isinstance(owner, ast.Name) else owner
        return (
            set().union(*(words_of(value, constants) for value in known.values))
            if isinstance(known, ast.Dict)
            else set()
        )
    return set().union(*(words_of(part, constants) for part in ast.iter_child_nodes(node)))


def assigned(nodes: list[ast.AST]) -> dict[str, ast.AST]:
    """Names that are assigned a tuple or a dict that is written out."""
    return {
        node.targets[0].id: node.value
        for node in nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Tuple | ast.Dict)
    }


def headings(path: Path) -> Iterator[str]:
    """Headings of the tables that a module prints: words that are given the side `left` or `right`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = assigned(list(tree.body))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        nodes = list(ast.walk(function))
        known = top | assigned(nodes)
        for node in nodes:
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if key and isinstance(value, ast.Constant) and value.value in SIDES:
                        yield from words_of(key, known)
            elif isinstance(node, ast.DictComp) and isinstance(node.value, ast.Constant) and node.value.value in SIDES:
                yield from words_of(node.key, known)
                for loop in node.generators:
                    yield from words_of(loop.iter, known)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "fromkeys"
                and len(node.args) == 2
                and isinstance(node.args[1], ast.Constant)
                and node.args[1].value in SIDES
            ):
                yield from words_of(node.args[0], known)
            elif (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Subscript)
                and isinstance(node.value, ast.Constant)
                and node.value.value in SIDES
            ):
                yield from words_of(node.targets[0].slice, known)


def printed() -> dict[str, str]:
    """Every heading without its unit in brackets, and the module that prints it."""
    collected = ((heading, path.name) for path in sorted((SOURCE / "cli").glob("*.py")) for heading in headings(path))
    without_unit = ((re.sub(r"\s*\[[^]]*\]", "", heading).strip(), name) for heading, name in collected)
    return {heading: name for heading, name in without_unit if heading}


def keys_of(schema: Any) -> Iterator[str]:
    """Names of all properties of a JSON schema."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties" and isinstance(value, dict):
                yield from value
                for inner in value.values():
                    yield from keys_of(inner)
            else:
                yield from keys_of(value)
    elif isinstance(schema, list):
        for inner in schema:
            yield from keys_of(inner)


# ── tests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_headings_are_collected() -> None:
    """So that a change of how tables are built cannot empty the next test."""
    shown = printed()
    assert len(shown) > 80
    assert {"deployment", "bound by", "tok/s user", "B/token", "median error", "link GB/s", "TPOT"} <= set(shown)


def test_every_heading_has_an_entry() -> None:
    known = entries()
    missing = {heading: module for heading, module in printed().items() if heading not in known}
    assert missing == {}, "add these columns to docs/nomenclature.md"


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_every_json_key_has_an_entry(path: Path) -> None:
    missing = set(keys_of(json.loads(path.read_text(encoding="utf-8")))) - set(entries())
    assert missing == set(), "add these keys to docs/nomenclature.md"


def test_every_column_of_a_file_of_requests_has_an_entry() -> None:
    assert {*per_request.TIMES, *per_request.COUNTS, "status", "class"} <= set(entries())


def is_word(name: str, text: str) -> bool:
    """Whether a name, or its plural, is in a text as a whole word; a plain search is much faster than an expression."""
    end = re.compile(r"s?(?!\w)")
    at = text.find(name)
    while at >= 0:
        if not (at and re.match(r"\w", text[at - 1])) and end.match(text, at + len(name)):
            return True
        at = text.find(name, at + 1)
    return False


def test_no_entry_is_out_of_date() -> None:
    """A name that stands nowhere else, in code or documents, helps nobody."""
    files = [*SOURCE.rglob("*.py"), *SCHEMAS, *(path for path in (REPOSITORY / "docs").glob("*.md") if path != PAGE)]
    files += [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    text = re.sub(r"\s+", " ", " ".join(path.read_text(encoding="utf-8") for path in files)).lower()
    stale = {name: section for name, section in entries().items() if not is_word(name.lower(), text)}
    assert stale == {}, "remove these names from docs/nomenclature.md"
