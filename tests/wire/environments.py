"""Make the environments of the clients that `make wire` runs: NAME.txt becomes .wire/NAME, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".wire"
PYTHONS = {"aiperf": "3.12"}
"""Clients that need another Python than this one."""


def make(name: str, lines: str) -> None:
    """Make the environment of one client, with uv, which pip installs beside it."""
    folder, done = FOLDER / name, FOLDER / name / "made-of.txt"
    if done.is_file() and done.read_text(encoding="utf-8") == lines:
        return
    uv = FOLDER / "uv" / "bin" / "uv"
    if not uv.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER / "uv"], check=True)
        subprocess.run([FOLDER / "uv" / "bin" / "pip", "install", "--quiet", "uv"], check=True)
    links = subprocess.run(
        [FOLDER / "uv/bin/pip", "config", "get", "global.find-links"],
        capture_output=True,
        text=True,
        check=False,
    )
    more = ["--find-links", links.stdout.strip()] if links.stdout.strip() else []
    overrides = HERE / f"{name}-overrides.txt"
    more += ["--override", str(overrides)] if overrides.exists() else []
    python = python_of(PYTHONS[name]) if name in PYTHONS else sys.executable
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([uv, "venv", "--quiet", "--python", python, folder], check=True)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python"]
    subprocess.run([*install, *more, "-r", HERE / f"{name}.txt"], check=True)
    if name == "vllm":
        _alias(folder)
    done.write_text(lines, encoding="utf-8")


def python_of(version: str) -> str:
    """A Python of this version: from PATH, from the folder of pyenv, or the version itself, for uv to look for."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for python in (f"python{version}", *map(str, sorted(kept.glob(f"{version}.*/bin/python")))):
        told = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            if subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip() == version:
                return python
        except (OSError, subprocess.CalledProcessError):  # missing, or a shim of pyenv without this version
            continue
    return version


def _alias(folder: Path) -> None:
    """Name the CPU build "vllm", too: its own command looks for a distribution of this name."""
    (site,) = folder.glob("lib/python*/site-packages")
    alias = site / "vllm-0.32.0+cpu.dist-info"
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n", encoding="utf-8")
    (alias / "RECORD").write_text("", encoding="utf-8")


def main() -> None:
    """Make all environments, or those that are named. A client that cannot be installed is named, and left out."""
    for file in sorted(HERE.glob("*.txt")):
        name = file.stem
        if name.endswith("-overrides") or (sys.argv[1:] and name not in sys.argv[1:]):
            continue
        try:
            make(name, file.read_text(encoding="utf-8"))
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"tests/wire: {name} cannot be installed, so its test is skipped: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
