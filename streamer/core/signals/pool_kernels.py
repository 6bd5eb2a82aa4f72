"""Kernels of `Pooling`: the candidates of one user after the other, in memory that is as wide as the catalogue and stays hot.

Axes: B users, W remembered items, N items, A entries of the arena of edges, C candidates, G shared ones, X further ones, H
half-lives, k places of a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled

Rows = NDArray[np.int64]
Ints = NDArray[np.int32]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]

NONE = -1
NEXT, SOON, TOGETHER, SESSION = 0, 1, 2, 3
SOON_ITEMS, SOON_DISCOUNT = 5, 0.6
TOGETHER_DISCOUNT = 0.9
SHRINK = np.float32(1.0)
"""Events added to an item's count where it is a denominator: what rests on one event is worth less than on many."""
SHRINK_PAIR = np.float32(10.0)
"""Added to the denominator of a cosine."""
NEVER_TAKEN = 10_000
TINY = np.float32(1e-20)


@compiled
def _voices(
    past: Rows,
    recent: int,
    session: int,
    most: Rows,
    one: Any,
    root: F32,
    stamp: int,
    heard: Ints,
    start: Rows,
    size: Ints,
    voice: Rows,
    factor: F32,
) -> int:
    """Whose lists speak for a user, each item once: voice (V, 3) its item, first entry, number of entries; and factor (V, 5) by
    which its columns count, its root and what is added to a cosine's denominator. V.
    """
    voices = 0
    for lag in range(min(recent, len(past))):
        item = past[lag]
        if item == NONE or heard[item] == stamp:
            continue
        heard[item] = stamp
        if item >= len(size):
            continue
        entries = min(np.int64(size[item]), most[min(lag, len(most) - 1)])
        if entries == 0:
            continue
        share = np.float32(1) / (root[item] * root[item] + SHRINK * one)
        voice[voices, 0], voice[voices, 1], voice[voices, 2] = item, start[item], entries
        factor[voices, NEXT] = share if lag == 0 else np.float32(0)
        factor[voices, SOON] = SOON_DISCOUNT**lag * share if lag < SOON_ITEMS else np.float32(0)
        factor[voices, TOGETHER] = TOGETHER_DISCOUNT**lag
        factor[voices, SESSION] = np.float32(1) if lag < session else np.float32(0)
        factor[voices, 4] = SHRINK_PAIR * one
        voices += 1
    return voices


@compiled
def _hear(
    voices: int,
    voice: Rows,
    factor: F32,
    target: Ints,
    weight: F32,
    root: F32,
    stamp: int,
    seen: Ints,
    score: F32,
    touched: Rows,
) -> int:
    """Add what the lists say to score (N, 4), which is 0. How many items were touched."""
    count = 0
    for v in range(voices):
        first, entries = voice[v, 1], voice[v, 2]
        mine, shrink = root[voice[v, 0]], factor[v, 4]
        follows, soon, together, near = factor[v, 0], factor[v, 1], factor[v, 2], factor[v, 3]
        theirs, said = target[first : first + entries], weight[first : first + entries]
        for entry in range(entries):
            item = np.uint64(theirs[entry])  # unsigned: no look for places counted from the end
            cosine = np.float32(1) / (mine * root[item] + shrink)
            score[item, NEXT] += said[entry, NEXT] * follows
            score[item, SOON] += said[entry, SOON] * soon
            score[item, TOGETHER] += said[entry, TOGETHER] * together * cosine
            score[item, SESSION] += said[entry, SESSION] * near * cosine
            touched[count] = item  # written over unless it is new
            count += seen[item] != stamp
            seen[item] = stamp
    return count


@compiled
def _touch(items: Rows, stamp: int, seen: Ints, touched: Rows, count: int) -> int:
    """Touch further items (n,), NONE among them. How many are touched now."""
    for each in range(len(items)):
        item = items[each]
        if item != NONE and seen[item] != stamp:
            seen[item] = stamp
            touched[count] = item
            count += 1
    return count


@compiled
def _highest(touched: Rows, score: F32, highest: F32) -> None:
    """highest (4,) of the scores of touched items (n,)."""
    top_0, top_1, top_2, top_3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for each in range(len(touched)):
        item = np.uint64(touched[each])
        top_0, top_1 = max(top_0, score[item, 0]), max(top_1, score[item, 1])
        top_2, top_3 = max(top_2, score[item, 2]), max(top_3, score[item, 3])
    highest[0], highest[1], highest[2], highest[3] = top_0, top_1, top_2, top_3


@compiled
def _edge(bits: Ints, most: int) -> tuple[Any, int]:
    """A number that at least `most` of bits (n,), all >= 0 and n > most, reach, and how many of those that equal it are among
    the `most` highest: by halving, since the compiler counts several at a time.
    """
    low, high = np.int32(0), np.int32(0)
    for each in range(len(bits)):
        high = max(high, bits[each])
    high += np.int32(1)  # of a finite number's bits
    above = 0
    while high - low > 1:
        middle = np.int32(low + (high - low) // 2)
        reach = 0
        for each in range(len(bits)):
            reach += 1 if bits[each] >= middle else 0
        if reach == most:
            return middle, reach
        if reach > most:
            low = middle
        else:
            high, above = middle, reach
    return low, most - above


@compiled
def pooled(
    past: Rows,
    session: Rows,
    one: F64,
    excluded: Rows,
    bounds: Rows,
    wanted: Rows,
    barred: Flags,
    shared: Rows,
    recent: int,
    remembered: int,
    most: Rows,
    start: Rows,
    size: Ints,
    target: Ints,
    weight: F32,
    root: F32,
    count: F64,
    top: F64,
    stamp: int,
    seen: Ints,
    heard: Ints,
    banned: Ints,
    bonus: F32,
    lag_of: Ints,
    times_of: Ints,
    score: F32,
    touched: Rows,
    kept: Rows,
    liking: F32,
    voice: Rows,
    factor: F32,
    item: Rows,
    neighbour: F32,
    highest: F32,
    lag: Ints,
    taken: Ints,
    filled: Rows,
) -> int:
    """Candidates of users: item (B, C), neighbour scores (B, 4, C), the highest of each kind among all pooled (B, 4), lag and
    taken (B, C), and how many there are, filled (B,).

    past (B, W), session (B,), one (B,) what a count of one weighs now; excluded (M,) items, bounds (B + 1,) whose; wanted (B, X)
    further candidates; barred (N,); shared (G,) candidates of everyone; count (N, H), top (H,) say what is popular.
    """
    users, places = item.shape
    rate = 1.0 / np.maximum(top, 1e-300) / len(top)
    bits = liking.view(np.int32)
    for user in range(users):
        stamp += 1
        for each in range(bounds[user], bounds[user + 1]):
            banned[excluded[each]] = stamp
        mine = past[user]
        voices = _voices(
            mine, recent, session[user], most, np.float32(one[user]), root, stamp, heard, start, size, voice, factor
        )  # fmt: skip
        n = _hear(voices, voice, factor, target, weight, root, stamp, seen, score, touched)
        n = _touch(mine[:remembered], stamp, seen, touched, n)
        n = _touch(shared, stamp, seen, touched, n)
        n = _touch(wanted[user], stamp, seen, touched, n)

        _highest(touched[:n], score, highest[user])
        for when in range(min(remembered, len(mine))):
            if mine[when] == NONE:
                continue
            if times_of[mine[when]] == 0:
                lag_of[mine[when]] = when
                bonus[mine[when]] += np.float32(0.5) + np.float32(1) / np.float32(1 + when)
            times_of[mine[when]] += 1
        for each in range(wanted.shape[1]):
            if wanted[user, each] != NONE:
                bonus[wanted[user, each]] += 1

        left = 0
        part_0, part_1 = (
            np.float32(1) / max(highest[user, 0], TINY),
            np.float32(1) / max(highest[user, 1], TINY),
        )
        part_2, part_3 = (
            np.float32(1) / max(highest[user, 2], TINY),
            np.float32(1) / max(highest[user, 3], TINY),
        )
        for each in range(n):
            other = np.uint64(touched[each])
            if banned[other] == stamp or barred[other]:
                continue
            popular = 0.0
            for h in range(len(rate)):
                popular += count[other, h] * rate[h]
            kept[left] = other
            liking[left] = (
                np.float32(popular) + bonus[other] + score[other, 0] * part_0 + score[other, 1] * part_1
                + score[other, 2] * part_2 + score[other, 3] * part_3
            )  # fmt: skip
            left += 1
        edge, ties = np.int32(-1), left
        if left > places:
            edge, ties = _edge(bits[:left], places)
        if left > places:
            equal = 0
            for each in range(left):
                equal += bits[each] == edge
            if equal > ties:  # the lowest rows of those that are liked alike
                alike = np.empty(equal, np.int64)
                equal = 0
                for each in range(left):
                    if bits[each] == edge:
                        alike[equal] = kept[each]
                        equal += 1
                last = np.sort(alike)[ties - 1]
            else:
                last = np.int64(len(seen))
        else:
            last = np.int64(len(seen))
        at = 0
        for each in range(left):
            other = kept[each]
            if bits[each] < edge or (bits[each] == edge and other > last):
                continue
            item[user, at] = other
            for kind in range(4):
                neighbour[user, kind, at] = score[other, kind]
            lag[user, at] = lag_of[other] if times_of[other] else NEVER_TAKEN
            taken[user, at] = times_of[other]
            at += 1
        filled[user] = at
        for each in range(at, places):
            item[user, each] = NONE

        for each in range(n):
            other = np.uint64(touched[each])
            for kind in range(4):
                score[other, kind] = 0
        for when in range(min(remembered, len(mine))):
            if mine[when] != NONE:
                times_of[mine[when]], bonus[mine[when]] = 0, 0
        for each in range(wanted.shape[1]):
            if wanted[user, each] != NONE:
                bonus[wanted[user, each]] = 0
    return stamp


@compiled
def supporters(
    past: Rows,
    session: Rows,
    one: F64,
    recent: int,
    most: Rows,
    start: Rows,
    size: Ints,
    target: Ints,
    weight: F32,
    root: F32,
    stamp: int,
    heard: Ints,
    place_of: Ints,
    voice: Rows,
    factor: F32,
    best: Rows,
    because: Rows,
) -> int:
    """because (B, k): whose list says most for each item of best (B, k), NONE where none does."""
    strongest = np.empty(best.shape[1], np.float32)
    for user in range(len(best)):
        stamp += 1
        voices = _voices(
            past[user], recent, session[user], most, np.float32(one[user]), root, stamp, heard, start, size, voice,
            factor,
        )  # fmt: skip
        for place in range(best.shape[1]):
            strongest[place] = 0
            if best[user, place] != NONE:
                place_of[best[user, place]] = place
        for v in range(voices):
            mine = root[voice[v, 0]]
            first = voice[v, 1]
            for entry in range(first, first + voice[v, 2]):
                position = place_of[np.uint64(target[entry])]
                if position == NONE:
                    continue
                cosine = np.float32(1) / (mine * root[target[entry]] + factor[v, 4])
                said = weight[entry, NEXT] * factor[v, NEXT] + weight[entry, SOON] * factor[v, SOON]
                said += (weight[entry, TOGETHER] * factor[v, TOGETHER]) * cosine
                said += (weight[entry, SESSION] * factor[v, SESSION]) * cosine
                if said > strongest[position]:
                    strongest[position] = said
                    because[user, position] = voice[v, 0]
        for place in range(best.shape[1]):
            if best[user, place] != NONE:
                place_of[best[user, place]] = NONE
    return stamp
