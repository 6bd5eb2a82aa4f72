"""Kernels of what surrounds the signals: how long sessions are, and what a model says of candidates.

Axes: n users, W remembered items, C candidates, N items, R catalogue rows, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled, compiled_sum

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

NONE = -1


@compiled
def sessions(item: Rows, time_ms: Rows, now_ms: Rows, gap_ms: int, length: Rows) -> None:
    """length (n,): how many of the last items (n, W) follow each other, and the clock, without a longer pause."""
    for user in range(len(item)):
        later = now_ms[user]
        for lag in range(item.shape[1]):
            if item[user, lag] == NONE or later - time_ms[user, lag] > gap_ms:
                break
            later = time_ms[user, lag]
            length[user] += 1


@compiled
def products(query: F32, at: Rows, item: Rows, row: Rows, vectors: F32, bias: F32, out: F32) -> None:
    """out (n, C): query[at] · vector + bias of items (n, C), 0 for NONE and items that row (N,) has no catalogue row for; a bias
    that is not finite counts 0.
    """
    for user in range(len(at)):
        mine = query[at[user]]
        for place in range(item.shape[1]):
            out[user, place] = 0
            if item[user, place] == NONE or row[item[user, place]] < 0:
                continue
            theirs = row[item[user, place]]
            more = bias[theirs]
            out[user, place] = _product(mine, vectors[theirs]) + (
                more if np.isfinite(more) else np.float32(0)
            )


@compiled_sum
def _product(one: F32, other: F32) -> Any:
    """As in ranking_kernels: a kernel calls none of another file (core.compiled)."""
    total = np.float32(0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return total
