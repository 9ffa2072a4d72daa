"""`tokenworks models`: what the catalog holds, or one model in full: weights, attention, formats, notes."""

from __future__ import annotations

from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from tokenworks.cli.options import Output
from tokenworks.cli.output import console, emit, listing, table
from tokenworks.costs.split import KV_BYTES
from tokenworks.errors import SpecError
from tokenworks.specs import model as sums
from tokenworks.specs.hf import load_model, model_names
from tokenworks.specs.model import Block, Matrix, Model, Scan

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
            emit(_detail(found), output)
        return
    rows, reasons = _all()
    if output == "table":
        page = console(WIDTH)
        _list(page, rows)
        for each in reasons:
            page.print(f"cannot be computed: {each['name']}: {each['why']}", soft_wrap=True)
    else:
        emit({"models": rows, "not_computed": reasons}, output)


def _all() -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Every model of the catalog: what is computed, and what is not, with the reason."""
    rows, reasons = [], []
    for name in model_names():
        try:
            rows.append(_summary(load_model(name)))
        except SpecError as error:
            reasons.append({"name": name, "why": str(error)})
    return rows, reasons


def _summary(model: Model) -> dict[str, Any]:
    """One model in numbers: elements and bytes, one copy of everything."""
    kv_bytes = KV_BYTES[model.native_kv]
    experts = next((block.experts for block in model.blocks if block.experts), None)
    return {
        "name": model.name,
        "architecture": model.architecture,
        "parameters": sums.parameters(model),
        "active_parameters": sums.active_parameters(model),
        "draft_parameters": sums.draft_parameters(model),
        "vision_parameters": model.vision_parameters,
        "layers": model.layers,
        "attention": sums.attention_kinds(model),
        "experts": {"count": experts.count, "topk": experts.topk} if experts else None,
        "formats": sums.weight_formats(model),
        "weight_bytes": sums.weight_bytes(model),
        "kv_dtype": model.native_kv,
        "kv_bytes_per_token": sums.kv_bytes_per_token(model, kv_bytes),
        "window_bytes_per_sequence": sums.window_bytes_per_sequence(model, kv_bytes),
        "state_bytes_per_sequence": sums.state_bytes_per_sequence(model),
        "max_context": model.max_context,
    }


def _list(page: Console, rows: list[dict[str, Any]]) -> None:
    columns: dict[str, Literal["left", "right"]] = {
        "model": "left", "total B": "right", "active B": "right", "layers": "right", "attention": "left",
        "experts": "right", "format": "left", "GB": "right", "KV B/token": "right", "context": "right",
    }  # fmt: skip
    title = (
        "Models: weights as stored; active leaves out the embedding, which is looked up; KV cache in the native dtype"
    )
    spare = ("layers", "attention", "format", "experts", "active B", "context", "GB")
    listing(page, title, columns, [_row(row) for row in rows], spare)


def _row(row: dict[str, Any]) -> list[str]:
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


def _detail(model: Model) -> dict[str, Any]:
    """One model with every block, matrix and scan."""
    outer = [_matrix(matrix) for matrix in (model.embedding, model.head) if matrix]
    return _summary(model) | {
        "hidden": model.hidden,
        "vocab": model.vocab,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "tied": model.head is None,
        "outer": outer,
        "blocks": [_block(block) for block in model.blocks],
        "draft": [_block(block) for block in model.draft],
        "notes": list(model.notes),
    }


def _block(block: Block) -> dict[str, Any]:
    state = block.state
    return {
        "name": block.name,
        "count": block.count,
        "matrices": [_matrix(matrix) for matrix in block.matrices],
        "scans": [_scan(scan) for scan in block.scans],
        "state": {"name": state.name, "bytes": state.bytes, "flop": state.flop} if state else None,
        "vectors": block.vectors,
    }


def _matrix(matrix: Matrix) -> dict[str, Any]:
    return {
        "name": matrix.name,
        "part": matrix.part,
        "inputs": matrix.inputs,
        "outputs": matrix.outputs,
        "copies": matrix.copies,
        "bias": matrix.bias,
        "split": matrix.split,
        "format": matrix.format.name,
        "compute": matrix.format.compute,
        "parameters": matrix.parameters,
        "bytes": matrix.stored,
    }


def _scan(scan: Scan) -> dict[str, Any]:
    names = "name stride reads keeps elements heads query_heads decode_flop prefill_flop bytes"
    return {name: getattr(scan, name) for name in names.split()}


def _show(model: Model) -> None:
    """The sums first, then a table a block, then the notes."""
    row = _summary(model)
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
        "context": f"{model.max_context} tokens",
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
