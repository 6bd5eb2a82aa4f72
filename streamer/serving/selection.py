"""The k best of many scores, in one pass over them.

A row belongs to the group of its remainder, so that the maxima of all groups are raised by a whole run of rows at a time.
At least k rows score what k groups reach: only the few groups that do are looked into.

Axes: B users, N rows, G groups, k results.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamer.core.compiled import compiled, fixed

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_LEAST_GROUPS, _GROUPS_PER_RESULT = 256, 4
_FEW = 256
"""Keys that are sorted by counting how many are larger than each, which the compiler does several at a time."""
_HALVINGS = 24
_LOW = 0xFFFFFFFF
_BUT_SIGN = 0x7FFFFFFF


def best(product: F32, bias: F32, excluded: I64, scores: F32, rows: I64) -> None:
    """Fill scores and rows (B, k), k <= N, with the best of product (B, N), which is overwritten, plus bias (N,).

    excluded (M, 2): (user, row), sorted by user. Best first, ties by the lowest row; -inf and -1 where fewer than k are left.
    """
    groups = max(_LEAST_GROUPS, _GROUPS_PER_RESULT * scores.shape[1])
    maxima, found = np.empty(groups, np.float32), np.empty((2, len(bias)), np.int64)
    _best(product, fixed(bias), fixed(excluded), maxima, found, scores, rows)


def warm_up() -> None:
    pair = np.zeros((1, 2), np.int64)
    best(
        np.zeros((1, 2), np.float32),
        np.zeros(2, np.float32),
        pair,
        np.zeros((1, 1), np.float32),
        pair[:, :1].copy(),
    )


@compiled
def _best(product: F32, bias: F32, excluded: I64, maxima: F32, found: I64, scores: F32, rows: I64) -> None:
    """maxima (G,), found (2, N): room to work in."""
    keys = found[0]
    pair = 0
    for user in range(len(product)):
        line = product[user]
        while pair < len(excluded) and excluded[pair, 0] == user:
            line[excluded[pair, 1]] = -np.inf
            pair += 1
        maxima[:] = -np.inf
        for start in range(0, len(line), len(maxima)):
            stop = start + len(maxima)
            _raise(maxima, line[start:stop], bias[start:stop])
        n = _collect(line, bias, maxima, _reached(maxima, scores.shape[1]), keys)
        if n <= _FEW:
            _sort_few(keys[:n], found[1])
        else:
            _sort(keys[:n])
        _unpack(keys[:n], scores[user], rows[user])


@compiled
def _raise(maxima: F32, line: F32, bias: F32) -> None:
    for group in range(len(line)):
        score = line[group] + bias[group]
        maxima[group] = score if score > maxima[group] else maxima[group]


@compiled
def _order(score: np.float32) -> np.int32:
    """A number's bits as an integer of the same order."""
    bits = np.float32(score).view(np.int32)
    return np.int32(bits ^ (bits >> 31 & _BUT_SIGN))


@compiled
def _number(order: np.int32 | np.int64) -> np.float32:
    """And back."""
    return np.int32(order ^ (order >> 31 & _BUT_SIGN)).view(np.float32)


@compiled
def _reached(maxima: F32, k: int) -> np.float32:
    """A score that at least k of `maxima` (G,) reach and few more do: found by halving, and not to the last tie."""
    finite, lowest, highest = 0, np.int32(_BUT_SIGN), np.int32(-_BUT_SIGN)
    for group in range(len(maxima)):  # as integers, which the compiler compares sixteen at a time
        order = _order(maxima[group])
        there = maxima[group] > -np.inf
        finite += there
        lowest = min(lowest, order if there else lowest)
        highest = max(highest, order)
    if finite < k:
        return np.float32(-np.inf)
    low, high = _number(lowest), _number(highest)
    for _ in range(_HALVINGS):
        middle = np.float32(low + (high - low) * np.float32(0.5))
        count = 0
        for group in range(len(maxima)):
            count += 1 if maxima[group] >= middle else 0
        if count >= k:
            low = middle
        else:
            high = middle
        if k <= count <= k + k // 8:
            break
    return low


@compiled
def _collect(line: F32, bias: F32, maxima: F32, least: np.float32, found: I64) -> int:
    """Keys of all rows that score `least` or more, and more than -inf: returns how many were `found`.

    The larger of two keys is the higher score's, of equal scores the lower row's.
    """
    n = 0
    for group in range(len(maxima)):
        if maxima[group] < least:
            continue
        for row in range(group, len(line), len(maxima)):
            score = np.float32(line[row] + bias[row] + np.float32(0))  # the two zeros are one
            if score >= least and score > -np.inf:
                found[n] = np.int64(_order(score)) << 32 | (_LOW - row)
                n += 1
    return n


@compiled
def _sort_few(keys: I64, room: I64) -> None:
    """Falling; no two are equal."""
    for at in range(len(keys)):
        key, place = keys[at], 0
        for other in range(len(keys)):
            place += 1 if keys[other] > key else 0
        room[place] = key
    keys[:] = room[: len(keys)]


@compiled
def _sort(keys: I64) -> None:
    """Falling; Shell's way."""
    gap = 1
    while 3 * gap < len(keys):
        gap = 3 * gap + 1
    while gap:
        for start in range(gap, len(keys)):
            key, at = keys[start], start
            while at >= gap and keys[at - gap] < key:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = key
        gap //= 3


@compiled
def _unpack(keys: I64, scores: F32, rows: I64) -> None:
    """keys (n,), falling → scores and rows (k,)"""
    scores[:], rows[:] = -np.inf, -1
    for place in range(min(len(keys), len(scores))):
        scores[place] = _number(keys[place] >> 32)
        rows[place] = _LOW - (keys[place] & _LOW)
