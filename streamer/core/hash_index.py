"""From 64-bit hashes to rows, for a batch at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import fixed
from streamer.core.hash_kernels import FREE, find, place

Hashes = NDArray[np.uint64]
SLOTS_PER_ROW = 2
"""At least: a look-up is one probe for nearly all."""


class HashIndex:
    """Several times faster than a binary search, which misses the cache at every step. The hashes' low bits must be uniform."""

    def __init__(self, hashes: Hashes) -> None:
        """`hashes` (N,), of row 0..N-1; of equal ones the lowest row is found. 0 is never found."""
        self.hashes = fixed(hashes)
        self._slots = self._placed()

    def rows(self, hashes: Hashes) -> NDArray[np.int64]:
        """Rows of hashes of any shape, -1 where one is absent."""
        found = np.empty(hashes.shape, np.int64)
        find(self._slots, self.hashes, fixed(hashes).reshape(-1), found.reshape(-1))
        return found

    def append(self, hashes: Hashes) -> None:
        """Further rows."""
        first, self.hashes = len(self.hashes), fixed(np.concatenate([self.hashes, hashes]))
        if SLOTS_PER_ROW * len(self.hashes) <= len(self._slots):
            place(self._slots, self.hashes, first)
        else:
            self._slots = self._placed()

    def _placed(self) -> NDArray[np.int32]:
        """Slots with room for as many rows again."""
        slots = np.full(1 << (2 * SLOTS_PER_ROW * len(self.hashes)).bit_length(), FREE, np.int32)
        place(slots, self.hashes, 0)
        return slots
