"""The candidates of a block of users, and what each neighbour signal says about them.

Axes: B users of the block, W remembered items, N items, C candidates of a user.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals import pool_kernels as kernels
from streamer.core.signals.edges import COLUMNS, Edges
from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.item_counts import ItemCounts
from streamer.core.signals.options import SignalOptions

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

KINDS = COLUMNS
"""Neighbour signals: each sums one column of the edges."""
_STAMPS = 1 << 30


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates of B users; behind those that are there, items are NONE and all else is anything."""

    item: Rows
    """(B, C)"""
    filled: Rows
    """(B,) how many are there"""
    neighbour: F32
    """(B, KINDS, C) scores of the neighbour signals, 0 where they say nothing"""
    highest: F32
    """(B, KINDS) the highest of all pooled items, also of those that were not taken"""
    lag: NDArray[np.int32]
    """(B, C) how many events ago the user took it last, NEVER_TAKEN where it is not among the remembered"""
    taken: NDArray[np.int32]
    """(B, C) how often it is among the remembered"""

    def first(self, users: int) -> Pool:
        """Of so many users; views."""
        return Pool(**{each.name: getattr(self, each.name)[:users] for each in fields(self)})


class Pooling:
    """Makes pools; keeps its working memory, a few numbers for every item, between calls."""

    def __init__(self, options: SignalOptions) -> None:
        self._options = options
        self._most = np.array(options.lists, np.int64)
        self._remembered = options.remembered if options.repeats else 0
        self._voice = np.zeros((options.recent, 3), np.int64)
        self._factor = np.zeros((options.recent, 5), np.float32)
        self._room = self._empty(0)
        self._stamp = 0
        self._grow(0)

    def gather(
        self,
        past: Contexts,
        session: Rows,
        edges: Edges,
        counts: ItemCounts,
        barred: NDArray[np.bool_],
        excluded: tuple[Rows, Rows],
        wanted: Rows,
    ) -> Pool:
        """past (B,), session (B,); barred (N,); excluded: items (M,) by user, and bounds (B + 1,) whose they are; wanted (B, X):
        further candidates, NONE = none. `counts` has a row for every item that occurs. The next pool overwrites this one.
        """
        users = len(past)
        if users > len(self._room.item):
            self._room = self._empty(users)
        pool = self._room.first(users)
        self._ready(len(barred), users)
        self._stamp = kernels.pooled(
            past.item,
            session,
            edges.ones(past.now_ms),
            *excluded,
            wanted,
            barred,
            counts.leading(),
            self._options.recent,
            self._remembered,
            self._most,
            edges.start,
            edges.size,
            edges.target,
            edges.weight,
            edges.root,
            counts.by_item,
            counts.top,
            self._stamp,
            self._seen,
            self._heard,
            self._banned,
            self._bonus,
            self._lag,
            self._times,
            self._score,
            self._touched,
            self._kept,
            self._liking,
            self._voice,
            self._factor,
            pool.item,
            pool.neighbour,
            pool.highest,
            pool.lag,
            pool.taken,
            pool.filled,
        )
        return pool

    def supporters(self, past: Contexts, session: Rows, edges: Edges, best: Rows) -> Rows:
        """(B, k) the recent item that supports each of the items `best` (B, k) of a pool just gathered most, NONE without one."""
        because = np.full(best.shape, NONE, np.int64)
        self._ready(0, len(past))
        self._stamp = kernels.supporters(
            past.item,
            session,
            edges.ones(past.now_ms),
            self._options.recent,
            self._most,
            edges.start,
            edges.size,
            edges.target,
            edges.weight,
            edges.root,
            self._stamp,
            self._heard,
            self._place,
            self._voice,
            self._factor,
            best,
            because,
        )
        return because

    def _empty(self, users: int) -> Pool:
        shape = users, self._options.pool
        return Pool(
            item=np.empty(shape, np.int64),
            filled=np.empty(users, np.int64),
            neighbour=np.empty((users, KINDS, shape[1]), np.float32),
            highest=np.empty((users, KINDS), np.float32),
            lag=np.empty(shape, np.int32),
            taken=np.empty(shape, np.int32),
        )

    def _ready(self, items: int, users: int) -> None:
        if items > len(self._seen):
            self._grow(items + items // 2)
        if self._stamp > _STAMPS - users:
            self._stamp = 0
            for each in (self._seen, self._heard, self._banned):
                each[:] = 0

    def _grow(self, items: int) -> None:
        """Everything is as if no user had been looked at."""
        self._seen, self._heard, self._banned = (np.zeros(items, np.int32) for _ in range(3))
        self._bonus, self._liking = np.zeros(items, np.float32), np.zeros(items, np.float32)
        self._lag, self._times = np.zeros(items, np.int32), np.zeros(items, np.int32)
        self._place = np.full(items, NONE, np.int32)
        self._score = np.zeros((items, KINDS), np.float32)
        self._touched, self._kept = np.zeros(items + 1, np.int64), np.zeros(items, np.int64)
