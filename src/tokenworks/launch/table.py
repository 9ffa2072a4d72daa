"""The flags of each engine that say something of a role. `emit` writes with this table, and `import` reads with it.

A value has the unit of its flag here. `launch.vllm` and `launch.sglang` turn values into a role and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.dialect import Dialect, DialectEngine, whole
from tokenworks.launch.words import Parsed, Writer

Value = str | int | float | bool | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One value of a role, and the flag that says it.

    Parameters
    ----------
    key : name of the value
    thing : the value in words
    flags : spellings of the flag in all versions; the first that a dialect has is written, all are read
    path : key inside the JSON value of the flag; empty: the flag has a plain value
    switch : the flag has no value
    """

    key: str
    thing: str
    flags: tuple[str, ...]
    path: str = ""
    switch: bool = False


VLLM = (
    Row("model", "model", ("--model",)),
    Row("tp", "tensor parallel width", ("--tensor-parallel-size",)),
    Row("pp", "pipeline stages", ("--pipeline-parallel-size",)),
    Row("dp", "data parallel ranks", ("--data-parallel-size",)),
    Row("expert_parallel", "expert parallelism over tp x dp devices", ("--enable-expert-parallel",), switch=True),
    Row("balanced", "load balancing of experts", ("--enable-eplb",), switch=True),
    Row("redundant", "redundant experts", ("--eplb-config",), "num_redundant_experts"),
    Row("elastic", "expert parallelism that can lose ranks", ("--enable-elastic-ep",), switch=True),
    Row("tolerant", "recovery of the engine after the failure of a rank", ("--enable-fault-tolerance",), switch=True),
    Row("eplb_steps", "steps between two rebalances of experts", ("--eplb-config",), "step_interval"),
    Row("eplb_window", "steps whose expert counts decide", ("--eplb-config",), "window_size"),
    Row("eplb_background", "moving experts while steps run", ("--eplb-config",), "use_async"),
    Row("kv_dtype", "storage of the KV cache", ("--kv-cache-dtype",)),
    Row("memory_fraction", "share of the device memory", ("--gpu-memory-utilization",)),
    Row("chunk", "token budget of a step of one rank", ("--max-num-batched-tokens",)),
    Row("sequences", "running sequences of one rank", ("--max-num-seqs",)),
    Row("long_prefill", "most tokens of one prompt in a step of one rank", ("--long-prefill-token-threshold",)),
    Row("draft_method", "method of speculative decoding", ("--speculative-config",), "method"),
    Row("drafts", "draft tokens", ("--speculative-config",), "num_speculative_tokens"),
    Row("draft_model", "model that drafts", ("--speculative-config",), "model"),
    Row("draft_model", "model that drafts", ("--spec-model",)),
    Row("draft_method", "method of speculative decoding", ("--spec-method",)),
    Row("drafts", "draft tokens", ("--spec-tokens",)),
    Row("overlap", "two-batch overlap", ("--enable-dbo",), switch=True),
    Row("prefix_caching", "prefix cache", ("--enable-prefix-caching",), switch=True),
    Row("length", "longest request", ("--max-model-len",)),
    Row("connector", "transfer of the KV cache", ("--kv-transfer-config",), "kv_connector"),
    Row("kv_role", "role in disaggregated serving", ("--kv-transfer-config",), "kv_role"),
    Row("connector_config", "KV tiers", ("--kv-transfer-config",), "kv_connector_extra_config"),
    Row("load_failure", "failed reads of KV tiers", ("--kv-transfer-config",), "kv_load_failure_policy"),
    Row("offload_size", "memory of the host for the KV cache of one rank", ("--kv-offloading-size",)),
    Row("offload_backend", "who moves the KV cache to memory of the host", ("--kv-offloading-backend",)),
    Row("nodes", "nodes of the instance", ("--nnodes",)),
    Row("node_rank", "rank of the node", ("--node-rank",)),
    Row("local_ranks", "data parallel ranks on this node", ("--data-parallel-size-local",)),
    Row("first_rank", "first data parallel rank on this node", ("--data-parallel-start-rank",)),
    Row("rank", "data parallel rank of this process", ("--data-parallel-rank",)),
    Row("headless", "node without an API server", ("--headless",), switch=True),
)

SGLANG = (
    Row("model", "model", ("--model-path", "--model")),
    Row("tp", "devices of one pipeline stage", ("--tp-size", "--tensor-parallel-size")),
    Row("pp", "pipeline stages", ("--pp-size", "--pipeline-parallel-size")),
    Row("attention_dp", "data parallel ranks of attention", ("--attn-dp-size",)),
    Row("dp", "data parallel ranks or replicas", ("--dp-size", "--data-parallel-size")),
    Row("dp_attention", "data parallel attention", ("--enable-dp-attention",), switch=True),
    Row("ep", "groups of experts", ("--ep-size", "--expert-parallel-size")),
    Row("a2a", "dispatch and combine of experts", ("--moe-a2a-backend",)),
    Row("balanced", "load balancing of experts", ("--enable-eplb",), switch=True),
    Row("redundant", "redundant experts", ("--ep-num-redundant-experts",)),
    Row("elastic", "expert parallelism that can lose ranks", ("--elastic-ep-backend",)),
    Row("backup", "copies of all experts in memory of the host", ("--enable-elastic-expert-backup",), switch=True),
    Row("eplb_steps", "steps between two rebalances of experts", ("--eplb-rebalance-num-iterations",)),
    Row("eplb_window", "steps whose expert counts decide", ("--expert-distribution-recorder-buffer-size",)),
    Row(
        "eplb_utilization",
        "utilization from which no experts are moved",
        ("--eplb-min-rebalancing-utilization-threshold",),
    ),
    Row("kv_dtype", "storage of the KV cache", ("--kv-cache-dtype",)),
    Row("memory_fraction", "share of the device memory for weights and KV cache", ("--mem-fraction-static",)),
    Row("chunk", "prefill tokens of a step of the instance", ("--chunked-prefill-size",)),
    Row("prefill_tokens", "prompt tokens of a step of one rank", ("--max-prefill-tokens",)),
    Row("sequences", "running sequences of the instance", ("--max-running-requests",)),
    Row("order", "order of waiting requests", ("--schedule-policy",)),
    Row("draft_method", "method of speculative decoding", ("--speculative-algorithm",)),
    Row("draft_steps", "draft tokens one after the other", ("--speculative-num-steps",)),
    Row("draft_topk", "branches of the draft", ("--speculative-eagle-topk",)),
    Row("verified", "tokens that one step verifies", ("--speculative-num-draft-tokens",)),
    Row("draft_model", "model that drafts", ("--speculative-draft-model-path",)),
    Row("overlap", "two-batch overlap", ("--enable-two-batch-overlap",), switch=True),
    Row("no_prefix_caching", "no prefix cache", ("--disable-radix-cache",), switch=True),
    Row("tiers", "KV tiers", ("--enable-hierarchical-cache",), switch=True),
    Row("tier_size", "memory of the host for the KV cache of one device", ("--hicache-size",)),
    Row("tier_ratio", "memory of the host / KV cache of the device", ("--hicache-ratio",)),
    Row("tier_written", "when blocks are written to memory of the host", ("--hicache-write-policy",)),
    Row("tier_io", "copies to and from memory of the host", ("--hicache-io-backend",)),
    Row("tier_storage", "KV tier behind memory of the host", ("--hicache-storage-backend",)),
    Row("tier_prefetch", "prefetch from this tier", ("--hicache-storage-prefetch-policy",)),
    Row("page", "tokens of a page", ("--page-size",)),
    Row("length", "longest request", ("--context-length",)),
    Row("mode", "role in disaggregated serving", ("--disaggregation-mode",)),
    Row("balance", "choice of the data parallel rank", ("--load-balance-method",)),
    Row("nodes", "nodes of the instance", ("--nnodes",)),
    Row("node_rank", "rank of the node", ("--node-rank",)),
)

TABLES: dict[DialectEngine, tuple[Row, ...]] = {"vllm": VLLM, "sglang": SGLANG}
"""Engine -> its table."""


class Values:
    """Values of one command, by their keys.

    Parameters
    ----------
    given : the values
    where : file and line of the command, for messages
    spelled : key -> flag of the command, for messages
    """

    def __init__(self, given: Mapping[str, Value], where: str, spelled: Mapping[str, str] | None = None) -> None:
        self.given, self.where, self.spelled = dict(given), where, dict(spelled or {})

    def has(self, key: str) -> bool:
        """Whether the command says the value."""
        return key in self.given

    def place(self, key: str) -> str:
        """The place of a value, for messages."""
        return f"{self.where}: {self.spelled.get(key, key)}"

    def count(self, key: str, default: int) -> int:
        """A whole number, which must not be below -1."""
        value = self.given.get(key, default)
        try:
            number = whole(str(value))
        except ValueError:
            raise SpecError(f"{value!r} is not a whole number", where=self.place(key), hint="write one") from None
        if number < -1:
            raise SpecError(f"{number} is negative", where=self.place(key), hint="write 1 or more")
        return number

    def width(self, key: str, default: int = 1) -> int:
        """A whole number of 1 or more."""
        number = self.count(key, default)
        if number < 1:
            raise SpecError(f"{number} must be at least 1", where=self.place(key), hint="write 1 or more")
        return number

    def share(self, key: str, default: float) -> float:
        """A share above 0 and at most 1."""
        value = self.given.get(key, default)
        try:
            number = float(str(value))
        except ValueError:
            number = -1.0
        if not 0 < number <= 1:
            hint = "write a share above 0 and at most 1, such as 0.9"
            raise SpecError(f"{value!r} is not a share", where=self.place(key), hint=hint)
        return number

    def text(self, key: str, default: str = "") -> str:
        """A word."""
        return str(self.given.get(key, default))

    def mapping(self, key: str) -> dict[str, Any]:
        """A JSON object; empty if the command says none, or another value."""
        value = self.given.get(key)
        return value if isinstance(value, dict) else {}

    def on(self, key: str, *, default: bool = False) -> bool:
        """Whether a switch is on."""
        return bool(self.given.get(key, default))


def values_in(parsed: Parsed, dialect: Dialect, where: str) -> tuple[Values, set[str]]:
    """The values that a command says.

    Parameters
    ----------
    parsed : the terms of the command
    dialect : the flags of its program
    where : file and line of the command, for messages

    Returns
    -------
    The values, and the flags that are read, a key of a JSON value after a dot.

    Raises
    ------
    SpecError : two flags contradict each other
    """
    given: dict[str, Value] = {}
    spelled: dict[str, str] = {}
    read: set[str] = set()
    for row in TABLES[dialect.engine]:
        for name, value in _values_of_row(row, parsed, dialect):
            if row.key in given and given[row.key] != value:
                words = f"{spelled[row.key]} {given[row.key]} and {name} {value} contradict each other"
                raise SpecError(words, where=where, hint="keep one of them")
            given[row.key], spelled[row.key] = value, name
            read.add(name)
    return Values(given, where, spelled), read


def _values_of_row(row: Row, parsed: Parsed, dialect: Dialect) -> Iterator[tuple[str, Value]]:
    """The values that a row has in a command, with the flag of each."""
    names = {spelled.name for flag in row.flags if (spelled := dialect.look_up(flag)) and dialect.has(flag)}
    for name in sorted(names):
        if row.path:
            content: Mapping[str, Any] = parsed.keys.get(name, {})
            if row.path in content:
                yield f"{name}.{row.path}", content[row.path]
        elif name in parsed.terms:
            term = parsed.terms[name]
            yield name, not term.negated if row.switch else term.value


def write(writer: Writer, given: Mapping[str, Value]) -> None:
    """Write values as flags, in the order of the table.

    Parameters
    ----------
    writer : the command
    given : values by their keys; False leaves a switch out, or writes its --no- twin if it has one

    Raises
    ------
    SpecError : the dialect has no flag for a value, or does not accept the value
    """
    dialect, left = writer.dialect, dict(given)
    objects: dict[str, dict[str, Value]] = {}
    for row in TABLES[dialect.engine]:
        if row.key not in left:
            continue
        flag = next((flag for flag in row.flags if dialect.has(flag)), None)
        if flag is None:
            if not any(other.key == row.key and other is not row for other in TABLES[dialect.engine]):
                raise SpecError(f"has no flag for {row.thing}", where=dialect.title, hint="take another --dialect")
            continue
        value = left.pop(row.key)
        if row.path:
            objects.setdefault(flag, {})[row.path] = value
        elif not row.switch:
            writer.add(flag, value)
        elif value:
            writer.add(flag)
        elif dialect.flags[flag].kind == "pair":
            writer.add(f"--no-{flag.removeprefix('--')}")
    for flag, content in objects.items():
        writer.add(flag, content)
    assert not left, f"no row for {sorted(left)}"
