"""Random numbers for pure code: a keyed hash of a counter, so one seed gives one sequence.

Who sees some of the numbers cannot tell the others, which the nonces of the self-echo need.
"""

from __future__ import annotations

import hashlib


class Chance:
    """An unpredictable sequence that is a function of its seed."""

    def __init__(self, seed: int) -> None:
        self._key = hashlib.sha256(str(seed).encode()).digest()
        self._count = 0

    def word(self) -> int:
        """The next 64 random bits."""
        self._count += 1
        counter = self._count.to_bytes(8, "big")
        hashed = hashlib.blake2b(counter, key=self._key, digest_size=8)
        return int.from_bytes(hashed.digest(), "big")

    def below(self, limit: int) -> int:
        """A number in [0, limit); limit must be positive and far below 2**64."""
        return self.word() % limit
