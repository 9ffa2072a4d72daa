"""Kinds of events that come from outside while the engine runs: their names, and their numbers in the kernel.

The kernel handles a kind in `kernel.outside.happen`, the reference in `Reference.kinds`.
"""

from __future__ import annotations

KINDS = {"cancel": 0}
"""cancel : the client withdraws the request; a running request leaves at the end of its step"""
