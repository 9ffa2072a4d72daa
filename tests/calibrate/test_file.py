"""Calibration files: the table of sources, as it is written and as it is read."""

import re
from pathlib import Path
from typing import Any

import pytest

from tokenworks.calibrate.file import write_file
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, load_calibration
from tokenworks.specs.load import CATALOG, read_yaml, validate

DATASHEET = CATALOG / "calibration" / "datasheet.yaml"


def sourced(source: str) -> dict[str, Any]:
    """The calibration of the catalog, with another source for one number."""
    data: dict[str, Any] = read_yaml(DATASHEET)
    data["families"]["nvidia-hopper"]["hbm"] = {"value": 0.8, "status": "assumed", "source": source}
    return data


@pytest.mark.parametrize("name", ["datasheet", "serving"])
def test_shipped_files_are_as_they_would_be_written(tmp_path: Path, name: str) -> None:
    shipped = (CATALOG / "calibration" / f"{name}.yaml").read_text()
    comments = [line for line in shipped.splitlines() if line.startswith("#")]
    write_file(load_calibration(name), comments, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == shipped


def test_a_key_stands_for_its_text_in_sources_and_in_priors() -> None:
    hopper = load_calibration().families["nvidia-hopper"]
    assert re.fullmatch(r"fit of \d+ factors on serving_dev\.csv", hopper.hbm.source)
    assert hopper.hbm.note.startswith("prior 0.871: kernel tables of aiconfigurator-core 0.12.0, h100, h200: fit of ")


def test_a_key_that_the_table_lacks_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(
        SpecError, match=r"mine.yaml: the table `sources` has no source 'gemm-hoper'.*did you mean \"gemm-hopper\""
    ):
        validate(Calibration, sourced("gemm-hoper"), "mine.yaml")


def test_plain_words_are_a_source_too() -> None:
    """In a file without a table of sources, no source is read as a key."""
    calibration = validate(Calibration, sourced("measured by hand"), "mine.yaml")
    assert calibration.families["nvidia-hopper"].hbm.source == "measured by hand"
    bare = {key: value for key, value in sourced("by-hand").items() if key != "sources"}
    assert validate(Calibration, bare, "mine.yaml").families["nvidia-hopper"].hbm.source == "by-hand"


def test_repeated_sources_are_written_once(tmp_path: Path) -> None:
    """A source text that looks like a key goes into the table, because it would be read as a key."""
    known = load_calibration("datasheet")
    long, short = "fifteen careful runs on a quiet machine", "by-hand"
    hopper = known.families["nvidia-hopper"]
    changed = {
        "hbm": hopper.hbm.model_copy(update={"source": long}),
        "experts_hbm": hopper.experts_hbm.model_copy(update={"note": f"prior 0.5: {long}"}),
        "kernel": hopper.kernel.model_copy(update={"source": short}),
    }
    families = known.families | {"nvidia-hopper": hopper.model_copy(update=changed)}
    file = tmp_path / "mine.yaml"
    write_file(known.model_copy(update={"families": families}), ["# mine"], file)
    assert file.read_text().count(long) == 1
    again = load_calibration(str(file))
    assert again.families == families
    assert {"fifteen-1": long, "by-1": short}.items() <= again.sources.items()
