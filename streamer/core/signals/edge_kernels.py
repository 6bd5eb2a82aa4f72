"""Kernels of `Edges`: counting pairs of items in neighbour lists that lie in one arena.

A list is a run of `target` (A,) and `weight` (A, C), `size` entries from `start` on in a room of a power of two. At each of
the `bounds` the entries before it are the strongest of the list, in no order. Rooms that were left are chained, by size, through
their first target.

Axes: n events, W past items, N items, A entries of the arena, C columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled

Rows = NDArray[np.int64]
Ints = NDArray[np.int32]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]

NONE = -1
NEXT, SOON, TOGETHER, SESSION = 0, 1, 2, 3
USED, EDGES, EVICTED = 0, 1, 2
"""Places of a tally: entries of the arena that were ever given out, edges in all, edges dropped from full lists."""
SMALLEST = 4


@compiled
def _place(target: Ints, first: int, size: Any, wanted: int) -> Any:
    """Where in a list an item is, NONE if nowhere. No early end: the whole list is compared sixteen at a time."""
    theirs, item = target[first : first + size], np.int32(wanted)
    place = np.int32(0)
    for at in range(size):
        place |= np.int32(at + 1) if theirs[at] == item else np.int32(0)
    return np.int64(place) - 1


@compiled
def _promote(place: int, first: int, bounds: Rows, target: Ints, weight: F32) -> None:
    """Exchange an entry that has grown with the weakest of the part before its own, while it is stronger."""
    for at in range(len(bounds) - 1, -1, -1):
        bound = bounds[at]
        if place < bound:
            continue
        before = bounds[at - 1] if at else 0
        weakest, least = before, np.float32(np.inf)
        for each in range(before, bound):
            strength = weight[first + each, TOGETHER] + weight[first + each, NEXT]
            if strength < least:
                weakest, least = each, strength
        mine, other = first + place, first + weakest
        if weight[mine, TOGETHER] + weight[mine, NEXT] <= least:
            return
        target[mine], target[other] = target[other], target[mine]
        for column in range(weight.shape[1]):
            weight[mine, column], weight[other, column] = weight[other, column], weight[mine, column]
        place = weakest


@compiled
def _shorten(first: int, size: Any, spared: int, target: Ints, weight: F32) -> None:
    """Keep the `spared` strongest of a list, in their order."""
    strength = weight[first : first + size, TOGETHER] + weight[first : first + size, NEXT]
    edge = np.partition(strength, size - spared)[size - spared]
    ties = spared
    for each in strength:
        ties -= each > edge
    kept = 0
    for at in range(size):
        if strength[at] < edge or (strength[at] == edge and ties == 0):
            continue
        ties -= strength[at] == edge
        target[first + kept] = target[first + at]
        for column in range(weight.shape[1]):
            weight[first + kept, column] = weight[first + at, column]
        kept += 1


@compiled
def _class_of(room: int) -> int:
    number = 0
    while (SMALLEST << number) < room:
        number += 1
    return number


@compiled
def _widen(
    item: int, target: Ints, weight: F32, start: Rows, size: Ints, room: Ints, left: Rows, tally: Rows
) -> None:
    """Move a list to a room of twice the size."""
    old, wide = start[item], max(2 * room[item], SMALLEST)
    number = _class_of(wide)
    new = int(left[number])
    if new == NONE:
        new = int(tally[USED])
        tally[USED] += wide
    else:
        left[number] = target[new]
    for at in range(size[item]):
        target[new + at] = target[old + at]
        for column in range(weight.shape[1]):
            weight[new + at, column] = weight[old + at, column]
    if room[item]:
        number = _class_of(room[item])
        target[old] = left[number]
        left[number] = old
    start[item], room[item] = new, wide


@compiled
def _count(
    source: int,
    item: int,
    follows: Any,
    soon: Any,
    together: Any,
    session: Any,
    bounds: Rows,
    neighbours: int,
    target: Ints,
    weight: F32,
    start: Rows,
    size: Ints,
    room: Ints,
    left: Rows,
    tally: Rows,
) -> None:
    """Add to the edge source → item."""
    at = _place(target, start[source], np.int64(size[source]), item)
    if at == NONE:
        if size[source] == neighbours:
            spared = neighbours - max(neighbours // 8, 1)  # the newest edge always gets in
            _shorten(start[source], np.int64(size[source]), spared, target, weight)
            tally[EVICTED] += neighbours - spared
            tally[EDGES] -= neighbours - spared
            size[source] = spared
        if size[source] == room[source]:
            _widen(source, target, weight, start, size, room, left, tally)
        at = np.int64(size[source])
        size[source] += 1
        tally[EDGES] += 1
        target[start[source] + at] = item
        for column in range(weight.shape[1]):
            weight[start[source] + at, column] = 0
    mine = start[source] + at
    weight[mine, NEXT] += follows
    weight[mine, SOON] += soon
    weight[mine, TOGETHER] += together
    weight[mine, SESSION] += session
    _promote(at, start[source], bounds, target, weight)


@compiled
def count_pairs(
    begin: int,
    past: Rows,
    item: Rows,
    scale: F64,
    session: Rows,
    discount: F64,
    budget: int,
    bounds: Rows,
    neighbours: int,
    target: Ints,
    weight: F32,
    start: Rows,
    size: Ints,
    room: Ints,
    left: Rows,
    tally: Rows,
) -> int:
    """Pairs of events (n,) with what came before each, past (n, W), newest first; from event `begin` on.

    Returns the event before which it stopped: n, or where the arena is too small for another or the budget is exceeded.
    """
    lags = past.shape[1]
    reserve = 2 * (lags + 1) * (2 * neighbours + SMALLEST)
    for event in range(begin, len(item)):
        if tally[USED] + reserve > len(target) or tally[EDGES] > budget:
            return event
        mine, amount = item[event], scale[event]
        for lag in range(lags):
            other = past[event, lag]
            if other == NONE:
                continue
            follows = np.float32(amount if lag == 0 else 0.0)
            soon = np.float32(amount * discount[lag])
            both = np.float32(amount if other != mine else 0.0)
            near = both if lag < session[event] else np.float32(0)
            _count(
                other, mine, follows, soon, both, near,
                bounds, neighbours, target, weight, start, size, room, left, tally,
            )  # fmt: skip
            if other != mine:
                nothing = np.float32(0)
                _count(
                    mine, other, nothing, nothing, both, near,
                    bounds, neighbours, target, weight, start, size, room, left, tally,
                )  # fmt: skip
    return len(item)


@compiled
def repacked(
    kept: Flags,
    wide: Rows,
    old_target: Ints,
    old_weight: F32,
    start: Rows,
    size: Ints,
    room: Ints,
    target: Ints,
    weight: F32,
) -> int:
    """Bring the kept entries (A,) of all lists together in new arrays, each list in a room of `wide` (N,). What they fill."""
    used = 0
    for item in range(len(size)):
        at = used
        for each in range(start[item], start[item] + size[item]):
            if kept[each]:
                target[at] = old_target[each]
                for column in range(weight.shape[1]):
                    weight[at, column] = old_weight[each, column]
                at += 1
        start[item], size[item], room[item] = used, at - used, wide[item]
        used += wide[item]
    return used


@compiled
def gathered(start: Rows, size: Ints, target: Ints, weight: F32, to_target: Ints, to_weight: F32) -> None:
    """Copy the edges of all lists of size (N,), one list after the other."""
    at = 0
    for item in range(len(size)):
        for each in range(start[item], start[item] + size[item]):
            to_target[at] = target[each]
            for column in range(weight.shape[1]):
                to_weight[at, column] = weight[each, column]
            at += 1
