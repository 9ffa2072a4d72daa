"""KV transfer from prefill to decode instances: its size, its link, and the part of its time that adds to TTFT."""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.rates import Rates
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model, kv_bytes_per_token, window_bytes_per_sequence


def wire(machine: Machine, rates: Rates, devices: int) -> LinkRates | None:
    """The link that carries KV between the roles: scale-up if all devices are in one domain, else scale-out.

    Parameters
    ----------
    machine : the machine, with the size of a domain
    rates : achieved rates of the machine
    devices : devices of both roles together [count]

    Returns
    -------
    Rates of the link; None if the roles need a network and the machine has none.
    """
    return rates.inner if devices <= machine.domain else rates.outer


def request_bytes(model: Model, isl: FloatArray, kv_bytes: float) -> FloatArray:
    """Size of the cache of one request after its prefill, one copy.

    Parameters
    ----------
    model : the model
    isl : input tokens of the request [token]
    kv_bytes : size of one cached element [byte/element]

    Returns
    -------
    Size of the cache [byte].
    """
    return isl * kv_bytes_per_token(model, kv_bytes) + window_bytes_per_sequence(model, kv_bytes)


def exposed_transfer(transfer_s: FloatArray, prefill_s: FloatArray, layers: int) -> FloatArray:
    """Time that a KV transfer adds to TTFT: max(T / L, T - (L - 1) / L S).

    The KV of a layer is sent while later layers are computed. At least the last layer is sent after prefill.

    Parameters
    ----------
    transfer_s : T, time of the transfer alone [s]
    prefill_s : S, prefill time of the request [s]
    layers : L, layers of the model [count]

    Returns
    -------
    Time [s].

    References
    ----------
    [1] Splitwise, arXiv:2311.18677, section 4.2 (per-layer transfer); Mooncake, arXiv:2407.00079, section 3.
    """
    return np.maximum(transfer_s / layers, transfer_s - (layers - 1) / layers * prefill_s)
