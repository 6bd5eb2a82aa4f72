"""What users did before each of a batch's events, in one pass: what they had done before the batch, and what they did in it.

Axes: U users, n events of theirs, W remembered events, newest first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def before_each(
    user: Rows, item: Hashes, time_ms: Rows, past_item: Hashes, past_ms: Rows
) -> tuple[Hashes, Rows]:
    """Items and times (n, W) before each event.

    user (n,) rows of the past, item (n,) with 0 = none, time_ms (n,): events in source order. past_item, past_ms (U, W): before
    the first of them, newest first, 0 = no item or no event.
    """
    width = past_item.shape[1]
    order = np.argsort(user, kind="stable")
    first = np.flatnonzero(np.diff(user[order], prepend=-1))
    size = np.diff(np.append(first, len(user)))
    start = np.repeat(first, size)
    number = (
        (np.arange(len(user)) - start)[:, None] - 1 - np.arange(width)
    )  # in the batch; below 0: before it
    at, who = order[np.maximum(start[:, None] + number, 0)], user[order][:, None]
    stored = np.clip(-1 - number, 0, width - 1)
    items = np.empty((len(user), width), np.uint64)
    times = np.empty((len(user), width), np.int64)
    items[order] = np.where(number >= 0, item[at], past_item[who, stored])
    times[order] = np.where(number >= 0, time_ms[at], past_ms[who, stored])
    return items, times
