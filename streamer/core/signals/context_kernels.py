"""Kernels of what surrounds the signals: how long sessions are, and what a model says of candidates.

Axes: n users, W remembered items, C candidates, N items, R catalogue rows, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled

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
    that is not finite counts 0. Sums are of eight parts.
    """
    dim = query.shape[1]
    whole = dim - dim % 8
    for user in range(len(at)):
        mine = query[at[user]]
        for place in range(item.shape[1]):
            out[user, place] = 0
            if item[user, place] == NONE or row[item[user, place]] < 0:
                continue
            theirs = vectors[row[item[user, place]]]
            s_0, s_1, s_2, s_3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            s_4, s_5, s_6, s_7 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for d in range(0, whole, 8):
                s_0 += mine[d] * theirs[d]
                s_1 += mine[d + 1] * theirs[d + 1]
                s_2 += mine[d + 2] * theirs[d + 2]
                s_3 += mine[d + 3] * theirs[d + 3]
                s_4 += mine[d + 4] * theirs[d + 4]
                s_5 += mine[d + 5] * theirs[d + 5]
                s_6 += mine[d + 6] * theirs[d + 6]
                s_7 += mine[d + 7] * theirs[d + 7]
            total = ((s_0 + s_1) + (s_2 + s_3)) + ((s_4 + s_5) + (s_6 + s_7))
            for d in range(whole, dim):
                total += mine[d] * theirs[d]
            more = bias[row[item[user, place]]]
            out[user, place] = total + (more if np.isfinite(more) else np.float32(0))
