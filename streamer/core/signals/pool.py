"""The candidates of a block of users, and what each neighbour signal says about them.

Axes: B users of the block, m recent items, W remembered items, N items, T list entries, U pooled (user, item) pairs,
C candidates of a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.edges import Column, Edges
from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.options import SignalOptions

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

SOON_ITEMS, SOON_DISCOUNT = 5, 0.6
AFTER_DISCOUNT, TOGETHER_DISCOUNT = 0.7, 0.9
SHRINK = 1.0
"""Events added to an item's count where it is a denominator: what rests on one event is worth less than on many."""
NEVER_TAKEN = 10_000
KINDS = 5
"""next, soon, after, together, session: the neighbour signals."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates, -1 where a user has fewer."""

    item: Rows
    """(B, C)"""
    neighbour: list[F32]
    """KINDS times (B, C) scores of the neighbour signals, 0 where they say nothing"""
    highest: list[F32]
    """KINDS times (B,) the highest of all pooled items, also of those that were not taken"""
    lag: NDArray[np.int32]
    """(B, C) how many events ago the user took it last, NEVER_TAKEN where it is not among the remembered"""
    taken: F32
    """(B, C) how often it is among the remembered"""


class Pooling:
    """Makes pools; keeps its working memory between calls."""

    def __init__(self, options: SignalOptions) -> None:
        self._options = options
        self._place = np.zeros(0, np.int32)

    def gather(
        self, past: Contexts, edges: Edges, shared: Rows, popular: F32, items: int, excluded: Rows, extra: Rows
    ) -> Pool:
        """past (B,); shared (G,): candidates of everyone; popular (N,): a share, how much an item is liked at large; N = items;
        excluded (M, 2): pairs of (user, item); extra (B, X): further candidates, NONE = none.
        """
        o, users = self._options, len(past)
        owner_t, item_t, kinds = self._neighbours(past, edges)
        back, when = np.nonzero(past.item[:, ::-1][:, -o.remembered :] != NONE) if o.repeats else (_none(), _none())
        remembered = past.item[:, ::-1][:, -o.remembered :]
        past_item = remembered[back, when]
        some, which = np.nonzero(extra != NONE)
        owner = np.concatenate([owner_t, back, np.repeat(np.arange(users), len(shared)), some])
        item = np.concatenate([item_t, past_item, np.tile(shared, users), extra[some, which]])
        slot = owner * items + item
        distinct, where = self._distinct(slot, owner, users * items)
        whose, what = owner[distinct], item[distinct]
        pooled = len(distinct)
        scores = [np.bincount(where[: len(item_t)], each, pooled).astype(np.float32) for each in kinds]
        mass = np.append(edges.mass, np.zeros(max(items - len(edges.mass), 0)))
        now = edges.one(int(past.now_ms.max(initial=0)))
        cosine = (1 / np.sqrt(mass + SHRINK * now)).astype(np.float32)[what]
        for kind in (3, 4):
            scores[kind] *= cosine
        lag = np.full(pooled, NEVER_TAKEN, np.int32)
        mine = where[len(item_t) : len(item_t) + len(back)]
        lag[mine] = remembered.shape[1] - 1 - when  # newest last, so the newest is what stays
        taken = np.bincount(mine, minlength=pooled).astype(np.float32)
        start = np.searchsorted(whose, np.arange(users + 1))
        highest = [_highest(each, start) for each in scores]
        liking = popular[what] + np.where(lag < NEVER_TAKEN, np.float32(0.5) + 1 / (1 + lag).astype(np.float32), np.float32(0))
        for each, top in zip(scores, highest, strict=True):
            liking += each / np.maximum(top, 1e-20)[whose]
        liking[where[len(item_t) + len(back) + users * len(shared) :]] += np.float32(1)
        self._exclude(liking, slot[distinct], excluded[:, 0] * items + excluded[:, 1])
        at = _best(liking, start, o.pool)
        there = at >= 0
        at = np.where(there, at, 0)
        return Pool(
            item=np.where(there, what[at], NONE),
            neighbour=[np.where(there, each[at], np.float32(0)) for each in scores],
            highest=highest,
            lag=lag[at],
            taken=taken[at],
        )

    def _neighbours(self, past: Contexts, edges: Edges) -> tuple[Rows, Rows, list[NDArray[np.float64]]]:
        """Entries (T,) of the lists of the recent items: user, item, and KINDS contributions."""
        o = self._options
        recent = past.item[:, : o.recent]
        lags = np.arange(recent.shape[1])
        repeated = np.tril(recent[:, :, None] == recent[:, None, :], -1).any(axis=2)
        user, lag = np.nonzero((recent != NONE) & ~repeated)
        source = recent[user, lag]
        list_, item, w = edges.lists(source)
        known = source < len(edges.mass)
        mass = np.where(known, edges.mass[np.where(known, source, 0)], 0.0) if len(edges.mass) else np.zeros(len(source))
        mass += SHRINK * edges.one(int(past.now_ms.max(initial=0)))
        in_session = lag < past.session(o.session_gap_ms)[user]
        root = 1 / np.sqrt(mass)
        factor = (
            (lag == 0) / mass,
            np.where(lag < SOON_ITEMS, SOON_DISCOUNT**lag, 0.0) / mass,
            AFTER_DISCOUNT**lag / mass,
            TOGETHER_DISCOUNT**lag * root,
            in_session * root,
        )
        del lags
        together = w[Column.AFTER] + w[Column.BEFORE]
        columns = (w[Column.NEXT], w[Column.SOON], w[Column.AFTER], together, w[Column.SESSION])
        return user[list_], item, [c * f[list_] for c, f in zip(columns, factor, strict=True)]

    def _distinct(self, slot: Rows, owner: Rows, slots: int) -> tuple[Rows, NDArray[np.int32]]:
        """One entry of each slot, by user; and where each entry's slot is among them."""
        if len(self._place) < slots:
            self._place = np.zeros(slots, np.int32)
        place, number = self._place, np.arange(len(slot), dtype=np.int32)
        place[slot] = number
        chosen = np.flatnonzero(place[slot] == number)
        chosen = chosen[np.argsort(owner[chosen].astype(np.int16), kind="stable")]
        place[slot[chosen]] = np.arange(len(chosen), dtype=np.int32)
        return chosen, place[slot]

    def _exclude(self, liking: F32, slots: Rows, excluded: Rows) -> None:
        if len(excluded) and len(slots):
            at = np.minimum(self._place[excluded], len(slots) - 1)  # stale where the pair is not pooled
            liking[at[slots[at] == excluded]] = -np.inf


def _none() -> Rows:
    return np.zeros(0, np.int64)


def _highest(scores: F32, start: Rows) -> F32:
    out = np.zeros(len(start) - 1, np.float32)
    some = np.flatnonzero(np.diff(start))
    if len(some):
        out[some] = np.maximum.reduceat(scores, start[:-1][some])
    return out


def _best(liking: F32, start: Rows, most: int) -> Rows:
    """(B, C) places of each user's most liked, in no order; -1 = none left."""
    size = np.diff(start)
    width = int(size.max(initial=0))
    padded = np.full((len(size), max(width, 1)), -np.inf, np.float32)
    column = np.arange(len(liking)) - np.repeat(start[:-1], size)
    padded[np.repeat(np.arange(len(size)), size), column] = liking
    if width > most:
        chosen = np.argpartition(padded, width - most, axis=1)[:, width - most :]
    else:
        chosen = np.broadcast_to(np.arange(padded.shape[1]), padded.shape)
    there = np.take_along_axis(padded, chosen, 1) > -np.inf
    return np.where(there, start[:-1, None] + chosen, -1)
