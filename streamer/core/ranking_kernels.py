"""Reasons and order of many users' lists. Axes as in ranking: n users, k recommendations, R past items, N rows, D."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.core.compiled import compiled, compiled_sum, fixed


@compiled
def because(recent: Any, recommended: Any, vectors: Any, best: Any) -> None:
    """Fill `best` (n, k): see ranking.because."""
    for user in range(len(recent)):
        for place in range(recommended.shape[1]):
            best[user, place] = _strongest(recent[user], recommended[user, place], vectors)


@compiled
def _strongest(past: Any, row: int, vectors: Any) -> Any:
    found, highest = -1, np.float32(-np.inf)
    if row < 0:
        return found
    for each in past:
        if each >= 0 and each != row:
            support = _product(vectors[each], vectors[row])
            if support > highest:
                found, highest = each, support
    return found


@compiled_sum
def _product(one: Any, other: Any) -> Any:
    total = np.float32(0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return total


@compiled
def rank(scores: Any, rows: Any, lengths: Any) -> None:
    """Sort in place, and fill lengths (n,): see ranking.rank."""
    for user in range(len(scores)):
        score, row = scores[user], rows[user]
        for start in range(1, len(row)):
            moved, its_row, place = score[start], row[start], start
            while place > 0 and (
                score[place - 1] < moved or (score[place - 1] == moved and row[place - 1] > its_row)
            ):
                score[place], row[place] = score[place - 1], row[place - 1]
                place -= 1
            score[place], row[place] = moved, its_row
        lengths[user] = 0
        for place in range(len(row)):
            if score[place] == -np.inf:
                row[place] = -1
            else:
                lengths[user] += 1


def warm_up() -> None:
    rows, numbers = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32)
    because(fixed(rows), fixed(rows), fixed(numbers), rows.copy())
    rank(numbers, rows, rows[0].copy())
