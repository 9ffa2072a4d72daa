"""Kinds of events that come from outside while the engine runs: their names, and their numbers in the kernel.

The kernel handles a kind in `kernel.outside`, the reference in `Reference.happen`.
"""

from __future__ import annotations

KINDS = {"cancel": 0, "stop": 1, "start": 2, "pause": 3, "cost": 4, "lose": 5, "back": 6}
"""cancel : the client withdraws the request; a running request leaves at the end of its step
stop, start : an instance stops, and goes on (`faults`, rules 1 and 2)
pause : an instance pauses for `value` seconds after its step (rule 3)
cost : steps of an instance have the cost with the number `value` from now on (rule 4)
lose, back : the cluster notices the loss of a rank (rules 5 to 8); the rank takes requests again (rule 9)"""
OF_INSTANCES = ("stop", "start", "pause", "cost")
"""Kinds of events of an instance; the others are events of a request ("cancel"), or of a rank."""
