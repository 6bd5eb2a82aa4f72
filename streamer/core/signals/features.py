"""What the blend sees of a candidate: of each signal a bounded log score and its share of the maximum, and the context.

Axes: B users, C candidates, N items, H half-lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.edges import Edges
from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.item_counts import NEVER, ItemCounts
from streamer.core.signals.options import SignalOptions
from streamer.core.signals.pool import KINDS, NEVER_TAKEN, Pool

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

HALF_LIVES = 4


class Signal(IntEnum):
    """What can carry a recommendation."""

    POPULAR_FAST = 0
    POPULAR = 1
    POPULAR_SLOW = 2
    POPULAR_EVER = 3
    NEXT = 4
    SOON = 5
    TOGETHER = 6
    SESSION = 7
    REPEAT = 8
    AGE = 9
    GRU = 10
    TEXT = 11


_LOG_FLOOR = np.float32(1e-3)
_LOG_SCALE = np.float32(1 / np.log1p(1 / 1e-3))
_TICKS = np.float32(1 / 12)
"""log1p of 160,000 average intervals is about 12."""

SIGNAL_OF = (
    *(Signal(h) for h in range(HALF_LIVES) for _ in range(2)),
    Signal.POPULAR_EVER,
    *(Signal(Signal.NEXT + kind) for kind in range(KINDS) for _ in range(2)),
    *(Signal.REPEAT,) * 5,
    *(Signal.AGE,) * 3,
    *(Signal.GRU,) * 2,
    *(Signal.TEXT,) * 2,
)
"""(F,) which signal a feature belongs to."""
FEATURES = len(SIGNAL_OF)
CONTEXT = 6


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """What does not depend on the user, once per batch."""

    table: F32
    """(2H + 5, N): log score and share of each popularity, log count, rate of repeats, age, idle time, trend"""
    shared: Rows
    """(G,) candidates of everyone"""
    popular: F32
    """(N,) how much an item is liked at large: the mean of its shares; -inf for items that nobody may get"""

    @classmethod
    def of(
        cls, counts: ItemCounts, again: NDArray[np.float64], options: SignalOptions, now_ms: int
    ) -> ItemFeatures:
        shares = counts.shares().astype(np.float32)
        top = shares.max(axis=1, initial=1e-20)[:, None]
        relative = shares / top
        events = counts.count[-1]
        seen = counts.first_ms != NEVER
        age = np.where(seen, _ticks(now_ms - np.where(seen, counts.first_ms, now_ms), options), 1)
        idle = np.where(seen, _ticks(now_ms - np.where(seen, counts.last_ms, now_ms), options), 1)
        logs = _log(shares * 10)
        table = np.concatenate(
            [
                logs,
                relative,
                (np.log1p(events) / 12)[None],
                ((again + 0.1) / (events + 1))[None],
                age[None],
                idle[None],
                (logs[1] - logs[2])[None],
            ]
        ).astype(np.float32)
        best = [_top(each, options.shared) for each in shares]
        newest = np.flatnonzero(seen)
        newest = newest[np.argsort(-counts.first_ms[newest], kind="stable")[: options.shared // 2]]
        return cls(table, np.unique(np.concatenate([*best, newest])), relative.mean(axis=0))


def features(
    past: Contexts,
    pool: Pool,
    items: ItemFeatures,
    edges: Edges,
    options: SignalOptions,
    extra: tuple[F32 | None, F32 | None],
) -> tuple[F32, F32]:
    """(F, B, C) of the candidates and (CONTEXT, B) of the users; extra: scores (B, C) of the GRU and of the text."""
    users, wide = pool.item.shape
    x = np.zeros((FEATURES, users, wide), np.float32)
    at = np.maximum(pool.item, 0)
    table = items.table
    for h in range(HALF_LIVES):
        x[2 * h], x[2 * h + 1] = table[h][at], table[HALF_LIVES + h][at]
    f = 2 * HALF_LIVES
    x[f] = table[f][at]
    f += 1
    for score, highest in zip(pool.neighbour, pool.highest, strict=True):
        x[f] = _log(score)
        x[f + 1] = score / np.maximum(highest, 1e-20)[:, None]
        f += 2
    if options.repeats:
        past_ones = pool.lag < NEVER_TAKEN
        lag = pool.lag.astype(np.float32)
        x[f] = past_ones
        x[f + 1] = past_ones / (1 + lag)
        place = np.minimum(pool.lag, past.time_ms.shape[1] - 1)
        since = past.now_ms[:, None] - np.take_along_axis(past.time_ms, place, 1)
        x[f + 2] = past_ones * _ticks(since, options)
        x[f + 3] = np.log1p(pool.taken) / 5
        x[f + 4] = past_ones * table[2 * HALF_LIVES + 1][at]
    f += 5
    x[f : f + 3] = table[2 * HALF_LIVES + 2 :][:, at]
    f += 3
    for scores in extra:
        if scores is not None:
            x[f], x[f + 1] = _standard(scores, pool.item != NONE)
        f += 2
    return x, _context(past, pool, items, edges, options)


def _context(past: Contexts, pool: Pool, items: ItemFeatures, edges: Edges, options: SignalOptions) -> F32:
    out = np.zeros((CONTEXT, len(past)), np.float32)
    recent = past.item[:, : options.recent]
    there = (recent != NONE) & (recent < items.table.shape[1])
    out[0] = np.log1p(past.length) / 6
    out[1] = np.log1p(past.session(options.session_gap_ms)) / 4
    if recent.shape[1]:
        last_ms = np.where(there[:, 0], past.time_ms[:, 0], past.now_ms)
        out[2] = _ticks(past.now_ms - last_ms, options)
        last = np.where(there[:, 0], recent[:, 0], 0)
        events = items.table[2 * HALF_LIVES]
        out[3] = np.where(there[:, 0], events[last], 0)
        liked = np.where(there, items.table[HALF_LIVES - 1][np.where(there, recent, 0)], 0)
        out[4] = liked.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    out[5] = (pool.taken.sum(axis=1) > 0) & options.repeats
    return out


def _log(scores: F32) -> F32:
    """Scores of 0..1 → 0..1, and slowly on above."""
    logs: F32 = np.log(scores * (1 / _LOG_FLOOR) + np.float32(1)) * _LOG_SCALE
    return logs


def _ticks(elapsed_ms: Rows, options: SignalOptions) -> F32:
    ticks = np.maximum(elapsed_ms, 0).astype(np.float32) * np.float32(1 / options.tick_ms)
    logs: F32 = np.log(ticks + np.float32(1)) * _TICKS
    return logs


def _standard(scores: F32, there: NDArray[np.bool_]) -> tuple[F32, F32]:
    """Scores of a model, whatever their scale: standardised over a user's candidates, and as a softmax's share of its maximum."""
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    known = np.where(there, scores, 0)
    mean = known.sum(axis=1, keepdims=True) / n
    deviation = np.sqrt((np.where(there, scores - mean, 0) ** 2).sum(axis=1, keepdims=True) / n) + np.float32(
        1e-6
    )
    highest = np.where(there, scores, -np.inf).max(axis=1, keepdims=True, initial=-1e30)
    share = np.exp(np.minimum(scores - highest, 0))
    return np.clip((scores - mean) / deviation, -4, 4) / 4 * there, share * there


def _top(scores: F32, most: int) -> Rows:
    some = np.flatnonzero(scores > 0)
    if len(some) > most:
        some = some[np.argpartition(-scores[some], most)[:most]]
    return some
