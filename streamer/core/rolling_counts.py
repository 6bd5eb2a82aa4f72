"""Events per type over the last hour, day and week, exact over aligned buckets and sparse.

A count lies under key = level << 30 | type << 24 | bucket, where bucket = time // size of the level, modulo 2^24. A window
is its last n buckets up to the one of the user's watermark: twelve of 5 min, twenty-four of 1 h, twenty-eight of 6 h. What
has fallen out of its window can never come back, since the watermark only grows, and is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core import counts_kernels
from streamer.core.state_records import TAIL_ENTRY

LEVELS = ("1h", "24h", "7d")
BUCKET_MS = np.array([300_000, 3_600_000, 21_600_000], np.int64)
BUCKETS = np.array([12, 24, 28], np.int64)
TYPES = 32


class RollingCounts:
    """Counts of U users in compressed rows: those of user u lie at splits[u]:splits[u + 1], sorted by key.

    New events wait in a list until somebody asks: merging once per batch is what makes it cheap.
    """

    def __init__(self, tails: Sequence[bytes], watermarks: NDArray[np.int64]) -> None:
        """`tails`: the packed TAIL_ENTRY of each user; `watermarks` (U,) in ms: field of the heads, read when asked."""
        self._splits = np.zeros(len(tails) + 1, np.int64)
        np.cumsum(
            np.fromiter(map(len, tails), np.int64, len(tails)) // TAIL_ENTRY.itemsize, out=self._splits[1:]
        )
        stored = np.frombuffer(b"".join(tails), TAIL_ENTRY)
        self._watermarks = watermarks
        self._keys, self._n = stored["key"].copy(), stored["n"].copy()
        self._new: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]] = []
        self._current = False

    def add(self, users: NDArray[np.int64], times: NDArray[np.int64], types: NDArray[np.uint8]) -> None:
        """Count events (n,): user rows, times in ms, type codes."""
        self._new.append((users, times, types))
        self._current = False

    def _merge(self) -> None:
        """Counts what waits, and drops what fell out of its window."""
        if self._current:
            return
        nothing = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8)
        users, times, types = (np.concatenate(parts) for parts in zip(nothing, *self._new, strict=True))
        self._new.clear()
        order = np.argsort(users, kind="stable")
        bounds = np.searchsorted(users[order], np.arange(len(self._splits)))
        room = len(self._keys) + len(LEVELS) * len(users)
        splits = np.empty_like(self._splits)
        keys, n = np.empty(room, np.uint32), np.empty(room, np.uint32)
        counts_kernels.merge(
            self._splits,
            self._keys,
            self._n,
            bounds,
            times[order],
            types[order],
            self._watermarks.copy(),
            BUCKET_MS,
            BUCKETS,
            splits,
            keys,
            n,
        )
        self._splits, self._keys, self._n = splits, keys[: splits[-1]], n[: splits[-1]]
        self._current = True

    def tails(self, users: NDArray[np.int64]) -> list[bytes]:
        """Packed TAIL_ENTRY of each user (n,), without what fell out of the windows."""
        self._merge()
        packed = np.empty(len(self._keys), TAIL_ENTRY)
        packed["key"], packed["n"] = self._keys, self._n
        data, splits = packed.tobytes(), self._splits * TAIL_ENTRY.itemsize
        starts, ends = splits[users].tolist(), splits[users + 1].tolist()
        return [data[start:end] for start, end in zip(starts, ends, strict=True)]

    def activity(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Events (n, 3, 32) per level of LEVELS and type code, up to each user's watermark."""
        self._merge()
        found = np.zeros((len(users), len(LEVELS), TYPES), np.int64)
        counts_kernels.by_type(users, self._splits, self._keys, self._n, found)
        return found
