"""The candidates of a block of users, and what each neighbour signal says about them.

Axes: B users of the block, m recent items, W remembered items, N items, R neighbour lists, T list entries, U pooled
(user, item) pairs by user, C candidates of a user.
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
TOGETHER_DISCOUNT = 0.9
SHRINK = 1.0
"""Events added to an item's count where it is a denominator: what rests on one event is worth less than on many."""
SHRINK_PAIR = 10.0
"""Added to the denominator of a cosine."""
NEVER_TAKEN = 10_000
KINDS = len(Column)
"""Neighbour signals: each sums one column of the edges."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates, NONE where a user has fewer; scores are 0 there."""

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
    entries: list[Entries]
    """What the scores were summed from"""
    items: int
    """N"""

    def supporters(self, best: Rows) -> Rows:
        """(B, k) the recent item that supports each candidate of the places `best` (B, k) most, NONE without one."""
        slot = np.take_along_axis(self.item, best, 1) + np.arange(len(best))[:, None] * self.items
        wanted = slot.ravel()
        if not self.entries:
            return np.full(best.shape, NONE, np.int64)
        order = np.argsort(wanted, kind="stable")
        out = np.full(len(wanted), NONE, np.int64)
        mark = np.zeros(len(best) * self.items + 1, np.bool_)
        mark[wanted] = True
        hits = [np.flatnonzero(mark[each.slot]) for each in self.entries]
        of = np.concatenate([each.slot[hit] for each, hit in zip(self.entries, hits, strict=True)])
        source = np.concatenate([each.source[hit] for each, hit in zip(self.entries, hits, strict=True)])
        support = np.concatenate([each.support(hit) for each, hit in zip(self.entries, hits, strict=True)])
        rising = np.argsort(support, kind="stable")
        out[order[np.searchsorted(wanted[order], of[rising])]] = source[
            rising
        ]  # the strongest is written last
        return np.where(self.item[np.arange(len(best))[:, None], best] != NONE, out.reshape(best.shape), NONE)


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of neighbour lists, T of them."""

    slot: Rows
    """(T,) user * N + item"""
    source: Rows
    """(T,) whose neighbour it is"""
    value: list[F32]
    """KINDS times (T' <= T,): what only the last items have a say in is known of the first entries alone"""

    def support(self, at: Rows) -> F32:
        """Sum of the values of entries (n,)."""
        total = np.zeros(len(at), np.float32)
        for each in self.value:
            known = at < len(each)
            total[known] += each[at[known]]
        return total


class Pooling:
    """Makes pools; keeps its working memory between calls."""

    def __init__(self, options: SignalOptions) -> None:
        self._options = options
        self._place = np.zeros(0, np.int32)
        self._most = np.array([*options.lists, *[options.lists[-1]] * options.recent], np.int64)

    def gather(
        self,
        past: Contexts,
        edges: Edges,
        shared: Rows,
        popular: F32,
        items: int,
        excluded: Rows,
        extra: Rows,
    ) -> Pool:
        """past (B,); shared (G,): candidates of everyone; popular (N,): a share, how much an item is liked at large; N = items;
        excluded (M, 2): pairs of (user, item); extra (B, X): further candidates, NONE = none.
        """
        o, users = self._options, len(past)
        neighbours = self._neighbours(past, edges, items)
        remembered = past.item[:, : o.remembered if o.repeats else 0][:, ::-1]
        who, when = np.nonzero(remembered != NONE)
        some, which = np.nonzero(extra != NONE)
        base = np.arange(users) * items
        parts = [
            *(each.slot for each in neighbours),
            base[who] + remembered[who, when],
            (base[:, None] + shared).ravel(),
            base[some] + extra[some, which],
        ]
        slot = np.concatenate(parts)
        ends = np.cumsum([len(each) for each in parts])
        if not len(slot):
            return _empty(users, items)
        pooled, entry = self._distinct(slot, users * items)
        whose = (pooled // items).astype(np.int16)
        order = np.argsort(whose, kind="stable")  # radix
        pooled, whose = pooled[order], whose[order]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        where = back[entry]
        self._place[pooled] = np.arange(len(pooled), dtype=np.int32)
        what = pooled - base[whose]
        heard = int(ends[len(neighbours) - 1])
        scores = [self._summed(neighbours, k, where, ends, len(pooled)) for k in range(KINDS)]
        start = np.searchsorted(whose, np.arange(users + 1))
        highest = [_highest(each, start) for each in scores]
        liking = popular[what]
        for each, top in zip(scores, highest, strict=True):
            liking += each * np.repeat(1 / np.maximum(top, 1e-20), np.diff(start))
        lag = np.full(len(pooled), NEVER_TAKEN, np.int32)
        mine = where[heard : ends[len(neighbours)]]
        lag[mine] = remembered.shape[1] - 1 - when  # newest last, so the newest is what stays
        taken = np.bincount(mine, minlength=len(pooled)).astype(np.float32)
        liking[mine] += 0.5 + 1 / (1 + lag[mine]).astype(np.float32)
        liking[where[ends[-2] :]] += np.float32(1)
        self._exclude(liking, pooled, excluded[:, 0] * items + excluded[:, 1])
        at = _best(liking, start, o.pool)
        there = at >= 0
        at = np.maximum(at, 0)
        return Pool(
            item=np.where(there, what[at], NONE),
            neighbour=[np.where(there, each[at], np.float32(0)) for each in scores],
            highest=highest,
            lag=lag[at],
            taken=taken[at] * there,
            entries=neighbours,
            items=items,
        )

    def _neighbours(self, past: Contexts, edges: Edges, items: int) -> list[Entries]:
        """What the neighbour lists of the recent items say."""
        o = self._options
        recent = past.item[:, : o.recent]
        repeated = np.tril(recent[:, :, None] == recent[:, None, :], -1).any(axis=2)
        lag, user = np.nonzero(((recent != NONE) & ~repeated).T)  # the last items of all users first
        source = recent[user, lag]
        one = edges.one(int(past.now_ms.max(initial=0)))
        root = np.zeros(items, np.float32)
        known = edges.mass[:items]
        root[: len(known)] = np.sqrt(known)
        mine = root[source]
        share = 1 / (mine**2 + np.float32(SHRINK * one))
        in_session = lag < past.session(o.session_gap_ms)[user]
        factor = [
            (lag == 0) * share,
            np.where(lag < SOON_ITEMS, SOON_DISCOUNT**lag, 0.0) * share,
            TOGETHER_DISCOUNT**lag,
            in_session * 1.0,
        ]
        row = [each.astype(np.float32) for each in factor]
        reach = [int(np.searchsorted(lag, most)) for most in (1, SOON_ITEMS, o.recent, o.recent)]
        found = []
        for size, item, place, columns in edges.lists(source, self._most[lag]):
            ends = np.append(0, np.cumsum(size))
            value = [
                column[place[: ends[rows]]] * np.repeat(f[:rows], size[:rows])
                for column, f, rows in zip(columns, row, reach, strict=True)
            ]
            cosine = 1 / (np.repeat(mine, size) * root[item] + np.float32(SHRINK_PAIR * one))
            for kind in (Column.TOGETHER, Column.SESSION):
                value[kind] *= cosine
            slot = np.repeat(user * items, size) + item
            found.append(Entries(slot, np.repeat(source, size), value))
        return found

    @staticmethod
    def _summed(entries: list[Entries], kind: int, where: Rows, ends: Rows, pooled: int) -> F32:
        """(U,) of one kind."""
        total = np.zeros(pooled)
        for each, end in zip(entries, ends, strict=False):
            value = each.value[kind]
            first = int(end) - len(each.slot)
            if len(value):
                total += np.bincount(where[first : first + len(value)], value, pooled)
        return total.astype(np.float32)

    def _distinct(self, slot: Rows, slots: int) -> tuple[Rows, NDArray[np.int32]]:
        """Each slot once, and where each entry's slot is among them."""
        if len(self._place) < slots:
            self._place = np.zeros(slots, np.int32)
        place, number = self._place, np.arange(len(slot), dtype=np.int32)
        place[slot] = number
        chosen = slot[np.flatnonzero(place[slot] == number)]
        place[chosen] = number[: len(chosen)]
        return chosen, place[slot]

    def _exclude(self, liking: F32, slots: Rows, excluded: Rows) -> None:
        if len(excluded) and len(slots):
            at = np.minimum(self._place[excluded], len(slots) - 1)  # stale where the pair is not pooled
            liking[at[slots[at] == excluded]] = -np.inf


def _empty(users: int, items: int) -> Pool:
    nothing = np.zeros((users, 1), np.float32)
    return Pool(
        item=np.full((users, 1), NONE, np.int64),
        neighbour=[nothing] * KINDS,
        highest=[nothing[:, 0]] * KINDS,
        lag=np.full((users, 1), NEVER_TAKEN, np.int32),
        taken=nothing,
        entries=[],
        items=items,
    )


def _highest(scores: F32, start: Rows) -> F32:
    out = np.zeros(len(start) - 1, np.float32)
    some = np.flatnonzero(np.diff(start))
    if len(some):
        out[some] = np.maximum.reduceat(scores, start[:-1][some])
    return out


def _best(liking: F32, start: Rows, most: int) -> Rows:
    """(B, C) places of each user's most liked, in no order; -1 = none left."""
    size = np.diff(start)
    width = int(size.max(initial=1))
    place = start[:-1, None] + np.arange(width)
    inside = np.arange(width) < size[:, None]
    padded = np.where(inside, liking[np.minimum(place, len(liking) - 1)], np.float32(-np.inf))
    if width > most:
        place = np.take_along_axis(place, np.argpartition(padded, width - most, axis=1)[:, width - most :], 1)
        padded = liking[np.minimum(place, len(liking) - 1)]
        inside = place < (start[:-1] + size)[:, None]
    return np.where(inside & (padded > -np.inf), place, -1)
