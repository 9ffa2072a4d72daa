"""Machines and models of the catalog as results: a list of all machines or models, or one of them in detail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from typing_extensions import TypedDict

from tokenworks.costs.split import KV_BYTES
from tokenworks.errors import SpecError
from tokenworks.specs import compose, load
from tokenworks.specs import model as sums
from tokenworks.specs.compose import Parts
from tokenworks.specs.hf import load_model, model_names
from tokenworks.specs.model import Block, Matrix, Model, Scan
from tokenworks.specs.provenance import Fact, Quantity
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs


class SystemRow(TypedDict):
    """One machine in SI numbers, per device; None: the number is not published, or the link does not exist.

    missing : paths of the numbers that a plan needs and nobody published
    """

    name: str
    title: str
    device: str
    devices: int
    domain: int
    peak: dict[str, float]
    hbm_bytes: float | None
    hbm_bandwidth: float | None
    scale_up_bandwidth: float | None
    network: str | None
    assumed: list[str]
    missing: list[str]
    plannable: bool


class SystemsBody(TypedDict):
    """The plain form of `systems`."""

    inputs: Inputs
    systems: list[SystemRow]


class SystemBody(SystemRow):
    """The plain form of `systems NAME`: every number and fact of its files."""

    inputs: Inputs
    numbers: dict[str, Annotated[Plain, FormOf(Quantity)]]
    facts: dict[str, Annotated[Plain, FormOf(Fact)]]
    notes: list[str]


class ExpertsPlain(TypedDict):
    """Routed experts of a layer (count), and experts per token (topk)."""

    count: int
    topk: int


class ModelRow(TypedDict):
    """One model in numbers: elements and bytes, one copy of everything."""

    name: str
    architecture: str
    parameters: int
    active_parameters: int
    draft_parameters: int
    vision_parameters: int | None
    layers: int
    attention: dict[str, int]
    experts: ExpertsPlain | None
    formats: dict[str, float]
    weight_bytes: float
    kv_dtype: str
    kv_bytes_per_token: float
    window_bytes_per_sequence: float
    state_bytes_per_sequence: float
    max_context: int


class NotComputed(TypedDict):
    """A model that cannot be computed, and the reason."""

    name: str
    why: str


class ModelsBody(TypedDict):
    """The plain form of `models`."""

    inputs: Inputs
    models: list[ModelRow]
    not_computed: list[NotComputed]


class MatrixPlain(TypedDict):
    """One weight, see `specs.model.Matrix`."""

    name: str
    part: str
    inputs: int
    outputs: int
    copies: int
    bias: bool
    split: str
    format: str
    compute: str
    parameters: int
    bytes: float


class StatePlain(TypedDict):
    """State of a sequence that does not grow with its length."""

    name: str
    bytes: float
    flop: float


class BlockPlain(TypedDict):
    """Equal layers of a model."""

    name: str
    count: int
    matrices: list[MatrixPlain]
    scans: list[Annotated[Plain, FormOf(Scan)]]
    state: StatePlain | None
    vectors: int


class ModelBody(ModelRow):
    """The plain form of `models NAME`: every block, matrix and scan."""

    inputs: Inputs
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    tied: bool
    outer: list[MatrixPlain]
    blocks: list[BlockPlain]
    draft: list[BlockPlain]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Systems:
    """Every machine of the catalog."""

    rows: tuple[SystemRow, ...]

    @classmethod
    def read(cls) -> Systems:
        """Read all machines from the files of the catalog."""
        return cls(tuple(system_row(compose.parts(known)) for known in load.catalog_names("system")))

    def plain(self) -> Plain:
        """The whole list as plain data."""
        body: SystemsBody = {"inputs": inputs(), "systems": list(self.rows)}
        return envelope("systems", body)


@dataclass(frozen=True, slots=True)
class SystemDetail:
    """One machine with every number and fact of its files."""

    parts: Parts

    def plain(self) -> Plain:
        """The machine as plain data."""
        parts = self.parts
        specs = (parts.system, parts.device, parts.network)
        body: SystemBody = {
            "inputs": inputs(machine=parts.on),
            **system_row(parts),
            "numbers": {path: quantity.model_dump() for path, quantity in parts.quantities().items()},
            "facts": {key: fact.model_dump() for key, fact in parts.system.facts.items()},
            "notes": [spec.note for spec in specs if spec and spec.note],
        }
        return envelope("system", body)


def system_row(parts: Parts) -> SystemRow:
    """One machine in SI numbers, per device."""
    machine, missing = compose.resolve(parts)
    return {
        "name": machine.name,
        "title": parts.system.title,
        "device": machine.device,
        "devices": machine.devices,
        "domain": machine.domain,
        "peak": dict(machine.peak),
        "hbm_bytes": machine.hbm_bytes,
        "hbm_bandwidth": machine.hbm_bandwidth,
        "scale_up_bandwidth": machine.scale_up.bandwidth,
        "network": parts.network.name if parts.network else None,
        "assumed": [assumption.path for assumption in machine.assumed],
        "missing": list(missing),
        "plannable": not missing,
    }


@dataclass(frozen=True, slots=True)
class Models:
    """Every model of the catalog: models that can be computed, and the others with the reason."""

    rows: tuple[ModelRow, ...]
    not_computed: tuple[NotComputed, ...]

    @classmethod
    def read(cls) -> Models:
        """Read all models from the files of the catalog."""
        rows: list[ModelRow] = []
        reasons: list[NotComputed] = []
        for name in model_names():
            try:
                rows.append(model_row(load_model(name)))
            except SpecError as error:
                reasons.append({"name": name, "why": str(error)})
        return cls(tuple(rows), tuple(reasons))

    def plain(self) -> Plain:
        """The whole list as plain data."""
        body: ModelsBody = {"inputs": inputs(), "models": list(self.rows), "not_computed": list(self.not_computed)}
        return envelope("models", body)


@dataclass(frozen=True, slots=True)
class ModelDetail:
    """One model with every block, matrix and scan."""

    model: Model

    def plain(self) -> Plain:
        """The model as plain data."""
        model = self.model
        body: ModelBody = {
            "inputs": inputs(model=model.name),
            **model_row(model),
            "hidden": model.hidden,
            "vocab": model.vocab,
            "heads": model.heads,
            "kv_heads": model.kv_heads,
            "tied": model.head is None,
            "outer": [_matrix(matrix) for matrix in (model.embedding, model.head) if matrix],
            "blocks": [_block(block) for block in model.blocks],
            "draft": [_block(block) for block in model.draft],
            "notes": list(model.notes),
        }
        return envelope("model", body)


def model_row(model: Model) -> ModelRow:
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


def _block(block: Block) -> BlockPlain:
    state = block.state
    return {
        "name": block.name,
        "count": block.count,
        "matrices": [_matrix(matrix) for matrix in block.matrices],
        "scans": [_scan(scan) for scan in block.scans],
        "state": {"name": state.name, "bytes": state.bytes, "flop": state.flop} if state else None,
        "vectors": block.vectors,
    }


def _matrix(matrix: Matrix) -> MatrixPlain:
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
