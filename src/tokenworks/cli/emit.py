"""`tokenworks emit`: write launch scripts, a benchmark and a scrape file for a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tokenworks.cli.command import command
from tokenworks.cli.options import DEPLOYMENTS, MACHINE, REQUESTS, RESULT, DeployedOptions, Output
from tokenworks.cli.output import console, notes
from tokenworks.cli.output import emit as print_plain
from tokenworks.cli.progress import compile_once
from tokenworks.cli.tables import Columns, print_table
from tokenworks.launch.emit import Emitted
from tokenworks.launch.emit import emit as write_launch


def emit(
    deployment: Annotated[Path, DEPLOYMENTS],
    /,
    *,
    out: Annotated[Path, Parameter(group=RESULT)],
    dialect: Annotated[str | None, Parameter(group=MACHINE)] = None,
    hosts: Annotated[str | None, Parameter(group=MACHINE)] = None,
    model_path: Annotated[str | None, Parameter(group=MACHINE)] = None,
    deployed: DeployedOptions = DeployedOptions(),  # noqa: B008 - frozen
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    rate: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    concurrency: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    requests: Annotated[int | None, Parameter(group=REQUESTS)] = None,
    seed: Annotated[int, Parameter(group=REQUESTS)] = 0,
    output: Output = "table",
) -> None:
    """Write launch scripts, a benchmark and a scrape file for a deployment.

    Parameters
    ----------
    out
        Folder for the files. It must not exist, or be empty, or hold only what `emit` wrote.
    dialect
        Version of the engine, such as vllm-0.33.0, sglang-0.5.23 or sglang-das-0.5.12; by default the newest one for
        the devices.
    hosts
        Names or addresses of the hosts, with commas between them; by default node-0, node-1 and so on.
    model_path
        Folder or id that the engine loads the weights from; by default the model of the deployment.
    workload
        Workload of the benchmark: name in the catalog or YAML file; by default the workload of the file.
    rate
        Requests per second of the benchmark; by default the rate of the workload, else the rate that the plan expects.
    concurrency
        Requests in flight of the benchmark, instead of --rate.
    requests
        Number of requests of the benchmark; by default about five minutes of them, at most 5,000.
    seed
        Seed of the requests of the benchmark.
    """
    names = [name.strip() for name in (hosts or "").split(",") if name.strip()]
    chosen = deployed.read(deployment)
    if not chosen.expected and (chosen.workload is not None or workload is not None):
        compile_once()  # the load is simulated
    emitted = write_launch(
        chosen, out, dialect=dialect, hosts=names, model_path=model_path, workload=workload,
        rate=rate, concurrency=concurrency, requests=requests, seed=seed, command=command(),
    )  # fmt: skip
    for note in emitted.notes:
        notes().paragraph(f"note: {note}")
    if output == "table":
        _print(emitted, out)
    else:
        print_plain(emitted.plain(), output)


def _print(emitted: Emitted, folder: Path) -> None:
    out, plain = console(), emitted.plain()
    out.paragraph(f"{emitted.headline} in {folder}\n")
    columns: Columns = {"file": "left", "host": "left", "figure": "left", "predicted": "right"}
    rows = []
    for entry in plain["files"]:
        figures = emitted.figures.get(entry["file"], ())
        first = [entry["file"], entry["host"] or ""]
        rows.append([*first, figures[0].title if figures else "", figures[0].text if figures else ""])
        rows += [["", "", one.title, one.text] for one in figures[1:]]
    print_table(out, columns, rows, wraps=("figure",))
    out.paragraph("\nIn brackets: the interval that should contain 80 % of measurements. README.md says where to read.")
