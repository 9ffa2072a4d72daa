"""What may happen to a request from outside while the engine runs: kinds by name, and their numbers in the kernel.

The kernel dispatches a kind in `kernel.outside.happen`, the oracle in `Reference.kinds`.
"""

from __future__ import annotations

KINDS = {"cancel": 0}
"""cancel : the client withdraws the request; what runs is dropped at the end of its step"""
