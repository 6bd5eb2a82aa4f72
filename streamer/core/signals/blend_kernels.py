"""Kernels of the blend: scores, the best of them, what carried each, and where taken items stand; one user after the other.

Axes: B users, C candidates, F features, D context features, J hidden units, S single signals, k places of a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled, compiled_sum

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

NONE = -1
TIE = np.float32(1e-4)
_ZERO = np.float32(0)


@compiled
def _score(units: F32, m: int, context: F32, of_context: F32, bias: F32, outer: F32, score: F32) -> None:
    """score (C,) of the first m candidates of a user. units (J + 1, C): what the features bring to each hidden unit, to which
    the context is added, and last what they bring to the score itself.
    """
    score[:m] = units[len(outer), :m]
    for unit in range(len(outer)):
        row = units[unit, :m]
        offset = bias[unit]
        for d in range(len(context)):
            offset += of_context[unit, d] * context[d]
        weight = outer[unit]
        for at in range(m):
            row[at] += offset
            score[at] += weight * max(row[at], _ZERO)


@compiled_sum
def _mean(values: F32) -> Any:
    total = _ZERO
    for at in range(len(values)):
        total += values[at]
    return total / np.float32(max(len(values), 1))


@compiled
def _best(score: F32, item: Rows, places: Rows) -> int:
    """places (k,): where the highest scores are, best first, ties by rising item; how many there are."""
    held = 0
    for at in range(len(score)):
        if held == len(places):
            last = places[held - 1]
            if score[at] < score[last] or (score[at] == score[last] and item[at] > item[last]):
                continue
            held -= 1
        place = held
        while place > 0:
            other = places[place - 1]
            if score[other] > score[at] or (score[other] == score[at] and item[other] < item[at]):
                break
            places[place] = other
            place -= 1
        places[place] = at
        held += 1
    return held


@compiled
def listed(
    x: F32,
    units: F32,
    context: F32,
    item: Rows,
    filled: Rows,
    linear: F32,
    inner: F32,
    of_context: F32,
    bias: F32,
    outer: F32,
    alone: int,
    ever: int,
    signal_of: Rows,
    listed_item: Rows,
    listed_score: F32,
    signal: NDArray[np.uint8],
) -> None:
    """The k best of x (B, F, C): item, score and the signal that lifts each most above the average candidate, all (B, k).

    units (B, J + 1, C): inner and, last, linear times x; overwritten. alone: the feature that ranks instead of the blend, NONE
    for the blend; ever: the one by which its ties are broken; signal_of (F,). The blend being piecewise linear, how a score
    changes with each feature is exact.
    """
    users, features, wide = x.shape
    score, places = np.empty(wide, np.float32), np.empty(listed_item.shape[1], np.int64)
    mean, slope = np.empty(features, np.float32), np.empty(features, np.float32)
    lift = np.empty(signal_of.max() + 1, np.float32)
    for user in range(users):
        m, rows, hidden = filled[user], x[user], units[user]
        _score(hidden, m, context[user], of_context, bias, outer, score)
        if alone != NONE:
            for at in range(m):
                score[at] = rows[alone, at] + TIE * rows[ever, at]
        held = _best(score[:m], item[user], places)
        for f in range(features):
            mean[f] = _mean(rows[f, :m])
        for place in range(held):
            at = places[place]
            listed_item[user, place], listed_score[user, place] = item[user, at], score[at]
            slope[:] = linear
            for unit in range(len(outer)):
                if hidden[unit, at] > 0:
                    weight, theirs = outer[unit], inner[unit]
                    for f in range(features):
                        slope[f] += weight * theirs[f]
            lift[:] = _ZERO
            for f in range(features):
                lift[signal_of[f]] += slope[f] * (rows[f, at] - mean[f])
            signal[user, place] = lift.argmax()


@compiled
def _rank(score: F32, target: int) -> int:
    """1-based rank of a place; a tie counts half."""
    above, equal = 0, -1
    for at in range(len(score)):
        above += score[at] > score[target]
        equal += score[at] == score[target]
    return 1 + above + equal // 2


@compiled
def judged(
    x: F32,
    units: F32,
    context: F32,
    item: Rows,
    filled: Rows,
    taken: Rows,
    of_context: F32,
    bias: F32,
    outer: F32,
    columns: Rows,
    ever: int,
    target: Rows,
    blend: Rows,
    singles: Rows,
) -> None:
    """Where the items taken (B,) stand among the candidates: target (B,) their places, NONE if they are none; their ranks by
    the blend (B,) and by each of the features columns (S,) alone (B, S), 0 if they are none. units: as in `listed`.
    """
    users, _, wide = x.shape
    score = np.empty(wide, np.float32)
    for user in range(users):
        m, rows = filled[user], x[user]
        target[user], blend[user] = NONE, 0
        singles[user] = 0
        for at in range(m):
            if item[user, at] == taken[user]:
                target[user] = at
        if target[user] == NONE:
            continue
        _score(units[user], m, context[user], of_context, bias, outer, score)
        blend[user] = _rank(score[:m], target[user])
        for number in range(len(columns)):
            for at in range(m):
                score[at] = rows[columns[number], at] + TIE * rows[ever, at]
            singles[user, number] = _rank(score[:m], target[user])
