"""From scores to recommendations: what is excluded, in which order, and because of what.

Axes: n users, k recommendations, N rows of the catalogue (sorted by item id, so a lower row is a lower id), D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.core import ranking_kernels
from streamer.core.compiled import fixed
from streamer.core.json_kernels import write_recommendations
from streamer.core.json_texts import Phrases, Texts, written
from streamer.core.signals.features import Signal
from streamer.core.stamp import Stamp

Rows = NDArray[np.int64]
RowLookup = Callable[[NDArray[np.uint64]], Rows]
"""Catalogue rows of item hashes, -1 for unknown ones; any shape."""

_STRATEGIES = Texts([b'"model"', b'"popularity"', b'"blend"'])
_SIGNALS = Texts([b"", *(b',"signal":"%b"' % signal.name.lower().encode() for signal in Signal)])
_CONSTANTS, _NUMBER = 40, 40
"""Bytes of a list's constants, and of a score with what is around it, at most."""


def exclusions(positions: Rows, hashes: NDArray[np.uint64], rows_of: RowLookup) -> Rows:
    """Pairs (M, 2) of (user, catalogue row) of what the users (m,) have seen, m >= M: unknown items have no row."""
    rows = rows_of(hashes)
    known = np.flatnonzero(rows >= 0)
    return np.stack([positions[known], rows[known]], axis=1)


def rank(scores: NDArray[np.float32], rows: Rows) -> tuple[NDArray[np.float32], Rows, Rows]:
    """Sort each user's candidates (n, k) by falling score, ties by rising row: scores, rows and lengths (n,).

    What scores -inf (excluded, withdrawn, unavailable) comes last, as row -1, and is not counted in the lengths.
    """
    scores, rows, lengths = scores.copy(), rows.copy(), np.empty(len(rows), np.int64)
    ranking_kernels.rank(scores, rows, lengths)
    return scores, rows, lengths


def because(recent: Rows, recommended: Rows, vectors: NDArray[np.float32]) -> Rows:
    """The past item that supports each recommendation most: rows (n, k), -1 where there is none.

    Of `recent` (n, R), catalogue rows of the user's last events, newest first (-1 = none), it is the one whose vector
    (of `vectors` (N, D)) has the highest dot product with that of `recommended` (n, k) (-1 = none); the newer of equals.
    An item is no reason for itself.
    """
    if not len(vectors) or not recent.size or not recommended.size:
        return np.full(recommended.shape, -1, np.int64)
    best = np.empty(recommended.shape, np.int64)
    ranking_kernels.because(fixed(recent), fixed(recommended), fixed(vectors), best)
    return best


def popular(
    popularity: NDArray[np.float32], recommendable: NDArray[np.bool_], n: int, excluded: Rows, k: int
) -> tuple[NDArray[np.float32], Rows]:
    """The most popular items for n users without history: scores (n, k) and rows (n, k), -inf and -1 where there are none.

    `popularity`, `recommendable` (N,): of the catalogue's rows; `excluded` (M, 2): pairs of (user, row). Ties by rising row.
    """
    scores, rows = np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64)
    # No user can lose more candidates than pairs name it.
    spare = int(np.bincount(excluded[:, 0], minlength=1).max()) if len(excluded) else 0
    candidates = np.flatnonzero(recommendable)
    candidates = candidates[np.argsort(-popularity[candidates], kind="stable")][: k + spare]
    if not len(candidates):
        return scores, rows
    place = np.full(len(popularity), -1, np.int64)
    place[candidates] = np.arange(len(candidates))
    taken = np.zeros((n, len(candidates)), np.bool_)
    hit = place[excluded[:, 1]] >= 0
    taken[excluded[hit, 0], place[excluded[hit, 1]]] = True
    order = np.argsort(taken, axis=1, kind="stable")[:, :k]
    free = ~np.take_along_axis(taken, order, 1)
    width = order.shape[1]
    rows[:, :width] = np.where(free, candidates[order], -1)
    scores[:, :width] = np.where(free, popularity[candidates[order]], -np.inf)
    return scores, rows


class ItemTexts:
    """The items of a catalogue (N,) as they stand in lists, encoded when first recommended."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.item = Phrases(len(ids), lambda row: b'{"item_id":%b,"score":' % msgspec.json.encode(ids[row]))
        self.reason = Phrases(len(ids), lambda row: b',"because":%b' % msgspec.json.encode(ids[row]))


def recommendations(
    scores: NDArray[np.floating],
    rows: Rows,
    reasons: Rows,
    usable: NDArray[np.bool_],
    stamp: Stamp,
    items: ItemTexts,
    signals: Rows | None = None,
    weights: str | None = None,
) -> list[bytes]:
    """Values for `recommendations` (protocol.Recommendations) of ranked candidates (n, k), without those of row -1.

    reasons (n, k): catalogue rows, -1 for none; usable (n,): whether the model ranked, else popularity did.
    signals (n, k): numbers of `Signal` of blended lists, and the name of the weights that they were made with.
    """
    item, reason = items.item(rows), items.reason(reasons)
    if weights is None:
        strategies, strategy = _STRATEGIES, np.where(usable, 0, 1)
    else:
        strategies = Texts([b'"blend","weights":' + msgspec.json.encode(weights)])
        strategy = np.zeros(stamp.n, np.int64)
    signal = np.empty((stamp.n, 0), np.int64) if signals is None else np.ascontiguousarray(signals + 1)
    numbers = (strategy, scores.astype(np.float64), item, reason, signal)
    tables = (strategies.table, items.item.texts.table, items.reason.texts.table, _SIGNALS.table)
    longest = items.item.texts.longest + items.reason.texts.longest + _SIGNALS.longest + _NUMBER
    return written(
        stamp.n,
        stamp.longest + strategies.longest + rows.shape[1] * longest + _CONSTANTS,
        lambda out, ends, first: write_recommendations(out, ends, first, stamp.arrays, *numbers, *tables),
    )
