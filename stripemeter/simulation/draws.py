"""Draws: numbers that look random and are the same for the same seed, on every machine and in every release.

Belongs here: the draw. Does not: what is drawn for (`traffic`).

Each draw is a hash of seed, purpose and number, not the next of a sequence: a generator more or fewer moves no other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The draws of one purpose under one seed."""

    seed: int
    purpose: str

    def below(self, bound: int, number: int, what: str) -> int:
        """A whole number of 0 to `bound` - 1, evenly: the bias of 128 bits is beyond notice.

        Args:
            bound: at least 1.
            number: which of the draws.
            what: of several draws for one number.
        """
        drawn = hashlib.blake2b(f"{self.seed}|{self.purpose}|{number}|{what}".encode(), digest_size=16).digest()
        return int.from_bytes(drawn, "big") % bound
