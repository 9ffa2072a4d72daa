"""Launch commands become a deployment. The other direction is `launch.commands`; both use `launch.table`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenworks.errors import SpecError
from tokenworks.launch import sglang, vllm
from tokenworks.launch.command import Command
from tokenworks.launch.dialect import Dialect, DialectEngine, dialects, load_dialect
from tokenworks.launch.meaning import Meaning
from tokenworks.launch.reasons import Unread, reason_of, reason_of_unknown
from tokenworks.launch.router import RouterWords, is_router, read_router
from tokenworks.launch.table import Values, values_in
from tokenworks.launch.target import LaunchTarget, target_of
from tokenworks.launch.tiers import sized
from tokenworks.launch.words import Parsed, parse
from tokenworks.specs.compose import On
from tokenworks.specs.deployment import NOT_MODELLED, ROLES, Deployment, Role, RoleName
from tokenworks.specs.given import Assume
from tokenworks.specs.tier import Tier

ENCODERS = ("--encoder-only", "--mm-encoder-only")
"""Switches of commands that start a pool of encoders."""

REFUSED = 1000
"""A command that a dialect cannot parse counts as this number of flags that it does not have."""


@dataclass(frozen=True, slots=True)
class _Server:
    """One command of an engine, as it was read.

    Parameters
    ----------
    command : the command
    parsed : its terms
    values : its values
    read : flags that have a place in the deployment
    meaning : what the values mean
    """

    command: Command
    parsed: Parsed
    values: Values
    read: set[str]
    meaning: Meaning

    @property
    def starts_an_instance(self) -> bool:
        """Whether this command is the first node, or the only process, of its instance."""
        ranks = (self.values.count("node_rank", 0), self.values.count("first_rank", 0), self.values.count("rank", 0))
        return not any(ranks) and not self.values.on("headless")


def read(
    commands: Sequence[Command], *, system: On, model: str | None = None, dialect: Dialect | str | None = None,
    assume: Assume = None,
) -> tuple[Deployment, list[Unread]]:  # fmt: skip
    """The deployment that launch commands start.

    Parameters
    ----------
    commands : all commands of the deployment: engines on all nodes, and the router
    system : machine that the commands run on
    model : model in the words of tokenworks; None: the model that the commands name
    dialect : the version of the engine; None: the newest version that has all flags, see `choose`
    assume : numbers that replace numbers of the catalog

    Returns
    -------
    The deployment, and the flags that have no place in it. Nodes of the same instance say a flag once.

    Raises
    ------
    SpecError : no command starts an engine; commands contradict each other; a model or a machine is unknown
    """
    engines = [command for command in commands if engine_of(command) is not None]
    if not engines:
        where = commands[0].where if commands else "commands"
        hint = (
            "give a command such as `vllm serve MODEL ...` or `python -m sglang.launch_server --model-path MODEL ...`"
        )
        raise SpecError("no command starts vLLM or SGLang", where=where, hint=hint)
    chosen = choose(commands) if dialect is None else load_dialect(dialect) if isinstance(dialect, str) else dialect
    mixed = {engine_of(command) for command in engines}
    if mixed != {chosen.engine}:
        words = f"{' and '.join(sorted(str(name) for name in mixed))} commands, read as {chosen.title}"
        raise SpecError(words, where=engines[0].where, hint="give the commands of one engine, and its --dialect")
    parsed = [(command, parse(command, chosen)) for command in engines]
    named = model or _model(parsed, chosen)
    target = target_of(named, system, chosen, assume)
    servers = [_server(command, words, chosen, target) for command, words in parsed]
    unread = _unread(servers, chosen)
    routers = [read_router(command) for command in commands if is_router(command)]
    for one in routers:
        unread += one.unread
    return _deployment(servers, routers, target, named, system), unread


def engine_of(command: Command) -> DialectEngine | None:
    """The engine that a command starts; None: the command starts something else."""
    if is_router(command) or command.role == "router":
        return None
    words = " ".join(command.program).lower()
    if "bench" in words or not words:
        return None
    if "sglang" in words:
        return "sglang"
    return "vllm" if "vllm" in words else None


def choose(commands: Sequence[Command]) -> Dialect:
    """The newest dialect that has all flags and values of the commands, or the one that lacks fewest of them.

    Parameters
    ----------
    commands : all commands of a deployment

    Raises
    ------
    SpecError : no command starts an engine
    """
    engines = [(command, engine_of(command)) for command in commands]
    known = [(command, engine) for command, engine in engines if engine]
    if not known:
        raise SpecError("no command starts vLLM or SGLang", where="commands")
    suited = [dialect for dialect in dialects() if dialect.engine == known[0][1]]
    of_engine = [command for command, engine in known if engine == known[0][1]]
    return min(suited, key=lambda dialect: _lacking(of_engine, dialect))


def _lacking(commands: Sequence[Command], dialect: Dialect) -> int:
    """Flags and values of commands that a dialect does not have [count]."""
    total = 0
    for command in commands:
        try:
            words = parse(command, dialect)
        except SpecError:
            total += REFUSED
            continue
        total += len(words.unknown) + len(words.refused)
    return total


def _model(parsed: Sequence[tuple[Command, Parsed]], dialect: Dialect) -> str:
    """The model that the commands name."""
    names: dict[str, str] = {}
    for command, words in parsed:
        values, _ = values_in(words, dialect, command.where)
        name = values.text("model") or (words.positional[0] if words.positional else "")
        if name:
            names.setdefault(name, command.where)
    if not names:
        where = parsed[0][0].where
        raise SpecError("the command names no model", where=where, hint="name it with --model")
    if len(names) > 1:
        first, second = list(names)[:2]
        raise SpecError(f"two models, {first} and {second}", where=names[second], hint="name one with --model")
    return next(iter(names))


def _server(command: Command, words: Parsed, dialect: Dialect, target: LaunchTarget) -> _Server:
    values, flags = values_in(words, dialect, command.where)
    refused = next((words.refused[flag] for flag in sorted(flags) if flag in words.refused), None)
    if refused:
        raise SpecError(refused, where=command.where)
    encoders = next((flag for flag in ENCODERS if flag in words.terms and not words.terms[flag].negated), None)
    if encoders:
        raise SpecError(NOT_MODELLED["encoder"], where=f"{command.where}: {encoders}")
    values = _with_default_ratio(values, dialect)
    name: RoleName | None = next((role for role in ROLES if role == command.role), None)
    meaning = (vllm if dialect.engine == "vllm" else sglang).role_of(values, name, target)
    return _Server(command, words, values, flags, meaning)


def _with_default_ratio(values: Values, dialect: Dialect) -> Values:
    """Values of SGLang with the default of --hicache-ratio, if the version has one and the command says no size."""
    ratio = dialect.flags.get("--hicache-ratio")
    if ratio is None or not values.on("tiers") or values.has("tier_ratio") or values.count("tier_size", 0):
        return values
    try:
        default = float(ratio.default)
    except ValueError:
        return values
    return Values({**values.given, "tier_ratio": default}, values.where, values.spelled)


# ── the deployment ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Group:
    """The commands of one role.

    Parameters
    ----------
    first : the first command
    instances : instances that the commands start [count]
    """

    first: _Server
    instances: int = 0


def _deployment(
    servers: Sequence[_Server], routers: Sequence[RouterWords], target: LaunchTarget, model: str, system: On
) -> Deployment:
    groups: dict[RoleName, _Group] = {}
    for server in servers:
        group = groups.setdefault(server.meaning.role.name, _Group(server))
        _must_agree(group.first, server)
        group.instances += server.meaning.copies if server.starts_an_instance else 0
    seen = {name: max((one.workers.get(name, 0) for one in routers), default=0) for name in groups}
    for name, group in groups.items():
        if group.instances > 1 or any(group.first.values.has(key) for key in ("rank", "first_rank", "local_ranks")):
            seen[name] = 0  # all commands are here, or each rank has a URL of its own
    roles = tuple(
        group.first.meaning.role.model_copy(update={"replicas": max(group.instances, seen[name], 1)})
        for name, group in groups.items()
    )
    if len(groups) == 1 and roles[0].name != "aggregated":
        missing = "decode" if roles[0].name == "prefill" else "prefill"
        where = servers[0].command.where
        hint = f"give the commands of the {missing} role too"
        raise SpecError(f"all commands are of the role {roles[0].name}", where=where, hint=hint)
    first = next(groups[name].first for name in ROLES if name in groups).meaning
    balance = next((server.meaning.router for server in servers if server.meaning.router), None)
    policy = next((one.policy for one in routers if one.policy), balance)
    lengths = [group.first.meaning.length for group in groups.values() if group.first.meaning.length is not None]
    fields = {
        "model": model, "system": str(system) if isinstance(system, (str, Path)) else target.machine.name,
        "engine": target.engine.name, "roles": roles, "router": policy, "prefix_caching": first.prefix_caching,
        "max_model_len": min(lengths) if lengths else None, "devices_per_host": _per_host(servers, target),
        "tiers": _tiers(first, roles, target), "kv_load_failure": first.kv_load_failure,
        "scheduling": first.scheduling,
        "elastic_ep": any(group.first.meaning.elastic_ep for group in groups.values()),
    }  # fmt: skip
    try:
        return Deployment.model_validate(fields)
    except ValueError as error:
        raise SpecError(str(error), where=servers[0].command.where) from None


def _tiers(first: Meaning, roles: Sequence[Role], target: LaunchTarget) -> tuple[Tier, ...]:
    """The KV tiers with the sizes of all ranks (vLLM) or devices (SGLang) of the role that uses them."""
    role = next(one for one in roles if one.name == first.role.name)
    count = role.devices if target.engine.name == "sglang" else role.replicas * role.parallel.dp
    sizes = [tier.capacity.value for tier in first.tiers]
    return tuple(
        sized(tier, None if size is None else size * count) for tier, size in zip(first.tiers, sizes, strict=True)
    )


def _must_agree(first: _Server, other: _Server) -> None:
    """Refuse two commands of one role that start different instances: a role has equal instances."""
    if first.meaning.role != other.meaning.role:
        mine, yours = first.meaning.role.model_dump(), other.meaning.role.model_dump()
        field_name = next(name for name in mine if mine[name] != yours[name])
        raise SpecError(
            f"{other.meaning.role.name} commands differ in {field_name}: {_value(first.meaning.role, field_name)} in "
            f"{first.command.where}, {_value(other.meaning.role, field_name)} here", where=other.command.where,
            hint="all instances of a role are equal in a deployment: import them one by one",
        )  # fmt: skip

    if first.meaning.tiers != other.meaning.tiers:
        raise SpecError(
            f"{other.meaning.role.name} commands have different KV tiers, here and in {first.command.where}",
            where=other.command.where, hint="all instances of a role are equal in a deployment: import them one by one",
        )  # fmt: skip


def _value(role: Role, name: str) -> str:
    return str(getattr(role, name))


def _per_host(servers: Sequence[_Server], target: LaunchTarget) -> int | None:
    """Devices of one host: as the commands divide their instances over nodes, else as the machine says [count]."""
    for server in servers:
        parallel, nodes = server.meaning.role.parallel, server.values.count("nodes", 1)
        if nodes > 1 and parallel.devices % nodes == 0:
            return max(parallel.devices // nodes, _of_machine(target) or 1)
        local = server.values.count("local_ranks", 0)
        if 0 < local < parallel.dp:
            return max(local * parallel.tp * parallel.pp, _of_machine(target) or 1)
    return _of_machine(target)


def _of_machine(target: LaunchTarget) -> int | None:
    return target.machine.host.devices


# ── what is not read ──────────────────────────────────────────────────────────────────────────────────────────────


def _unread(servers: Sequence[_Server], dialect: Dialect) -> list[Unread]:
    """The flags without a place in the deployment, each role and value once."""
    listed: dict[tuple[str, str, str], Unread] = {}
    for server in servers:
        for one in _of_server(server, dialect):
            listed.setdefault((one.flag, one.value, one.role), one)
    return list(listed.values())


def _of_server(server: _Server, dialect: Dialect) -> list[Unread]:
    where, role = server.command.where, server.meaning.role.name
    unread = []
    reasons = {
        server.values.spelled[key]: words
        for key, words in server.meaning.unused.items()
        if key in server.values.spelled
    }
    for name, term in server.parsed.terms.items():
        if name in reasons:
            unread.append(Unread(term.word, term.value, reasons[name], "not modelled", where, role))
        elif name in server.parsed.refused:
            unread.append(Unread(term.word, term.value, server.parsed.refused[name], "value", where, role))
        elif name not in server.read:
            kind, words = reason_of(name, dialect)
            unread.append(Unread(term.word, term.value, words, kind, where, role))
    for name, content in server.parsed.keys.items():
        for key, value in content.items():
            path = f"{name}.{key}"
            if path in reasons:
                unread.append(Unread(path, str(value), reasons[path], "not modelled", where, role))
            elif path not in server.read:
                kind, words = reason_of(name, dialect)
                unread.append(Unread(path, str(value), words, kind, where, role))
            unread += _inside(path, value, server, where, role)
    for term in server.parsed.unknown:
        kind, words = reason_of_unknown(term.flag, dialect)
        unread.append(Unread(term.word, term.value, words, kind, where, role))
    return unread


def _inside(path: str, value: object, server: _Server, where: str, role: str) -> list[Unread]:
    """The names inside a JSON value that have no place in the deployment."""
    reasons = {
        name: words
        for dotted, words in server.meaning.unused.items()
        for key, _, name in [dotted.partition(".")]
        if name and server.values.spelled.get(key) == path
    }
    content = value if isinstance(value, dict) else {}
    return [
        Unread(f"{path}.{name}", str(content.get(name, "")), words, "not modelled", where, role)
        for name, words in reasons.items()
    ]
