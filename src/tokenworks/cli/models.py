"""`tokenworks models`: what the catalog holds, or one model in full: weights, attention, formats, notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

from tokenworks.cli.options import Output
from tokenworks.cli.output import console, emit, listing, table
from tokenworks.planning.listing import ModelDetail, ModelRow, Models, model_row
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import Block, Model

WIDTH = 150  # of the list, where no terminal says how wide it is


def models(name: str | None = None, *, output: Output = "table") -> None:
    """List the models, or show one: parameters, KV cache, formats.

    Parameters
    ----------
    name
        A catalog id, a config.json or the directory that holds one, or an id in the local Hugging Face cache.
    """
    if name is not None:
        found = load_model(name)
        if output == "table":
            _show(found)
        else:
            emit(ModelDetail(found).plain(), output)
        return
    known = Models.read()
    if output == "table":
        page = console(WIDTH)
        _list(page, known.rows)
        for each in known.not_computed:
            page.print(f"cannot be computed: {each['name']}: {each['why']}", soft_wrap=True)
    else:
        emit(known.plain(), output)


def _list(page: Console, rows: Sequence[ModelRow]) -> None:
    columns: dict[str, Literal["left", "right"]] = {
        "model": "left", "total B": "right", "active B": "right", "layers": "right", "attention": "left",
        "experts": "right", "format": "left", "GB": "right", "KV B/token": "right", "context": "right",
    }  # fmt: skip
    title = (
        "Models: weights as stored; active leaves out the embedding, which is looked up; KV cache in the native dtype"
    )
    spare = ("layers", "attention", "format", "experts", "active B", "context", "GB")
    listing(page, title, columns, [_row(row) for row in rows], spare)


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


def _show(model: Model) -> None:
    """The sums first, then a table a block, then the notes."""
    row = model_row(model)
    page = console()
    experts = row["experts"]
    formats = ", ".join(f"{name} {share:.1%}" for name, share in row["formats"].items())
    vision = row["vision_parameters"]
    kinds = ", ".join(f"{kind} x {count}" for kind, count in row["attention"].items())
    lines = {
        "architecture": f"{model.architecture}, {model.layers} layers, hidden {model.hidden}, vocabulary {model.vocab}",
        "parameters": f"{_billions(row['parameters'])} B; a token meets {_billions(row['active_parameters'])} B",
        "beside them": f"{_billions(row['draft_parameters'])} B draft (MTP), vision tower "
        + ("of unknown size" if vision is None else f"{_billions(vision)} B" if vision else "none"),
        "attention": f"{kinds}; {model.heads} query heads, {model.kv_heads} KV heads",
        "experts": f"{experts['topk']} of {experts['count']}" if experts else "none",
        "weights": f"{row['weight_bytes'] / 1e9:.4g} GB: {formats}",
        "KV cache": f"{row['kv_bytes_per_token']:.0f} bytes a token ({row['kv_dtype']})"
        + (f", windows {row['window_bytes_per_sequence'] / 1e6:.3g} MB" if row["window_bytes_per_sequence"] else "")
        + (
            f", state {row['state_bytes_per_sequence'] / 1e6:.4g} MB a sequence"
            if row["state_bytes_per_sequence"]
            else ""
        ),
        "context": f"{model.max_context} tokens"
        + (f", {longer.tokens} {longer.words} (--max-model-len)" if (longer := model.extended_context) else ""),
    }
    page.print(table(model.name, {"what": "left", "value": "left"}, [[key, text] for key, text in lines.items()]))
    for title, blocks in (("", model.blocks), ("draft: ", model.draft)):
        for block in blocks:
            page.print()
            page.print(_block_table(title, block))
            _show_scans(block)
    for note in model.notes:
        page.print(f"\nnote: {note}")


def _block_table(title: str, block: Block) -> Table:
    columns: dict[str, Literal["left", "right"]] = {
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
    return table(f"{title}{block.name} x {block.count}", columns, rows)


def _show_scans(block: Block) -> None:
    page = console()
    for scan in block.scans:
        every = "every token" if scan.stride == 1 else f"one in {scan.stride} tokens"
        reads = "all" if scan.reads is None else f"at most {scan.reads}"
        keeps = "all" if scan.keeps is None else f"the last {scan.keeps}"
        fixed = "" if scan.bytes is None else f" of {scan.bytes:.4g} bytes"
        page.print(
            f"  {scan.name}: an entry for {every}, {scan.elements:g} elements{fixed}; keeps {keeps}, reads {reads}"
        )
    if block.state:
        page.print(f"  {block.state.name}: {block.state.bytes / 1e6:.4g} MB of state a sequence")
