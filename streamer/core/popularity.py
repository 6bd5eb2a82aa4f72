"""Exponentially decayed popularity of items, for users about whom nothing is known yet.

Forward decay (Cormode et al., 2009, "Forward Decay: A Practical Time Decay Model for Streaming Systems"): a count enters
with the weight 2^((now - landmark) / half-life), so the others need no touch until the weights grow too large.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RESCALE_EXPONENT = 64.0


class Popularity:
    """Decayed counts by item hash. `now_ms` is the caller's clock; if it falls back far, counting starts afresh.

    At most `capacity` items are kept: beyond it the least popular go, down to three quarters.
    """

    def __init__(self, half_life_ms: int, capacity: int = 100_000) -> None:
        self._half_life_ms, self._capacity = half_life_ms, capacity
        self._landmark_ms: int | None = None
        self._newest_ms = 0
        self._hashes = np.zeros(0, np.uint64)
        self._weights = np.zeros(0, np.float64)

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, hashes: NDArray[np.uint64], weights: NDArray[np.float32], now_ms: int) -> None:
        """Count items (n,) with their weights (n,), at `now_ms`; hash 0 (no item) is left out."""
        distinct, inverse = np.unique(hashes, return_inverse=True)
        scale = self._scale(now_ms)
        self._newest_ms = max(now_ms, self._newest_ms) if len(self._hashes) else now_ms
        amounts = np.bincount(inverse, weights, len(distinct)) * scale
        if len(distinct) and distinct[0] == 0:
            distinct, amounts = distinct[1:], amounts[1:]
        at = np.searchsorted(self._hashes, distinct)
        there = np.zeros(len(distinct), np.bool_)
        inside = at < len(self._hashes)
        there[inside] = self._hashes[at[inside]] == distinct[inside]
        self._weights[at[there]] += amounts[there]
        self._hashes = np.insert(self._hashes, at[~there], distinct[~there])
        self._weights = np.insert(self._weights, at[~there], amounts[~there])
        if len(self._hashes) > self._capacity:
            strongest = np.argsort(-self._weights, kind="stable")[: self._capacity * 3 // 4]
            kept = np.sort(strongest)
            self._hashes, self._weights = self._hashes[kept], self._weights[kept]

    def scores(self, hashes: NDArray[np.uint64], now_ms: int) -> NDArray[np.float32]:
        """Decayed counts (N,) of the items `hashes` (N,) at `now_ms`, or at the newest count if that is later; 0 for items
        never counted. Whoever asks with an old clock, or without one, changes nothing.
        """
        if self._landmark_ms is None or not len(self._hashes):
            return np.zeros(len(hashes), np.float32)
        exponent = (max(now_ms, self._newest_ms) - self._landmark_ms) / self._half_life_ms
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found = np.where(self._hashes[at] == hashes, self._weights[at], 0.0)
        return (found * float(np.exp2(-exponent))).astype(np.float32)

    def _scale(self, now_ms: int) -> float:
        """Weight with which a count of one enters at `now_ms`; moves the landmark when that grows too large."""
        if self._landmark_ms is None:
            self._landmark_ms = now_ms
        exponent = (now_ms - self._landmark_ms) / self._half_life_ms
        if exponent > _RESCALE_EXPONENT:
            self._weights *= float(np.exp2(-exponent))
            self._landmark_ms, exponent = now_ms, 0.0
        elif exponent < -_RESCALE_EXPONENT:
            # The clock was far ahead and came back: what was counted there would outweigh everything for ever.
            self._hashes, self._weights = self._hashes[:0], self._weights[:0]
            self._landmark_ms, exponent = now_ms, 0.0
        return float(np.exp2(exponent))
