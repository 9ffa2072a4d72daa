"""Reads price lists: the prices of the catalog, a user's YAML file, and the public price list of litellm."""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs import files, load
from tokenworks.specs.price import ApiPrice, Price, Prices
from tokenworks.specs.provenance import Spec

ListT = TypeVar("ListT", bound=Spec)
FOLDER = load.CATALOG / "prices"
MOST_BYTES = 64_000_000
LITELLM = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "output": "output_cost_per_token",
}
"""Kind of token -> key of litellm's list, in USD per token."""

EXPECTED = (
    "a YAML file with the keys of the catalog (cards, servers, systems, rental, api, network, room, finance, "
    "electricity, pue), or litellm's model_prices_and_context_window.json"
)


def price_list_names() -> list[str]:
    """Names of the price lists that the catalog ships."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_price_list(name_or_path: str | Path) -> Prices:
    """One price list: a file of catalog/prices by its name, or the YAML file of a user."""
    if load.is_path(name_or_path):
        return _checked(load.load(Prices, Path(name_or_path)), str(name_or_path))
    if name_or_path not in (names := price_list_names()):
        raise UnknownName("price list", str(name_or_path), names, hint="a file of your own ends in .yaml")
    return load.load(Prices, FOLDER / f"{name_or_path}.yaml")


@functools.cache
def catalog_prices() -> Prices:
    """All prices of the catalog as one list."""
    lists = [load_price_list(name) for name in price_list_names()]
    return functools.reduce(_over, lists, Prices()).model_copy(update={"name": "catalog", "title": "", "note": ""})


def load_prices(prices: str | Path | Mapping[str, Any] | Prices | None = None) -> Prices:
    """The prices of the catalog, with the prices of a user in place of catalog prices of the same name.

    A user's price of a card also replaces the catalog's prices of whole systems with this card.

    Parameters
    ----------
    prices : a YAML file with the keys of the catalog; litellm's public price list, whose token prices are read; the
        content of a YAML file; a finished list, which is returned as it is; or None: the catalog alone

    Raises
    ------
    SpecError : no such file, another format, an unknown name, or prices that contradict each other
    """
    match prices:
        case None:
            return catalog_prices()
        case Prices():
            return prices
        case Mapping():
            own = _checked(load.validate(Prices, dict(prices), "prices"), "prices")
        case _:
            own = _read(Path(prices))
    base, sold = catalog_prices(), {_short(name) for name in own.api}
    kept = {name: one for name, one in base.api.items() if _short(name) not in sold}
    carded = {name for name, price in own.cards.items() if price.range}
    whole = {name: one for name, one in base.systems.items() if load.load_system(name).device not in carded}
    merged: Prices = _over(base.model_copy(update={"api": kept, "systems": whole}), own)
    return merged


def _short(model: str) -> str:
    """The last part of the name of a model, in lower case: deepinfra/deepseek-ai/DeepSeek-R1 is deepseek-r1."""
    return model.rsplit("/", 1)[-1].lower()


def api_price(prices: Prices, model: str) -> tuple[ApiPrice, str]:
    """The API prices of a model, and the name of the entry that they are from.

    The entry with the full name counts first. Otherwise all entries count whose last part is the last part of the name:
    several sellers of one model become one range, with the median of the sellers in the middle.

    Parameters
    ----------
    prices : the price list
    model : id of a model, such as "deepseek-ai/DeepSeek-R1", or an entry, such as "deepinfra/deepseek-ai/DeepSeek-R1"

    Raises
    ------
    UnknownName : the list has no entry of this name
    """
    if model in prices.api:
        return prices.api[model], model
    short = _short(model)
    sellers = {name: one for name, one in prices.api.items() if _short(name) == short}
    if not sellers:
        raise UnknownName("API price", model, sorted(prices.api), hint="give it under `api` of a --prices file")
    if len(sellers) == 1:
        ((name, only),) = sellers.items()
        return only, name
    return _of_sellers(sellers), f"{len(sellers)} sellers of {short}"


def _of_sellers(sellers: Mapping[str, ApiPrice]) -> ApiPrice:
    """One range over several sellers."""

    def over(kind: str) -> Price | None:
        asked = {name: getattr(one, kind) for name, one in sellers.items()}
        known = {name: price.range for name, price in asked.items() if price and price.range}
        if not known:
            return None
        middles = [one.mid for one in known.values()]
        statuses = {getattr(sellers[name], kind).status for name in known}
        return Price(
            low=min(one.low for one in known.values()),
            mid=statistics.median(middles),
            high=max(one.high for one in known.values()),
            unit="USD/M tokens",
            status=statuses.pop() if len(statuses) == 1 else "derived",
            source=f"{len(known)} sellers: {', '.join(sorted(known))}",
            note="middle: the median seller",
        )

    inputs, outputs = over("input"), over("output")
    assert inputs is not None
    assert outputs is not None
    return ApiPrice(input=inputs, cached_input=over("cached_input"), output=outputs)


def _read(path: Path) -> Prices:
    """The price list of a user: YAML, or the JSON of litellm."""
    raw = files.content(path, most=MOST_BYTES, hint=f"a price list is {EXPECTED}")
    if not raw.lstrip().startswith((b"{", b"[")):
        data = load.read_yaml(path)
        if not isinstance(data, Mapping) or not set(data) & set(Prices.model_fields):
            raise SpecError("is no price list", where=str(path), hint=f"give {EXPECTED}")
        return _checked(load.validate(Prices, data, str(path)), str(path))
    try:
        data = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"is not JSON: {error}", where=str(path), hint=f"give {EXPECTED}") from None
    return _litellm(data, str(path))


def _litellm(data: Any, where: str) -> Prices:
    """The token prices of litellm's list. Models without a price for input and output are left out.

    References
    ----------
    [1] BerriAI/litellm, model_prices_and_context_window.json: USD per token, keys of `LITELLM`.
    """
    entries = data.items() if isinstance(data, dict) else ()
    known = {str(name): entry for name, entry in entries if isinstance(entry, dict) and LITELLM["output"] in entry}
    if not known:
        keys = f"{LITELLM['input']} and {LITELLM['output']}"
        raise SpecError(f"is no price list: no entry has {keys}", where=where, hint=f"give {EXPECTED}")
    api = {}
    for name, entry in known.items():
        costs = {kind: _per_token(entry.get(key), f"{where}: {name}.{key}") for kind, key in LITELLM.items()}
        if costs["input"] and costs["output"]:
            api[name] = ApiPrice(**{kind: _published(cost, where) for kind, cost in costs.items() if cost})
    return Prices(name=where, api=api)


def _published(cost: float, where: str) -> Price:
    """The price of one million tokens, from the price of one token in USD."""
    return Price(mid=round(cost * 1e6, 9), unit="USD/M tokens", status="published", source=f"litellm list {where}")


def _per_token(cost: Any, where: str) -> float | None:
    if cost is None:
        return None
    if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not math.isfinite(cost) or cost < 0:
        raise SpecError(f"{cost!r} is not a price", where=where, hint="write USD per token, 0 or more")
    return float(cost)


def _checked(own: Prices, where: str) -> Prices:
    """Refuse unknown names, and a machine that is both bought and rented."""
    devices, systems = load.catalog_names("device"), load.catalog_names("system")
    for section in ("cards", "rental"):
        for name in getattr(own, section):
            if name not in devices:
                raise UnknownName("device", name, devices, hint=f"{where}: {section}.{name}")
    for section in ("servers", "systems"):
        for name in getattr(own, section):
            if name not in systems and not load.is_path(name):
                raise UnknownName("system", name, systems, hint=f"{where}: {section}.{name}")
    bought = {name: f"cards.{name}" for name, price in own.cards.items() if price.range}
    for name, price in own.systems.items():
        if price.range and name in systems:
            device = load.load_system(name).device
            bought |= {str(device): f"systems.{name}"} if isinstance(device, str) else {}
    for name, price in own.rental.items():
        if price.range and name in bought:
            raise SpecError(
                f"prices a purchase ({bought[name]}) and a rent (rental.{name}) of the same machine",
                where=where,
                hint="leave one of the two out; the catalog has the other one",
            )
    return own


def _over(base: ListT, own: ListT) -> ListT:
    """The base list with every price that the own list has."""
    changes: dict[str, Any] = {}
    for name in own.model_fields_set:
        mine, theirs = getattr(own, name), getattr(base, name)
        if isinstance(mine, Mapping):
            changes[name] = {**theirs, **mine}
        elif isinstance(mine, Spec) and not isinstance(mine, Price):
            changes[name] = _over(theirs, mine)
        else:
            changes[name] = mine
    return base.model_copy(update=changes)
