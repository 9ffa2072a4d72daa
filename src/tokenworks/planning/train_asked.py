"""Input of `train`: tokens, batch, a text or a file of a plan, and how often the machine fails."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.legal.training import PRECISIONS, RECOMPUTES, SCHEDULES, TrainSetting
from tokenworks.planning.train_space import FREE, Fixed
from tokenworks.specs.compose import On, machine
from tokenworks.specs.given import Assume, Given, given
from tokenworks.specs.hf import ModelLike, load_model
from tokenworks.specs.load import is_path, nearest, read_yaml
from tokenworks.specs.model import Model
from tokenworks.specs.training import MethodName, PrecisionName, Training
from tokenworks.specs.training_text import KEYS, TrainingLike, load_training

TRILLION = 10**12
BATCH, TOKENS, SEQ, DEPLOY = "--batch", "--tokens", "--seq", "--deploy"
USUAL_SEQ = 8192
"""Length of a sequence if neither an option nor a plan gives one [token]."""

MOST = 10**18
"""Most tokens of a run; more is a typing error [token]."""

_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)\s*([kKMBGT]?)")
_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": TRILLION}
_BINARY = {**_DECIMAL, "k": 2**10, "K": 2**10, "M": 2**20}
_SEQUENCES = re.compile(r"([0-9]+)\s*x\s*([0-9]+)")


@dataclass(frozen=True, slots=True)
class AskedTraining:
    """What `train` must compute.

    Parameters
    ----------
    setting : model, machine, batch and sequence, with every setting that the search does not change
    fixed : what the user fixes; the search decides the rest
    tokens : tokens of the whole run [token]
    given : numbers that the user set
    """

    setting: TrainSetting
    fixed: Fixed
    tokens: float
    given: tuple[Given, ...]


def token_count(text: str | float, where: str) -> float:
    """A number of tokens: 1T, 14.8T, 500B, or a plain number. The letters are decimal.

    Parameters
    ----------
    text : the number as text, or a number
    where : option, for messages

    Raises
    ------
    SpecError : not a number of tokens, zero, or too large
    """
    return _count(text, where, _DECIMAL, "1T, 500B or 20000000")


def batch_of(text: str | int, seq: int | None, where: str = BATCH) -> tuple[int, int]:
    """A batch as sequences and their length.

    Parameters
    ----------
    text : tokens of an optimiser step, such as 16M, where k and M are 2^10 and 2^20 as recipes count a batch; or
        sequences x length, such as 15360x4096
    seq : length of a sequence; None: 8,192, or the length of the text [token]
    where : option, for messages

    Returns
    -------
    Sequences of a step [count], and length of a sequence [token].

    Raises
    ------
    SpecError : not a batch, or not a whole number of sequences
    """
    if match := _SEQUENCES.fullmatch(str(text).strip()):
        sequences, length = int(match[1][:20]), int(match[2][:20])
        if seq not in (None, length):
            raise SpecError(f"{text} has sequences of {length:,}, {SEQ} is {seq:,}", where=where, hint="give one")
        if not sequences or not length:
            raise SpecError(f"{text} has no tokens", where=where, hint="write it like 2048x8192")
        return sequences, length
    length = USUAL_SEQ if seq is None else seq
    if length < 1:
        raise SpecError(f"{length} is not a sequence length", where=SEQ, hint="write 1 or more, such as 8192")
    tokens = _count(text, where, _BINARY, "16M or 2048x8192")
    if tokens % length:
        near = max(round(tokens / length), 1)
        raise SpecError(
            f"{tokens:,.0f} tokens are not a whole number of sequences of {length:,}", where=where,
            hint=f"write {near}x{length}, which is {near * length:,} tokens",
        )  # fmt: skip
    return int(tokens // length), length


def _count(text: str | float, where: str, letters: Mapping[str, int], example: str) -> float:
    match = _COUNT.fullmatch(str(text).strip())
    if match is None:
        raise SpecError(f"cannot read {str(text)!r} as a number of tokens", where=where, hint=f"write {example}")
    number = float(match[1]) * letters[match[2]]
    if not 0 < number <= MOST:
        hint = f"write a number above 0, such as {example}" if number <= MOST else f"write at most {MOST:.0e}"
        raise SpecError(f"{text} tokens", where=where, hint=hint)
    return number


def asked_training(
    model: ModelLike, on: On, *, tokens: str | float, batch: str | int | None, seq: int | None,
    deploy: TrainingLike | None, method: MethodName | None, precision: PrecisionName | None,
    devices: int | None, assume: Assume, where: str = DEPLOY,
) -> AskedTraining:  # fmt: skip
    """Read and check all arguments of `train`.

    Parameters
    ----------
    model : as `load_model` takes it
    on : as `load_machine` takes it
    tokens : tokens of the whole run, such as "1T"
    batch : tokens or sequences of an optimiser step, see `batch_of`; None: the batch of `deploy`
    seq : length of a sequence; None: that of `deploy` or of `batch`, else 8,192 [token]
    deploy : what the user fixes of the plan: text such as "tp=8,pp=16", a file, or a `Training`; None: nothing
    method, precision : None: those of `deploy`, else pretrain and bf16
    devices : number of devices of the machine to use; None: all [count]
    assume : numbers that replace numbers of the catalog
    where : option that `deploy` comes from, for messages

    Raises
    ------
    SpecError : an argument is wrong
    """
    numbers = given(assume)
    read, whole = load_model(model), machine(on, assume=numbers, devices=devices)
    count = token_count(tokens, TOKENS)
    if seq is not None and seq < 1:
        raise SpecError(f"{seq} is not a sequence length", where=SEQ, hint="write 1 or more, such as 8192")
    if seq is not None:
        _must_fit_context(read, seq)
    keys = _keys_of(deploy)
    for name, value in (("method", method), ("precision", precision), ("seq", seq)):
        if value is not None and name in keys:
            raise SpecError(f"{name} is given twice", where=where, hint=f"leave it out, or leave out --{name}")
    if batch is not None and "gbs" in keys:
        raise SpecError("the batch is given twice", where=where, hint=f"leave out gbs, or {BATCH}")
    if batch is None and "gbs" not in keys:
        raise SpecError("no batch", where=BATCH, hint=f"write tokens or sequences of a step: {BATCH} 16M or 2048x8192")
    base, fixed = _plan(deploy, {"method": method, "precision": precision, "seq": seq}, batch, whole.devices, where)
    _must_fit_context(read, base.seq_len)
    others = [item for item in numbers if item.area != "machine"]
    return AskedTraining(TrainSetting(read, whole, base), fixed, count, (*whole.given, *others))


def _plan(
    deploy: TrainingLike | None, options: Mapping[str, Any], batch: str | int | None, devices: int, where: str
) -> tuple[Training, Fixed]:
    """The settings of a run, and what is fixed of them."""
    defaults = {name: value for name, value in options.items() if value is not None}
    if deploy is not None and not _is_text(deploy):
        if batch is not None:
            defaults["gbs"], defaults["seq"] = batch_of(batch, defaults.get("seq"))
        base = load_training(deploy, devices=devices, where=where, **defaults)
        return base, Fixed.by(base)
    pairs = _pairs(str(deploy or ""), where)
    if batch is not None:
        length = int(pairs["seq"]) if pairs.get("seq", "").isdigit() else None
        defaults["gbs"], defaults["seq"] = batch_of(batch, defaults.get("seq", length))
        pairs.pop("seq", None)
    fixed_keys = set(pairs)
    fixed = Fixed({FREE[key]: (_free_value(key, pairs.pop(key), where),) for key in list(pairs) if key in FREE})
    shard = pairs.pop("shard", None)
    rest = ",".join(f"{key}={value}" for key, value in pairs.items())
    base = load_training(rest, where=where, **{"seq": USUAL_SEQ, **defaults})
    if "ep_overlap" in pairs and fixed.values.get("schedule") == (SCHEDULES.index("dualpipe"),):
        base = base.model_copy(update={"schedule": base.schedule.model_copy(update={"name": "dualpipe"})})
    if "pp" not in fixed_keys and "layout" not in pairs:  # the search also chooses the layers of the end stages
        base = base.model_copy(update={"schedule": base.schedule.model_copy(update={"layout": "balanced"})})
    if shard is not None:  # the widths that it must divide are not chosen yet
        parallel = base.parallel.model_copy(update={"shard": _width("shard", shard, where)})
        base = base.model_copy(update={"parallel": parallel})
    return base, fixed


def _is_text(deploy: TrainingLike) -> bool:
    """Whether a plan is a text of keys and values, and not a file, plain data or a `Training`."""
    return isinstance(deploy, str) and not is_path(deploy)


def _pairs(text: str, where: str) -> dict[str, str]:
    """Keys and values of a text."""
    pairs: dict[str, str] = {}
    for term in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in term.partition("="))
        if not equals or not value:
            raise SpecError(f"{term!r} is not KEY=VALUE", where=where, hint="write it like tp=8,pp=4,mbs=1")
        if key in pairs:
            raise SpecError(f"{key} is given twice", where=where, hint="leave one of the two out")
        pairs[key] = value
    return pairs


_WORDS: dict[str, tuple[str, ...]] = {"schedule": SCHEDULES, "recompute": RECOMPUTES, "precision": PRECISIONS}
_WIDEST = 1 << 20


def _free_value(key: str, value: str, where: str) -> int:
    """A value that the user fixes: a number, or the position of a word."""
    if key not in _WORDS:
        return _width(key, value, where)
    if value not in _WORDS[key]:
        hint = nearest(value, list(_WORDS[key])) or f"known: {', '.join(_WORDS[key])}"
        raise SpecError(f"unknown {key} {value!r}", where=where, hint=hint)
    return _WORDS[key].index(value)


def _width(key: str, value: str, where: str) -> int:
    least, most = (0, 3) if key == "zero" else (1, _WIDEST)
    if not value.isascii() or not value.isdigit() or not least <= int(value[:9]) <= most:
        raise SpecError(f"{key}={value}", where=where, hint=f"write a whole number from {least} to {most}")
    return int(value)


def _must_fit_context(model: Model, length: int) -> None:
    """Refuse sequences that are longer than the context of the model."""
    extended = model.extended_context
    most = max(model.max_context, extended.tokens) if extended else model.max_context
    if length > most:
        raise SpecError(
            f"sequences of {length:,} tokens, {model.name} reads {most:,}", where=SEQ, hint=f"write {most} or less"
        )


def _keys_of(deploy: TrainingLike | None) -> set[str]:
    """Keys of the short form that a plan has."""
    if deploy is None:
        return set()
    if isinstance(deploy, Training):
        return set(KEYS)
    if isinstance(deploy, str) and not is_path(deploy):
        return {pair.partition("=")[0].strip() for pair in deploy.split(",")}
    data = deploy if isinstance(deploy, Mapping) else read_yaml(deploy)
    inner = data.get("training", data) if isinstance(data, Mapping) else {}
    return {key for key, path in KEYS.items() if _has(inner, path)}


def _has(data: Any, path: Iterable[str]) -> bool:
    for name in path:
        if not isinstance(data, Mapping) or name not in data:
            return False
        data = data[name]
    return True
