"""Exponentially decayed interests in categories: twelve per user, each with a short and a long memory.

Weights are those at `time` (U,), the newest event that named a category; an older one is added as it would have decayed by
then, so the order of two events does not change their sum. When all slots are taken, a new category replaces the one that is
weakest in the long memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core import interests_kernels
from streamer.core.runs import Runs

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
    runs: Runs,
    event_time_ms: NDArray[np.int64],
    labels: NDArray[np.uint32],
    weight: NDArray[np.float32],
    decay: Decay,
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Interests INTEREST (U, 12) after their users' events, and their times (U,).

    The events (n,) lie in the order of `runs`, whose runs belong to the rows of `interests`. `labels` (n, C): hashes of the
    event's categories, 0 = none; `weight` (n,) is shared among them.
    """
    result, time = interests.copy(), time_ms.copy()
    interests_kernels.add(
        result, time, runs.bounds, event_time_ms, labels, weight, decay.short_ms, decay.long_ms
    )
    return result, time


def decayed(
    interests: NDArray[np.void], time_ms: NDArray[np.int64], now_ms: NDArray[np.int64], decay: Decay
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """Labels, short and long weights, each (n, 12), as of `now_ms` (n,)."""
    short, long = decay.factors(np.maximum(now_ms - time_ms, 0))
    return interests["label"].astype(np.uint32), interests["short"] * short, interests["long"] * long
