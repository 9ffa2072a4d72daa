"""The package's face: the public names, and that nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import tokenworks


def test_public_names_are_sorted_and_nothing_leaks() -> None:
    assert tokenworks.__all__ == sorted(tokenworks.__all__)
    assert set(tokenworks._PUBLIC) == set(tokenworks.__all__)
    for name in tokenworks.__all__:
        assert getattr(tokenworks, name) is not None
    leaked = {name for name in vars(tokenworks) if not name.startswith("_")} - set(tokenworks.__all__)
    submodules = {name for name in leaked if f"tokenworks.{name}" in sys.modules}
    assert leaked - submodules == {"annotations", "importlib", "Any", "TYPE_CHECKING"} & leaked


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from tokenworks.cli import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'numpy', 'numba', 'pint', 'pydantic', 'yaml', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "plan" in done.stdout


def test_no_two_public_classes_share_a_name() -> None:
    """So that a name in a message, a docstring or a review means one thing."""
    homes: dict[str, list[str]] = {}
    root = Path(tokenworks.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(root)))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}
