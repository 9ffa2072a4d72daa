"""KV from prefill to decode: what it is in bytes, over which link, and how much of it a first token waits for."""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.rates import Rates
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model, kv_bytes_per_token, window_bytes_per_sequence


def wire(machine: Machine, rates: Rates, devices: int) -> LinkRates | None:
    """The link that carries KV between roles on so many devices: scale-up where these lie in one domain.

    None where the machine has no network between its domains.
    """
    return rates.inner if devices <= machine.domain else rates.outer


def request_bytes(model: Model, isl: FloatArray, kv_bytes: float) -> FloatArray:
    """Cache of one request after its prefill, one copy [byte].

    Parameters
    ----------
    isl : input tokens of the request [token]; kv_bytes : size of one cached element [byte]
    """
    return isl * kv_bytes_per_token(model, kv_bytes) + window_bytes_per_sequence(model, kv_bytes)


def exposed_transfer(transfer_s: FloatArray, prefill_s: FloatArray, layers: int) -> FloatArray:
    """What a KV transfer adds to TTFT [s]: layers travel while later ones are computed; the last one is left over.

        t = max(T / L, T - (L - 1) / L S)

    Parameters
    ----------
    transfer_s : T, the transfer by itself [s]; prefill_s : S, prefill of the request [s]

    References
    ----------
    [1] Splitwise, arXiv:2311.18677, section 4.2 (per-layer transfer); Mooncake, arXiv:2407.00079, section 3.
    """
    return np.maximum(transfer_s / layers, transfer_s - (layers - 1) / layers * prefill_s)
