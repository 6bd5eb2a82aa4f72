"""What a refresh reads of windows: the consumed items, and those of the last events."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled
from streamer.core.state_records import ENTRY, SEGMENT, SEGMENT_EVENTS

Records: TypeAlias = NDArray[Any]
I8: TypeAlias = NDArray[np.int64]
U8: TypeAlias = NDArray[np.uint64]


@compiled
def items(
    users: I8,
    opened: Records,
    open_n: I8,
    index: I8,
    pool: Records,
    wanted: NDArray[np.bool_],
    positions: I8,
    hashes: U8,
) -> int:
    """Items of the windows of `users` (n,) whose events' type is `wanted` (32,): positions in `users` and hashes; how many.

    opened (n, 16), open_n (n,): open segments of these users; index (U, slots): rows of SEGMENT (S,), 0 = none.
    """
    found = 0
    for position in range(len(users)):
        for row in index[users[position]]:
            if row:
                for place in range(SEGMENT_EVENTS):
                    entry = pool[row].entries[place]
                    if wanted[entry.type] and entry.item:
                        positions[found], hashes[found] = position, entry.item
                        found += 1
        for place in range(open_n[position]):
            entry = opened[position, place]
            if wanted[entry.type] and entry.item:
                positions[found], hashes[found] = position, entry.item
                found += 1
    return found


@compiled
def recent(
    users: I8, opened: Records, open_n: I8, sealed: I8, index: I8, pool: Records, item: U8, time: I8
) -> None:
    """Fill items and times (n, L), zeros before, of the last events of `users` (n,), newest first.

    sealed (n,): segments ever sealed; the others as in `items`.
    """
    slots, last = index.shape[1], item.shape[1]
    for position in range(len(users)):
        at = min(open_n[position], last)
        for back in range(at):
            entry = opened[position, open_n[position] - 1 - back]
            item[position, back], time[position, back] = entry.item, entry.time
        for segment in range(sealed[position] - 1, max(sealed[position] - slots, 0) - 1, -1):
            entries = pool[index[users[position], segment % slots]].entries
            for place in range(SEGMENT_EVENTS - 1, -1, -1):
                if at == last:
                    break
                item[position, at], time[position, at] = entries[place].item, entries[place].time
                at += 1


def warm_up() -> None:
    """Compile for the types that are in use."""
    users, n, index = np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros((1, 1), np.int64)
    opened, pool = np.zeros((1, SEGMENT_EVENTS), ENTRY), np.zeros(2, SEGMENT)
    items(users, opened, n, index, pool, np.zeros(32, np.bool_), n.copy(), np.zeros(1, np.uint64))
    recent(users, opened, n, n.copy(), index, pool, np.zeros((1, 1), np.uint64), index.copy())
