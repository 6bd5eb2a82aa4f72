"""Rolling counts of users in compressed rows: events merged in, what is too old left out, and sums by type."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled

I8: TypeAlias = NDArray[np.int64]
U4: TypeAlias = NDArray[np.uint32]

LEVELS = 3
BUCKET_BITS = 24
_BUCKET_MASK = (1 << BUCKET_BITS) - 1
_TYPE_MASK = 31


@compiled
def merge(
    splits: I8,
    keys: U4,
    counts: U4,
    bounds: I8,
    times: I8,
    types: NDArray[np.uint8],
    watermarks: I8,
    bucket_ms: I8,
    buckets: I8,
    new_splits: I8,
    new_keys: U4,
    new_counts: U4,
) -> None:
    """Of each user u: stored keys (ascending) and counts splits[u]:splits[u + 1], events bounds[u]:bounds[u + 1] of times and
    types, watermarks (U,) → new_splits (U + 1,) and, room for all of both given, new keys (ascending) and counts.
    """
    end = 0
    for user in range(len(watermarks)):
        start, new_splits[user] = end, end
        for row in range(splits[user], splits[user + 1]):
            key, level = np.int64(keys[row]), keys[row] >> 30
            if (watermarks[user] // bucket_ms[level] - key) & _BUCKET_MASK < buckets[level]:
                new_keys[end], new_counts[end] = keys[row], counts[row]
                end += 1
        for event in range(bounds[user], bounds[user + 1]):
            for level in range(LEVELS):
                bucket = times[event] // bucket_ms[level]
                if not 0 <= watermarks[user] // bucket_ms[level] - bucket < buckets[level]:
                    continue
                key = level << 30 | types[event] << BUCKET_BITS | bucket & _BUCKET_MASK
                place = end
                while place > start and new_keys[place - 1] > key:
                    place -= 1
                if place > start and new_keys[place - 1] == key:
                    new_counts[place - 1] += 1
                    continue
                for row in range(end, place, -1):
                    new_keys[row], new_counts[row] = new_keys[row - 1], new_counts[row - 1]
                new_keys[place], new_counts[place] = key, 1
                end += 1
    new_splits[len(watermarks)] = end


@compiled
def by_type(users: I8, splits: I8, keys: U4, counts: U4, out: I8) -> None:
    """Sums (n, 3, 32), zeros before, of `users` (n,) per level and type."""
    for position in range(len(users)):
        user = users[position]
        for row in range(splits[user], splits[user + 1]):
            out[position, keys[row] >> 30, keys[row] >> BUCKET_BITS & _TYPE_MASK] += counts[row]


def warm_up() -> None:
    """Compile for the types that are in use."""
    bounds, one, none = np.array([0, 1]), np.ones(1, np.int64), np.zeros(0, np.uint32)
    splits, keys, counts = np.zeros(2, np.int64), np.zeros(3, np.uint32), np.zeros(3, np.uint32)
    three = np.ones(LEVELS, np.int64)
    merge(
        np.zeros(2, np.int64), none, none, bounds, one, np.ones(1, np.uint8), one, three, three, splits, keys, counts
    )  # fmt: skip
    by_type(np.zeros(1, np.int64), splits, keys, counts, np.zeros((1, LEVELS, 32), np.int64))
