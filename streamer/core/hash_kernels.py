"""From 64-bit hashes to rows, one probe for nearly all: open addressing with linear probing.

Axes: n hashes, N rows, S slots, a power of two of at least 2 N, -1 where free. The hashes' low bits must be uniform.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.core.compiled import compiled, fixed

FREE = -1


@compiled
def place(slots: Any, hashes: Any, first: int) -> None:
    """Rows `first` to N of hashes (N,) into slots (S,), but for those of 0 and of hashes that a lower row has."""
    mask = np.uint64(len(slots) - 1)
    for row in range(first, len(hashes)):
        if hashes[row] == 0:
            continue
        slot = hashes[row] & mask
        while slots[slot] != FREE and hashes[slots[slot]] != hashes[row]:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] == FREE:
            slots[slot] = row


@compiled
def find(slots: Any, hashes: Any, wanted: Any, row: Any) -> None:
    """Rows (n,) of the wanted hashes (n,), -1 for unknown ones and for 0."""
    mask = np.uint64(len(slots) - 1)
    for at in range(len(wanted)):
        each = wanted[at]
        row[at] = FREE
        if each == 0:
            continue
        slot = each & mask
        while slots[slot] != FREE:
            if hashes[slots[slot]] == each:
                row[at] = slots[slot]
                break
            slot = (slot + np.uint64(1)) & mask


def warm_up() -> None:
    """Compile for the types that are in use."""
    slots, hashes = np.full(2, FREE, np.int32), fixed(np.ones(1, np.uint64))
    place(slots, hashes, 0)
    find(slots, hashes, hashes, np.zeros(1, np.int64))
