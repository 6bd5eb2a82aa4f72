"""Which item goes with which: directed, sparse, forgetting counts under a budget.

An edge i → j holds what a user who took i tells about j, in four counts (columns). Edges lie sorted by (i, j) in one large
run and one small one of what is new, as in a log-structured merge tree (O'Neil et al. 1996): a batch is added by sort and
reduceat, a neighbour list is one slice of each run. Forgetting is forward decay (Cormode et al. 2009): a count enters with
the weight 2^((t - landmark) / half-life) and none has to be touched until the weights grow too large.

Axes: n additions, M edges, N items, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

_SHIFT = np.int64(32)
_LOW = np.int64(0xFFFFFFFF)
_RESCALE_AT = 60
"""Half-lives after which all weights are scaled down; powers of two, so nothing is lost."""
_FRESH_SHARE, _FRESH_LEAST = 16, 8192
"""The small run is merged into the large one when it holds a sixteenth of it."""


class Column(IntEnum):
    """What is counted on an edge i → j."""

    NEXT = 0
    """j was the very next item after i."""
    SOON = 1
    """j came a few items after i, discounted by how many."""
    TOGETHER = 2
    """i and j are in one window, whichever came first."""
    SESSION = 3
    """i and j are in one session."""


COLUMNS = len(Column)


@dataclass
class _Run:
    key: Rows = field(default_factory=lambda: np.zeros(0, np.int64))
    """(M,) i << 32 | j, rising"""
    weight: list[F32] = field(default_factory=lambda: [np.zeros(0, np.float32) for _ in Column])
    """C times (M,)"""

    def find(self, keys: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        at = np.searchsorted(self.key, keys)
        there = np.zeros(len(keys), np.bool_)
        inside = at < len(self.key)
        there[inside] = self.key[at[inside]] == keys[inside]
        return at, there

    def insert(self, keys: Rows, weight: list[F32]) -> None:
        """Keys that are not there yet, rising."""
        at = np.searchsorted(self.key, keys) + np.arange(len(keys))
        total = len(self.key) + len(keys)
        old = np.ones(total, np.bool_)
        old[at] = False
        self.key = _woven(self.key, keys, old, at)
        self.weight = [_woven(mine, new, old, at) for mine, new in zip(self.weight, weight, strict=True)]

    def keep(self, kept: NDArray[np.bool_]) -> None:
        self.key = self.key[kept]
        self.weight = [each[kept] for each in self.weight]

    def strength(self) -> F32:
        """(M,) by which an edge is weak or strong; what followed directly counts twice."""
        return self.weight[Column.TOGETHER] + self.weight[Column.NEXT]


def _woven(mine: NDArray, new: NDArray, old: NDArray[np.bool_], at: Rows) -> NDArray:  # type: ignore[type-arg]
    out = np.empty(len(old), mine.dtype)
    out[old] = mine
    out[at] = new
    return out


class Edges:
    """At most `budget` edges in all and `neighbours` of an item, up to what the small run adds before it is merged."""

    def __init__(self, half_life_ms: float, budget: int, neighbours: int) -> None:
        self.half_life_ms, self.budget, self.neighbours = half_life_ms, budget, neighbours
        self.landmark_ms: int | None = None
        self.mass = np.zeros(0, np.float64)
        """(N,) events of each item, scaled like the edges"""
        self._large, self._fresh = _Run(), _Run()
        self._start = np.zeros(1, np.int64)
        """(N + 1,) where each item's list starts in the large run"""
        self._target, self._strongest = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._large.key) + len(self._fresh.key)

    def scale(self, time_ms: Rows) -> NDArray[np.float64]:
        """Weights with which counts of one enter at these times (n,); moves the landmark when they grow too large."""
        if self.landmark_ms is None:
            self.landmark_ms = int(time_ms[0])
        exponent = (time_ms - self.landmark_ms) / self.half_life_ms
        highest = exponent.max(initial=0.0)
        if highest > _RESCALE_AT:
            steps = int(highest)
            self.landmark_ms += round(steps * self.half_life_ms)
            self.mass = np.ldexp(self.mass, -steps)
            for run in (self._large, self._fresh):
                run.weight = [np.ldexp(each, -steps) for each in run.weight]
            exponent = (time_ms - self.landmark_ms) / self.half_life_ms
        return np.exp2(np.maximum(exponent, -_RESCALE_AT))

    def one(self, time_ms: int) -> float:
        """What a count of one that entered at this time weighs; the landmark stays."""
        if self.landmark_ms is None:
            return 1.0
        return float(
            np.exp2(np.clip((time_ms - self.landmark_ms) / self.half_life_ms, -_RESCALE_AT, _RESCALE_AT))
        )

    def add_items(self, item: Rows, scale: NDArray[np.float64]) -> None:
        """Events (n,) and their scaled weights (n,)."""
        missing = int(item.max(initial=-1)) + 1 - len(self.mass)
        if missing > 0:
            self.mass = np.concatenate([self.mass, np.zeros(missing)])
        distinct, inverse = np.unique(item, return_inverse=True)
        self.mass[distinct] += np.bincount(inverse, scale, len(distinct))

    def add(self, source: Rows, target: Rows, weight: list[NDArray[np.float64]]) -> None:
        """Count edges source → target (n,), each also several times; C weights (n,), already scaled by `scale`."""
        key = (source << _SHIFT) | target
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        if not len(first):
            return
        key = key[first]
        sums = [np.add.reduceat(each[order], first).astype(np.float32) for each in weight]
        for run in (self._large, self._fresh):
            at, there = run.find(key)
            if there.any():
                for column, each in zip(run.weight, sums, strict=True):
                    column[at[there]] += each[there]
                missing = ~there
                key, sums = key[missing], [each[missing] for each in sums]
        self._fresh.insert(key, sums)
        if len(self._fresh.key) > max(_FRESH_LEAST, len(self._large.key) // _FRESH_SHARE):
            self.merge()

    def merge(self) -> None:
        """Bring both runs together, and within the budget."""
        self._large.insert(self._fresh.key, self._fresh.weight)
        self._fresh = _Run()
        before = len(self._large.key)
        self._shorten()
        if len(self._large.key) > self.budget:
            spared = max(self.budget - self.budget // 8, 1)
            strength = self._large.strength()
            edge = np.partition(strength, len(strength) - spared)[len(strength) - spared]
            kept = strength > edge
            ties = np.flatnonzero(strength == edge)
            kept[ties[: spared - int(kept.sum())]] = True
            self._large.keep(kept)
        self.evicted += before - len(self._large.key)
        self._index()

    def _index(self) -> None:
        """Where the lists of the large run lie, and each one's order by falling strength."""
        key = self._large.key
        self._start = self._starts()
        self._target = key & _LOW
        weakness = np.int64(0x7FFFFFFF) - self._large.strength().view(
            np.int32
        )  # floats >= 0 sort like their bits
        self._strongest = np.argsort((key & ~_LOW) | weakness, kind="stable")

    def _starts(self) -> Rows:
        source = self._large.key >> _SHIFT
        items = int(source[-1]) + 1 if len(source) else 0
        return np.searchsorted(source, np.arange(items + 1))

    def _shorten(self) -> None:
        start = self._starts()
        size = np.diff(start)
        long = np.flatnonzero(size > self.neighbours)
        if not len(long):
            return
        strength = self._large.strength()
        kept = np.ones(len(strength), np.bool_)
        spared = self.neighbours - self.neighbours // 8
        for item in long.tolist():
            mine = strength[start[item] : start[item + 1]]
            kept[start[item] + np.argpartition(mine, len(mine) - spared)[: len(mine) - spared]] = False
        self._large.keep(kept)

    def lists(self, items: Rows, most: Rows) -> Iterator[tuple[Rows, Rows, Rows, list[F32]]]:
        """The neighbour lists of `items` (R,), two times: how many of each (R,), and one after the other the neighbours (T,)
        and where (T,) in the C columns given last their weights lie, scaled as at the landmark. Of the older edges the `most`
        (R,) strongest, of new ones all.
        """
        known = np.minimum(items, len(self._start) - 1)
        start, end = self._start[known], self._start[np.minimum(known + 1, len(self._start) - 1)]
        size = np.minimum(end - start, most)
        place = self._strongest[_ranges(start, size)]
        yield size, self._target[place], place, self._large.weight
        start = np.searchsorted(self._fresh.key, items << _SHIFT)
        size = np.searchsorted(self._fresh.key, (items + 1) << _SHIFT) - start
        at = _ranges(start, size)
        yield size, self._fresh.key[at] & _LOW, at, self._fresh.weight

    def state(self) -> dict[str, Any]:
        """Merged: one array of keys and one per column."""
        self.merge()
        return {
            "landmark_ms": self.landmark_ms,
            "mass": self.mass.copy(),
            "key": self._large.key,
            "weight": np.stack(self._large.weight),
            "evicted": self.evicted,
        }

    def restore(self, state: dict[str, Any]) -> None:
        key, weight, mass = state["key"], state["weight"], state["mass"]
        landmark, evicted = state["landmark_ms"], state["evicted"]
        self.landmark_ms, self.evicted = landmark, evicted
        self.mass = mass.copy()
        self._large, self._fresh = _Run(key.copy(), [each.copy() for each in weight]), _Run()
        self._index()


def _ranges(start: Rows, size: Rows) -> Rows:
    """start[0], start[0] + 1, … (size[0] of them), start[1], …"""
    ends = np.cumsum(size)
    return np.repeat(start - (ends - size), size) + np.arange(int(ends[-1]) if len(ends) else 0)
