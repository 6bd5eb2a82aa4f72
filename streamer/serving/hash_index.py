"""From 64-bit hashes to rows, for a batch at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SLOTS_PER_ROW = 4
"""Load of a quarter at most: a lookup is one probe for nearly all."""


class HashIndex:
    """Open addressing with linear probing, every probe for all hashes at once. The hashes' low bits must be uniform.

    Several times faster than a binary search, which misses the cache at every step.
    """

    def __init__(self, hashes: npt.NDArray[np.uint64]) -> None:
        """`hashes` (N,) u64, of row 0..N-1; of equal ones the lowest row is found. 0 is never found."""
        n = len(hashes)
        self._mask = np.uint64((1 << (_SLOTS_PER_ROW * max(n, 1) - 1).bit_length()) - 1)
        self._table = np.full(int(self._mask) + 1, n, np.int32)  # row N = empty, whose hash is 0
        self._hashes = np.append(hashes, np.uint64(0))
        rows = np.flatnonzero(hashes).astype(np.int32)
        slots = (hashes[rows] & self._mask).astype(np.int64)
        while rows.size:
            free = self._table[slots] == n
            self._table[slots[free][::-1]] = rows[free][
                ::-1
            ]  # of several for one slot the lowest row is written last
            left = self._table[slots] != rows
            rows, slots = rows[left], (slots[left] + 1) & int(self._mask)

    def rows(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """(n,) → (n,) rows, -1 where a hash is absent."""
        n = len(self._hashes) - 1
        slots = (hashes & self._mask).astype(np.int64)
        rows = self._table[slots].astype(np.int64)
        missed = np.flatnonzero(self._hashes[rows] != hashes)
        while missed.size:
            missed = missed[rows[missed] != n]  # a free slot ends the search; below it becomes -1
            slots[missed] = (slots[missed] + 1) & int(self._mask)
            rows[missed] = self._table[slots[missed]]
            missed = missed[self._hashes[rows[missed]] != hashes[missed]]
        rows[rows == n] = -1
        return rows
