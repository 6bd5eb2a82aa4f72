"""Exponentially decayed interests in categories: twelve per user, each with a short and a long memory.

Weights are those at `time` (U,), the newest event that named a category; an older one is added as it would have decayed by
then, so the order of two events does not change their sum. When all slots are taken, a new category replaces the one that is
weakest in the long memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Decay:
    """Half-lives of the two memories, in ms."""

    short_ms: int = DAY_MS
    long_ms: int = 30 * DAY_MS

    def factors(self, age_ms: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What is left of a weight after `age_ms` (n,) >= 0: short and long memory, each (n, 1)."""
        age = age_ms.astype(np.float64)[:, None]
        short, long = np.exp2(age / -self.short_ms), np.exp2(age / -self.long_ms)
        return short.astype(np.float32), long.astype(np.float32)


def add(
    interests: NDArray[np.void],
    time_ms: NDArray[np.int64],
    event_time_ms: NDArray[np.int64],
    labels: NDArray[np.uint32],
    weight: NDArray[np.float32],
    decay: Decay,
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Interests INTEREST (n, 12) after one event each, and their times (n,).

    `labels` (n, C): hashes of the event's categories, 0 = none, at least one per event; `weight` (n,) is shared among them.
    """
    label = np.ascontiguousarray(interests["label"])
    kept_short, kept_long = decay.factors(np.maximum(event_time_ms - time_ms, 0))
    new_short, new_long = decay.factors(np.maximum(time_ms - event_time_ms, 0))
    short = interests["short"] * kept_short
    long = interests["long"] * kept_long
    share = (weight / (labels != 0).sum(axis=1).astype(np.float32))[:, None]
    new_short, new_long = (new_short * share)[:, 0], (new_long * share)[:, 0]
    for column in labels.T:
        rows = np.flatnonzero(column)
        if not rows.size:
            continue
        wanted = column[rows]
        same = label[rows] == wanted[:, None]
        slot = same.argmax(axis=1)
        absent = np.flatnonzero(~same.any(axis=1))
        if absent.size:
            out = rows[absent]
            # Free slots first, the lowest of equals.
            slot[absent] = np.where(label[out] == 0, np.float32(-1), long[out]).argmin(axis=1)
            label[out, slot[absent]] = wanted[absent]
            short[out, slot[absent]] = long[out, slot[absent]] = 0
        short[rows, slot] += new_short[rows]
        long[rows, slot] += new_long[rows]
    result = np.empty_like(interests)
    result["label"], result["short"], result["long"] = label, short, long
    return result, np.maximum(time_ms, event_time_ms)


def decayed(
    interests: NDArray[np.void], time_ms: NDArray[np.int64], now_ms: NDArray[np.int64], decay: Decay
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """Labels, short and long weights, each (n, 12), as of `now_ms` (n,)."""
    short, long = decay.factors(np.maximum(now_ms - time_ms, 0))
    return interests["label"].astype(np.uint32), interests["short"] * short, interests["long"] * long
