"""Kernels of `ItemCounts`: counting with forward decay, and keeping track of the items that lead.

Axes: n events, N items, H half-lives, L leaders.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled

Rows = NDArray[np.int64]
F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]

NEVER = np.iinfo(np.int64).min
NOBODY = -1
_RESCALE_AT = 60.0
_FAR = 1000.0


@compiled
def count_events(
    item: Rows,
    weight: F64,
    time_ms: Rows,
    half_life: F64,
    landmark: Rows,
    count: F64,
    total: F64,
    top: F64,
    times: Rows,
) -> bool:
    """Add events (n,) to count (N, H), total, top (H,) and times (2, N): of the first and the last event.

    landmark (H,) moves when weights grow too large. True where a known item turned out to be older than was known.
    """
    older = False
    for event in range(len(item)):
        mine, when = item[event], time_ms[event]
        for h in range(len(half_life)):
            amount = weight[event]
            if half_life[h] != np.inf:
                exponent = (when - landmark[h]) / half_life[h]
                if exponent > _RESCALE_AT:
                    landmark[h] += np.int64(np.floor(exponent) * half_life[h])
                    shrink = 2.0 ** -min(np.floor(exponent), 2 * _FAR)
                    for each in range(len(count)):
                        count[each, h] *= shrink
                    total[h] *= shrink
                    top[h] *= shrink
                    exponent = (when - landmark[h]) / half_life[h]
                amount *= 2.0 ** max(exponent, -_FAR)
            count[mine, h] += amount
            total[h] += amount
            top[h] = max(top[h], count[mine, h])
        older |= times[0, mine] != NEVER and when < times[0, mine]
        times[0, mine] = when if times[0, mine] == NEVER else min(times[0, mine], when)
        times[1, mine] = max(times[1, mine], when)
    return older


@compiled
def lead(item: Rows, count: F64, leads: Flags, leaders: Rows, newest: Rows, times: Rows) -> None:
    """Let items (n,) that were just counted into leaders (H, L) and newest (L / 2,) where they belong there.

    leads (N, H + 1): whether an item is among them. Counts only grow against each other, so nobody else can rise.
    """
    halves, most = leaders.shape
    for event in range(len(item)):
        mine = item[event]
        for h in range(halves):
            if most == 0 or leads[mine, h] or count[mine, h] <= 0.0:
                continue
            last = 0
            for place in range(most):
                if leaders[h, place] == NOBODY:
                    last = place
                    break
                if count[leaders[h, place], h] < count[leaders[h, last], h]:
                    last = place
            other = leaders[h, last]
            if other == NOBODY or count[other, h] < count[mine, h]:
                if other != NOBODY:
                    leads[other, h] = False
                leads[mine, h] = True
                leaders[h, last] = mine
        if len(newest) == 0 or leads[mine, halves]:
            continue
        last = 0
        for place in range(len(newest)):
            if newest[place] == NOBODY:
                last = place
                break
            if times[0, newest[place]] < times[0, newest[last]]:
                last = place
        other = newest[last]
        if other == NOBODY or times[0, other] < times[0, mine]:
            if other != NOBODY:
                leads[other, halves] = False
            leads[mine, halves] = True
            newest[last] = mine
