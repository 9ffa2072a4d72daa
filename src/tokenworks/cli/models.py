"""`tokenworks models`: the models of the catalog, one model in full, or a folder of configs with one row a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tokenworks.cli.options import MACHINE, Output
from tokenworks.cli.output import console, emit
from tokenworks.cli.page import Page
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.planning.listing import ModelDetail, ModelRow, Models, NotComputed, model_row
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import Block, Model

WIDTH = 150
"""Width of the list in a file or a pipe [character]."""


def models(*name: Annotated[str, Parameter(group=MACHINE)], output: Output = "table") -> None:
    """List the models, show one, or check a folder of configs: parameters, KV cache, formats.

    With several names, or with a folder of configs, each config is one row. The exit code is 2 if a config is refused.

    Parameters
    ----------
    name
        Model: catalog id, path of a config.json or of its directory, or id in the local Hugging Face cache; or a folder
        with several configs. Several names can be given.
    """
    configs = [each for one in name for each in _configs(one)]
    if len(name) == 1 and configs == [name[0]]:
        model = load_model(name[0])
        if output == "table":
            _print_model(model)
        else:
            emit(ModelDetail(model).plain(), output)
        return
    known = _checked(configs) if name else Models.read()
    if output == "table":
        page = console(WIDTH)
        _list(page, known.rows)
        for each in known.not_computed:
            page.paragraph(f"cannot be computed: {each['name']}: {each['why']}")
    else:
        emit(known.plain(), output)
    if name and known.not_computed:
        refused, every = len(known.not_computed), len(configs)
        raise SpecError(f"{refused} of {every} configs are refused", hint="the reason of each is in the result")


def _configs(name: str) -> list[str]:
    """The configs that a name stands for: itself, or the configs of a folder without a config.json, sorted."""
    folder = Path(name).expanduser()
    if not folder.is_dir() or (folder / "config.json").exists():
        return [name]
    paths = [*folder.glob("*.json"), *folder.glob("*/config.json")]
    return [str(path) for path in sorted(paths)] or [name]


def _checked(configs: Sequence[str]) -> Models:
    """Load each config: a row, or the reason why it is refused."""
    rows: list[ModelRow] = []
    reasons: list[NotComputed] = []
    for config in configs:
        try:
            rows.append(model_row(load_model(config)))
        except SpecError as error:
            reasons.append({"name": config, "why": str(error).removeprefix(f"{config}: ")})
    return Models(tuple(rows), tuple(reasons))


def _list(page: Page, rows: Sequence[ModelRow]) -> None:
    columns: Columns = {
        "model": "left", "total B": "right", "active B": "right", "layers": "right", "attention": "left",
        "experts": "right", "format": "left", "GB": "right", "KV B/token": "right", "context": "right",
    }  # fmt: skip
    title = (
        "Models: weights as stored; active parameters without the embedding, which is a look-up; KV cache in the "
        "native dtype"
    )
    spare = ("layers", "attention", "format", "experts", "active B", "context", "GB", "KV B/token")
    print_table(page, columns, [_row(row) for row in rows], title=title, spare=spare)


def _row(row: ModelRow) -> list[str]:
    experts = row["experts"]
    return [
        row["name"],
        _billions(row["parameters"]),
        _billions(row["active_parameters"]),
        str(row["layers"]),
        "+".join(row["attention"]),
        f"{experts['topk']}/{experts['count']}" if experts else "-",
        "+".join(name for name, share in row["formats"].items() if share >= 0.25),
        f"{row['weight_bytes'] / 1e9:.3g}" if row["weight_bytes"] < 1e12 else f"{row['weight_bytes'] / 1e9:.0f}",
        f"{row['kv_bytes_per_token']:.0f}",
        f"{row['max_context'] // 1024}K",
    ]


def _billions(elements: int) -> str:
    return f"{elements / 1e9:.4g}" if elements >= 1e9 else f"{elements / 1e9:.3f}"


def _print_model(model: Model) -> None:
    """Print the sums of a model, then one table per block, then the notes."""
    row = model_row(model)
    page = console()
    experts = row["experts"]
    formats = ", ".join(f"{name} {share:.1%}" for name, share in row["formats"].items())
    encoders = row["vision_parameters"]
    kinds = ", ".join(f"{kind} x {count}" for kind, count in row["attention"].items())
    lines = {
        "architecture": f"{model.architecture}, {model.layers} layers, hidden {model.hidden}, vocabulary {model.vocab}",
        "parameters": f"{_billions(row['parameters'])} B; one token uses {_billions(row['active_parameters'])} B",
        "additional": f"{_billions(row['draft_parameters'])} B draft (MTP), encoders "
        + ("of unknown size" if encoders is None else f"{_billions(encoders)} B, no cost" if encoders else "none"),
        "attention": f"{kinds}; {model.heads} query heads, {model.kv_heads} KV heads",
        "experts": f"{experts['topk']} of {experts['count']}" if experts else "none",
        "weights": f"{row['weight_bytes'] / 1e9:.4g} GB: {formats}",
        "KV cache": f"{row['kv_bytes_per_token']:.0f} bytes per token ({row['kv_dtype']})"
        + (
            f", windows {row['window_bytes_per_sequence'] / 1e6:.3g} MB per sequence"
            if row["window_bytes_per_sequence"]
            else ""
        )
        + (
            f", state {row['state_bytes_per_sequence'] / 1e6:.4g} MB per sequence"
            if row["state_bytes_per_sequence"]
            else ""
        ),
        "context": f"{model.max_context} tokens"
        + (f", {longer.tokens} {longer.words} (--max-model-len)" if (longer := model.extended_context) else ""),
    }
    facts = [[key, text] for key, text in lines.items()]
    print_table(page, {"what": "left", "value": "left"}, facts, title=model.name, wraps=("value",))
    for title, blocks in (("", model.blocks), ("draft: ", model.draft)):
        for block in blocks:
            page.print()
            _print_block(page, title, block)
    for note in model.notes:
        page.paragraph(f"\nnote: {note}")


def _print_block(page: Page, title: str, block: Block) -> None:
    columns: Columns = {
        "weight": "left", "part": "left", "inputs": "right", "outputs": "right", "copies": "right", "split": "left",
        "format": "left", "M elements": "right", "MB": "right",
    }  # fmt: skip
    rows = [
        [
            matrix.name, matrix.part, str(matrix.inputs), str(matrix.outputs), str(matrix.copies), matrix.split,
            matrix.format.name, f"{matrix.parameters / 1e6:.4g}", f"{matrix.stored / 1e6:.4g}",
        ]
        for matrix in block.matrices
    ]  # fmt: skip
    spare = ("part", "split", "MB", "copies")
    print_table(page, columns, rows, title=f"{title}{block.name} x {block.count}", spare=spare)
    for scan in block.scans:
        every = "every token" if scan.stride == 1 else f"one in {scan.stride} tokens"
        reads = "all" if scan.reads is None else f"at most {scan.reads}"
        keeps = "all" if scan.keeps is None else f"the last {scan.keeps}"
        fixed = "" if scan.bytes is None else f" of {scan.bytes:.4g} bytes"
        page.paragraph(
            f"  {scan.name}: an entry for {every}, {scan.elements:g} elements{fixed}; keeps {keeps}, reads {reads}"
        )
    if block.state:
        page.paragraph(f"  {block.state.name}: {block.state.bytes / 1e6:.4g} MB of state per sequence")
