"""The random stream of the reference engine."""

from __future__ import annotations

_MASK = (1 << 64) - 1


class RandomStream:
    """Random numbers of 64 bits (splitmix64, Steele et al., OOPSLA 2014).

    Parameters
    ----------
    seed : begin of the stream
    """

    def __init__(self, seed: int) -> None:
        self.state = seed

    def draw(self) -> int:
        """Next number, 0 .. 2^64 - 1."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def share(self) -> float:
        """Next number as a share, at least 0 and below 1 [-]."""
        return float(self.draw() >> 11) * 2.0**-53
