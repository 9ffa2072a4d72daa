"""The catalog as results: a list of machines, models or other entries, or one of them in detail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from typing_extensions import TypedDict

from tokenworks.costs.split import KV_BYTES
from tokenworks.errors import SpecError
from tokenworks.specs import compose, load
from tokenworks.specs import model as sums
from tokenworks.specs.calibration import calibration_names, load_calibration
from tokenworks.specs.compose import Parts
from tokenworks.specs.device import Device
from tokenworks.specs.engine import engine_names, load_engine
from tokenworks.specs.hf import load_model, model_names
from tokenworks.specs.model import Block, Matrix, Model, Scan
from tokenworks.specs.price import Price
from tokenworks.specs.price_file import load_price_list, price_list_names
from tokenworks.specs.provenance import Fact, Quantity, Spec
from tokenworks.specs.reliability import load_reliability, reliability_names
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs


class SystemRow(TypedDict):
    """One machine in SI numbers, per device; None: the number is not published, or the link does not exist.

    missing : paths of the numbers that a plan needs and that are not published
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


Section = Literal["workloads", "calibrations", "engines", "networks", "devices", "prices", "reliability"]
"""Parts of the catalog that have no command of their own."""


class EntryRow(TypedDict):
    """One entry of the catalog."""

    section: str
    name: str
    title: str


class CatalogBody(TypedDict):
    """The plain form of `catalog` and of `catalog SECTION`."""

    inputs: Inputs
    entries: list[EntryRow]


class ValuePlain(TypedDict):
    """One value of a file; None: the value is not a number with a source.

    path : dotted path of the value in the file
    value : the value, as it is written in the file
    """

    path: str
    value: str | None
    status: str | None
    source: str | None


class EntryBody(EntryRow):
    """The plain form of `catalog SECTION NAME`: every value of the file of the entry."""

    inputs: Inputs
    values: list[ValuePlain]


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


def _device(name: str) -> Device:
    return load.load(Device, load.locate("device", load.find_device(name) or name))


SECTIONS: dict[Section, tuple[Callable[[], list[str]], Callable[[str], Any]]] = {
    "workloads": (lambda: load.catalog_names("workload"), load.load_workload),
    "calibrations": (calibration_names, load_calibration),
    "engines": (engine_names, load_engine),
    "networks": (lambda: load.catalog_names("network"), load.load_network),
    "devices": (lambda: load.catalog_names("device"), _device),
    "prices": (price_list_names, load_price_list),
    "reliability": (reliability_names, load_reliability),
}
"""Names of each section, and the function that loads an entry by its name."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Entries of the catalog."""

    rows: tuple[EntryRow, ...]

    @classmethod
    def read(cls, section: Section | None = None) -> Catalog:
        """Read the entries of a section.

        Parameters
        ----------
        section : None: all sections
        """
        sections: tuple[Section, ...] = get_args(Section) if section is None else (section,)
        return cls(tuple(_entry_row(one, name) for one in sections for name in SECTIONS[one][0]()))

    def plain(self) -> Plain:
        """The whole list as plain data."""
        body: CatalogBody = {"inputs": inputs(), "entries": list(self.rows)}
        return envelope("catalog", body)


def _entry_row(section: Section, name: str) -> EntryRow:
    spec = SECTIONS[section][1](name)
    return {"section": section, "name": spec.name, "title": spec.title}


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One entry of the catalog with every value of its file."""

    section: Section
    spec: Spec

    @classmethod
    def read(cls, section: Section, name: str) -> CatalogEntry:
        """Read one entry.

        Parameters
        ----------
        section : part of the catalog
        name : name of the entry, or path of a YAML file

        Raises
        ------
        SpecError : the section has no such entry
        """
        return cls(section, SECTIONS[section][1](name))

    @property
    def row(self) -> EntryRow:
        """Section, name and title."""
        data: Any = self.spec
        return {"section": self.section, "name": data.name, "title": data.title}

    def values(self) -> list[ValuePlain]:
        """All values of the file, in the order of the fields."""
        return [value for value in _values("", self.spec) if value["path"] not in ("name", "title")]

    def plain(self) -> Plain:
        """The entry as plain data."""
        body: EntryBody = {"inputs": inputs(), **self.row, "values": self.values()}
        return envelope("catalog-entry", body)


def _values(path: str, item: Any) -> Iterator[ValuePlain]:
    """The values in a part of a spec. Empty values are left out."""
    if isinstance(item, Quantity):
        source = "; ".join(filter(None, (item.source, item.note)))
        yield {"path": path, "value": item.written or None, "status": item.status, "source": source}
    elif isinstance(item, Price):
        source = "; ".join(filter(None, (item.source, item.date, item.note)))
        yield {"path": path, "value": item.written or None, "status": item.status, "source": source}
    elif isinstance(item, Spec):
        for name, inner in item:
            if name != "sources":  # the numbers have the texts of this table already
                yield from _values(f"{path}.{name}" if path else name, inner)
    elif isinstance(item, dict):
        for key, inner in item.items():
            yield from _values(f"{path}.{key}", inner)
    elif isinstance(item, tuple) and any(isinstance(inner, Spec) for inner in item):
        for index, inner in enumerate(item):
            yield from _values(f"{path}.{index}", inner)
    elif item not in (None, "", ()):
        text = ", ".join(map(str, item)) if isinstance(item, tuple) else str(item)
        yield {"path": path, "value": text, "status": None, "source": None}


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
