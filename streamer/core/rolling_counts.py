"""Events per type over the last hour, day and week, exact over aligned buckets and sparse.

A count lies under key = level << 30 | type << 24 | bucket, where bucket = time // size of the level, modulo 2^24. A window
is its last n buckets up to the one of the user's watermark: twelve of 5 min, twenty-four of 1 h, twenty-eight of 6 h. What
has fallen out of its window can never come back, since the watermark only grows, and is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core.state_records import TAIL_ENTRY

LEVELS = ("1h", "24h", "7d")
BUCKET_MS = np.array([300_000, 3_600_000, 21_600_000], np.int64)
BUCKETS = np.array([12, 24, 28], np.int64)
TYPES = 32
_BUCKET_MASK = (1 << 24) - 1


class RollingCounts:
    """Counts of U users in compressed rows: those of user u lie at splits[u]:splits[u + 1], sorted by key.

    New events wait in a list until somebody asks: merging once per batch is what makes it cheap.
    """

    def __init__(self, tails: Sequence[bytes], watermarks: NDArray[np.int64]) -> None:
        """`tails`: the packed TAIL_ENTRY of each user; `watermarks` (U,) in ms: field of the heads, read when asked."""
        lengths = np.fromiter(map(len, tails), np.int64, len(tails)) // TAIL_ENTRY.itemsize
        stored = np.frombuffer(b"".join(tails), TAIL_ENTRY)
        self._watermarks = watermarks
        self._keys = np.repeat(np.arange(len(tails), dtype=np.uint64) << 32, lengths) | stored["key"]
        self._n = stored["n"].astype(np.uint32)
        self._new: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]] = []
        self._merged_splits: NDArray[np.int64] | None = None

    def add(self, users: NDArray[np.int64], times: NDArray[np.int64], types: NDArray[np.uint8]) -> None:
        """Count events (n,): user rows, times in ms, type codes."""
        self._new.append((users, times, types))
        self._merged_splits = None

    def _splits(self) -> NDArray[np.int64]:
        if self._merged_splits is not None:
            return self._merged_splits
        if self._new:
            self._merge()
        user = (self._keys >> np.uint64(32)).astype(np.int64)
        level = (self._keys >> np.uint64(30)).astype(np.int64) & 3
        newest = (self._watermarks[:, None] // BUCKET_MS).ravel()
        age = (newest[user * 3 + level] - self._keys.astype(np.int64)) & _BUCKET_MASK
        alive = age < BUCKETS[level]
        if not alive.all():
            self._keys, self._n, user = self._keys[alive], self._n[alive], user[alive]
        self._merged_splits = np.searchsorted(user, np.arange(len(self._watermarks) + 1))
        return self._merged_splits

    def _merge(self) -> None:
        users = np.concatenate([new[0] for new in self._new])
        times = np.concatenate([new[1] for new in self._new])
        types = np.concatenate([new[2] for new in self._new])
        self._new.clear()
        level_type = np.arange(3) << 30 | types[:, None].astype(np.int64) << 24
        keys = users[:, None] << 32 | level_type | (times[:, None] // BUCKET_MS & _BUCKET_MASK)
        ordered = np.sort(keys.ravel().astype(np.uint64))
        first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        distinct = ordered[first]
        n = np.diff(np.append(first, len(ordered))).astype(np.uint32)
        at = np.searchsorted(self._keys, distinct)
        there = np.zeros(len(distinct), np.bool_)
        inside = at < len(self._keys)
        there[inside] = self._keys[at[inside]] == distinct[inside]
        self._n[at[there]] += n[there]
        self._keys = np.insert(self._keys, at[~there], distinct[~there])
        self._n = np.insert(self._n, at[~there], n[~there])

    def tails(self, users: NDArray[np.int64]) -> list[bytes]:
        """Packed TAIL_ENTRY of each user (n,), without what fell out of the windows."""
        splits = self._splits()
        packed = np.empty(len(self._keys), TAIL_ENTRY)
        packed["key"], packed["n"] = self._keys, self._n
        data, size = packed.tobytes(), TAIL_ENTRY.itemsize
        starts, ends = (splits[users] * size).tolist(), (splits[users + 1] * size).tolist()
        return [data[start:end] for start, end in zip(starts, ends, strict=True)]

    def activity(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Events (n, 3, 32) per level of LEVELS and type code, up to each user's watermark."""
        splits = self._splits()
        lengths = splits[users + 1] - splits[users]
        position = np.repeat(np.arange(len(users)), lengths)
        at = np.arange(len(position)) + np.repeat(splits[users] - (np.cumsum(lengths) - lengths), lengths)
        keys = self._keys[at].astype(np.int64)
        cell = (position * 3 + (keys >> 30 & 3)) * TYPES + (keys >> 24 & TYPES - 1)
        # Sums of counts below 2^32 are exact in bincount's float64.
        flat = np.bincount(cell, self._n[at], len(users) * 3 * TYPES)
        return flat.astype(np.int64).reshape(len(users), 3, TYPES)
