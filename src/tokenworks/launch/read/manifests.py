"""Docker Compose files and Kubernetes manifests become launch commands: containers with arguments and variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.launch.command import Command
from tokenworks.launch.read.programs import SERVERS, Start, start_of, start_of_image
from tokenworks.launch.read.shell import ShellRead, read_shell, shown_environment
from tokenworks.launch.read.variables import GIVE
from tokenworks.launch.read.yaml_text import Text, line_of, walked

Above = tuple[tuple[str, ...], dict[str, Any]]
"""A mapping around a container, with its path."""

MOST_REPLICAS = 4096
"""Replicas of a container, at most [count]."""

_IN_COMPOSE = re.compile(r"\$(?:\$|\{(?P<braced>[^}]*)\}|(?P<plain>[A-Za-z_][A-Za-z0-9_]*))")
_BRACED = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<sign>:?[-+?])(?P<word>.*))?", re.DOTALL)
_IN_KUBERNETES = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_PREFILL, _DECODE = re.compile(r"(?<![a-z])prefill(?![a-z])"), re.compile(r"(?<![a-z])decode(?![a-z])")
_SHELL = ("sh", "bash", "/bin/sh", "/bin/bash", "/usr/bin/bash")


def is_compose(document: Any) -> bool:
    """Whether a document is a Compose file."""
    services = document.get("services") if isinstance(document, dict) else None
    return isinstance(services, dict) and "apiVersion" not in document


def read_compose(document: Mapping[str, Any], where: str, given: Mapping[str, str] | None = None) -> ShellRead:
    """The launch commands of a Compose file.

    Parameters
    ----------
    document : the file, as `yaml_text.documents` reads it
    where : path of the file, for messages
    given : values of variables that the user gave; the file may use them as ${NAME}

    Raises
    ------
    SpecError : a variable without a value, or a service that cannot be read
    """
    commands: list[Command] = []
    notes: list[str] = []
    for name, service in document["services"].items():
        if not isinstance(service, dict):
            raise SpecError(f"service {name} is no mapping", where=f"{where}:{line_of(service)}")
        if not any(engine in str(service).lower() for engine in SERVERS):
            continue
        used = {key: service.get(key) for key in ("entrypoint", "command", "image", "deploy", "scale")}
        expanded = _interpolated(used, where, given or {})
        line = line_of(service.get("command") or service.get("entrypoint") or name)
        deploy = expanded.get("deploy")
        asked = deploy.get("replicas") if isinstance(deploy, dict) else expanded.get("scale")
        read = _container(
            entrypoint=_words(expanded.get("entrypoint"), f"{where}:{line}"),
            arguments=_words(expanded.get("command"), f"{where}:{line}"),
            image=str(expanded.get("image") or ""),
            environment=_pairs(service.get("environment")),
            where=where, line=line, given=given or {},
        )  # fmt: skip
        commands += _repeated(read.commands, _count(asked, f"{where}: services.{name}.deploy.replicas"), 0, str(name))
        notes += read.notes
    return ShellRead(tuple(commands), tuple(notes))


def _interpolated(value: Any, where: str, given: Mapping[str, str]) -> Any:
    """The value with ${NAME} and $NAME replaced, in all texts."""
    if isinstance(value, dict):
        return {key: _interpolated(inner, where, given) for key, inner in value.items()}
    if isinstance(value, list):
        return [_interpolated(inner, where, given) for inner in value]
    if not isinstance(value, str):
        return value
    line = line_of(value)

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        inner = _BRACED.fullmatch(match["braced"] if match["plain"] is None else match["plain"])
        if inner is None:
            raise SpecError(f"{match[0]} is no variable", where=f"{where}:{line}", hint="write ${NAME}")
        known, sign, word = given.get(inner["name"]), inner["sign"] or "", inner["word"] or ""
        if sign.endswith("-"):
            return known or word
        if sign.endswith("+"):
            return word if known else ""
        if known is None:
            raise _unset(inner["name"], where, line)
        return known

    return Text.at(_IN_COMPOSE.sub(replaced, value), line)


def _unset(name: str, where: str, line: int) -> SpecError:
    return SpecError(
        f"the launch command needs ${name}, and the file does not set it", where=f"{where}:{line}",
        hint=f"give it with {GIVE} {name}=VALUE",
    )  # fmt: skip


# ── Kubernetes ────────────────────────────────────────────────────────────────────────────────────────────────────


def read_kubernetes(document: Any, where: str, given: Mapping[str, str] | None = None) -> ShellRead:
    """The launch commands of a Kubernetes manifest, or of other data with containers, such as Helm values.

    Every mapping with `command` or `args` that starts an engine counts as a container.

    Parameters
    ----------
    document : the manifest, as `yaml_text.documents` reads it
    where : path of the file, for messages
    given : values of variables that the user gave
    """
    commands: list[Command] = []
    notes: list[str] = []
    ancestors: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, mapping in walked(document, where):
        ancestors[path] = mapping
        if path[-1:] in (("exec",), ("lifecycle",)) or not mapping.keys() & {"command", "args"}:
            continue
        starts = (path[:length] for length in range(len(path) + 1))
        above = [(start, ancestors[start]) for start in starts if start in ancestors]
        named = [role_in(step) for step in path] + [_role_of(one) for _, one in above]
        role = next((role for role in named if role), "")
        for node, variables in _nodes(path, above):
            read = _container(
                entrypoint=_words(mapping.get("command"), where), arguments=_words(mapping.get("args"), where),
                image=str(mapping.get("image") or ""), environment={**variables, **_pairs(mapping.get("env"))},
                where=where, line=line_of(mapping.get("args") or mapping.get("command")), given=given or {},
                kubernetes=True,
            )  # fmt: skip
            commands += _repeated(read.commands, _replicas(above, where), node, role)
            notes += read.notes
    return ShellRead(tuple(commands), tuple(dict.fromkeys(notes)))


def _nodes(path: tuple[str, ...], above: list[Above]) -> Iterator[tuple[int, dict[str, str]]]:
    """Nodes of an instance that a container runs on, each with the variables that a LeaderWorkerSet sets on it.

    Without a template of its own, the leader runs what the workers run.
    """
    if "leaderWorkerTemplate" not in path:
        yield 0, {}
        return
    size, leads = _group_size(above), any("leaderTemplate" in mapping for _, mapping in above)
    nodes = range(1) if "leaderTemplate" in path else range(1 if leads else 0, size)
    for node in nodes:
        yield node, {
            "LWS_GROUP_SIZE": str(size), "LWS_WORKER_INDEX": str(node), "LWS_LEADER_ADDRESS": "$(LWS_LEADER_ADDRESS)",
        }  # fmt: skip


def role_in(text: str) -> str:
    """The role that a name contains as a word: "prefill" or "decode"; empty: none, or both."""
    lower = text.lower()
    roles = [role for role, word in (("prefill", _PREFILL), ("decode", _DECODE)) if word.search(lower)]
    return roles[0] if len(roles) == 1 else ""


def _role_of(mapping: Mapping[str, Any]) -> str:
    """The role that the name or a label of an object contains."""
    metadata = mapping.get("metadata")
    texts = [mapping.get("name"), mapping.get("role"), mapping.get("subComponentType")]
    if isinstance(metadata, dict):
        labels = metadata.get("labels")
        texts += [metadata.get("name"), *(labels.values() if isinstance(labels, dict) else ())]
    return next((role for text in texts if isinstance(text, str) and (role := role_in(text))), "")


def _group_size(above: list[Above]) -> int:
    """Pods of one group of a LeaderWorkerSet, which are the nodes of one instance; 1 for other objects [count]."""
    for _, mapping in above:
        template = mapping.get("leaderWorkerTemplate")
        if isinstance(template, dict) and template.get("size") is not None:
            return _count(template["size"], "leaderWorkerTemplate.size")
    return 1


def _replicas(above: list[Above], where: str) -> int:
    """Replicas of the nearest object around a container that has a number of them [count]."""
    asked = [mapping["replicas"] for _, mapping in above if mapping.get("replicas") is not None]
    return _count(asked[-1], f"{where}: replicas") if asked else 1


def _count(value: Any, where: str) -> int:
    if value is None:
        return 1
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 0 <= int(text) <= MOST_REPLICAS:
        raise SpecError(f"{text[:40]!r} is no number of replicas up to {MOST_REPLICAS}", where=where)
    return int(text)


def _repeated(commands: tuple[Command, ...], replicas: int, node: int, role: str) -> Iterator[Command]:
    """Each command once for each replica."""
    for command in commands:
        for instance in range(replicas):
            yield replace(command, instance=instance, node=node, role=command.role or role_in(role))


# ── containers ────────────────────────────────────────────────────────────────────────────────────────────────────


def _words(value: Any, where: str) -> tuple[str, ...] | None:
    """Words of a command: a list, or a text that is split as a shell does; None: there is none."""
    if value is None:
        return None
    if isinstance(value, list):
        bad = next((item for item in value if not isinstance(item, str)), None)
        if bad is not None:
            raise SpecError(f"a command holds {str(bad)[:40]!r}, not a text", where=where, hint="write a list of texts")
        return tuple(value)
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError:
            raise SpecError("a quote is not closed", where=f"{where.partition(':')[0]}:{line_of(value)}") from None
    raise SpecError("a command must be a text or a list of texts", where=where)


def _pairs(value: Any) -> dict[str, str]:
    """Environment variables of a mapping, of a list of NAME=value, or of a list of name and value.

    A value that only the cluster knows is written as $(NAME).
    """
    pairs: dict[str, str] = {}
    if isinstance(value, dict):
        pairs = {str(name): "" if text is None else str(text) for name, text in value.items()}
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and "name" in item:
                name = str(item["name"])
                pairs[name] = f"$({name})" if "valueFrom" in item else str(item.get("value") or "")
            elif isinstance(item, str):
                name, _, text = item.partition("=")
                pairs[name] = text
    return pairs


def _container(
    *, entrypoint: tuple[str, ...] | None, arguments: tuple[str, ...] | None, image: str,
    environment: dict[str, str], where: str, line: int, given: Mapping[str, str], kubernetes: bool = False,
) -> ShellRead:  # fmt: skip
    """The launch commands of one container; none if it starts something else."""
    place = f"{where}:{line}"
    if kubernetes:
        entrypoint, arguments = (
            None if words is None else tuple(_filled(word, environment, given) for word in words)
            for words in (entrypoint, arguments)
        )
    words = (*(entrypoint or ()), *(arguments or ()))
    script = _script(words)
    if script is not None:
        known = {name: value for name, value in environment.items() if not value.startswith("$(")}
        at_run_time = {name: value for name, value in environment.items() if name not in known}
        first = line_of(script) + (1 if isinstance(script, Text) and "\n" in script else 0)
        return read_shell(str(script), where, given={**at_run_time, **given}, environment=known, first=first)
    start = start_of(words, place)
    if start is None and image:
        start = start_of_image(image, arguments or (), (), entrypoint, place)
    if start is None:
        return ShellRead(())
    return ShellRead((_command(start, environment, place),))


def _script(words: tuple[str, ...]) -> str | None:
    """The script that a shell gets behind -c; None: no shell starts."""
    if not words or words[0] not in _SHELL:
        return None
    for at, word in enumerate(words[1:], 1):
        if word.startswith("-") and not word.startswith("--") and word.endswith("c"):
            return words[at + 1] if at + 1 < len(words) else None
    return None


def _filled(word: str, environment: Mapping[str, str], given: Mapping[str, str]) -> str:
    """The word with $(NAME) replaced, as Kubernetes does; a name that nothing sets stays as written."""

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return given.get(match[1], environment.get(match[1], match[0]))

    text = _IN_KUBERNETES.sub(replaced, word)
    return Text.at(text, line_of(word)) if isinstance(word, Text) else text


def _command(start: Start, environment: Mapping[str, str], where: str) -> Command:
    return Command(
        program=tuple(map(str, start.program)), arguments=tuple(map(str, start.arguments)),
        environment=shown_environment(environment), role="router" if start.engine == "router" else "", where=where,
    )  # fmt: skip
