"""Write docs/accuracy.md and docs/accuracy.json: make accuracy DATA=FOLDER [FULL=1 [KERNELS=1]] [BEFORE=COMMIT]

FOLDER holds `serving_dev.csv`, the points that the default calibration was fitted on, and `serving_new.csv`, points of
hardware that no fit has seen; and `peer_aiconfigurator.csv`, if a comparison with this predictor is wanted. FULL=1 also
repeats the fits without a system and without a model, which take many minutes; with KERNELS=1 a left-out
system is also left out of the kernel tables (`tokenworks[kernels]`). Results of commands are kept in
build/accuracy as long as code and data stay the same, so an interrupted run continues where it stopped. The page
compares its figures with those of docs/accuracy.json in BEFORE, by default in the last commit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.accuracy.collect import FAR, FITTED, Collector, git
from benchmarks.accuracy.history import compared_with
from benchmarks.accuracy.kept import ROOT, CannotRun, Figures
from benchmarks.accuracy.render import page

PAGE, FIGURES = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "accuracy.json"
REFUSED = 2
"""Exit status of a command that lacks its data."""


def main() -> int:
    options = argparse.ArgumentParser(prog="make accuracy", description=__doc__)
    options.add_argument("--data", default="")
    options.add_argument("--before", default="")
    options.add_argument("--full", action="store_true")
    options.add_argument("--kernels", action="store_true")
    options.add_argument("--render", action="store_true", help="write docs/accuracy.md from docs/accuracy.json only")
    given = options.parse_args()
    if given.render:
        PAGE.write_text(page(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")
        return 0
    if problem := lacking(given.data):
        print(f"make accuracy: {problem}", file=sys.stderr)
        return REFUSED
    last = committed("HEAD")
    before = committed(given.before) if given.before else last
    if given.before and not before:
        problem = f"BEFORE={given.before}: this commit has no docs/accuracy.json; give a commit that has one"
        print(f"make accuracy: {problem}", file=sys.stderr)
        return REFUSED
    try:
        figures = Collector(Path(given.data), last, given.full, given.kernels, say).figures()
    except CannotRun as failed:
        print(f"make accuracy: {failed}", file=sys.stderr)
        return 1
    figures["before"] = compared_with(before, figures)
    FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(figures), encoding="utf-8")
    say(f"wrote {PAGE.relative_to(ROOT)} and {FIGURES.relative_to(ROOT)}")
    return 0


def lacking(data: str) -> str:
    """What the data folder lacks, in one sentence with the way out; "" if nothing."""
    wanted = f"a folder with {FITTED} and {FAR}, the measured points that are not part of this repository"
    if not data:
        return f"DATA is not given. Give {wanted}: make accuracy DATA=../shared/measured"
    if not Path(data).is_dir():
        return f"DATA={data} is not a folder. Give {wanted}"
    if missing := [name for name in (FITTED, FAR) if not (Path(data) / name).is_file()]:
        return f"DATA={data} has no {' and no '.join(missing)}. Give {wanted}"
    return ""


def committed(revision: str) -> Figures:
    """The figures of a commit; empty if it has none."""
    text = git("show", f"{revision}:docs/accuracy.json")
    figures: Figures = json.loads(text) if text else {}
    return figures


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
