"""Which item goes with which: directed, sparse, forgetting counts under a budget.

An edge i → j holds what a user who took i tells about j, in four counts (columns). The edges of an item lie one after the other,
so that reading a neighbour list is reading on, and its strongest come first (edge_kernels.py). Forgetting is forward decay
(Cormode et al. 2009): a count enters with the weight 2^((t - landmark) / half-life) and none has to be touched until the weights
grow too large. What is kept depends on the order of the events alone, not on how they are cut into batches.

Axes: n events, W past items, N items, M edges, A entries of the arena, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals import edge_kernels as kernels
from streamer.core.signals.pool_kernels import SOON_DISCOUNT

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_RESCALE_AT = 60
"""Half-lives after which all weights are scaled down; powers of two, so nothing is lost."""
_ROOMS = 32


class Column(IntEnum):
    """What is counted on an edge i → j."""

    NEXT = kernels.NEXT
    """j was the very next item after i."""
    SOON = kernels.SOON
    """j came a few items after i, discounted by how many."""
    TOGETHER = kernels.TOGETHER
    """i and j are in one window, whichever came first."""
    SESSION = kernels.SESSION
    """i and j are in one session."""


COLUMNS = len(Column)


class Edges:
    """At most `budget` edges in all and `neighbours` (2 or more) of an item; an eighth of them gives way at a time.

    An edge is as strong as it was seen together, and what followed directly counts twice. strongest: at each of these lengths
    the beginning of a list holds its strongest edges.
    """

    def __init__(
        self, half_life_ms: float, budget: int, neighbours: int, strongest: Sequence[int] = ()
    ) -> None:
        self.half_life_ms, self.budget, self.neighbours = half_life_ms, budget, max(neighbours, 2)
        self.landmark_ms: int | None = None
        self.bounds = np.array(sorted({each for each in strongest if 0 < each < neighbours}), np.int64)
        self.mass = np.zeros(0, np.float64)
        """(N,) events of each item, scaled like the edges"""
        self.root = np.zeros(0, np.float32)
        """(N,) square roots of the masses"""
        self.start, self.size = np.zeros(0, np.int64), np.zeros(0, np.int32)
        """(N,) where the list of each item begins in the arena, and how long it is"""
        self._room = np.zeros(0, np.int32)
        self.target, self.weight = np.zeros(0, np.int32), np.zeros((0, COLUMNS), np.float32)
        """(A,) and (A, C) of the arena"""
        self._left = np.full(_ROOMS, kernels.NONE, np.int64)
        self._tally = np.zeros(3, np.int64)

    def __len__(self) -> int:
        return int(self._tally[kernels.EDGES])

    @property
    def evicted(self) -> int:
        """Edges that gave way so far."""
        return int(self._tally[kernels.EVICTED])

    def of(self, item: int) -> tuple[NDArray[np.int32], F32]:
        """The neighbours of an item (m,), and the weights (m, C) of its edges to them, scaled as at the landmark."""
        if item >= len(self.size):
            return self.target[:0], self.weight[:0]
        mine = slice(self.start[item], self.start[item] + self.size[item])
        return self.target[mine], self.weight[mine]

    def scale(self, time_ms: Rows) -> F64:
        """Weights with which counts of one enter at these times (n,); moves the landmark when they grow too large."""
        if self.landmark_ms is None:
            self.landmark_ms = int(time_ms[0])
        exponent = (time_ms - self.landmark_ms) / self.half_life_ms
        highest = exponent.max(initial=0.0)
        if highest > _RESCALE_AT:
            steps = int(highest)
            self.landmark_ms += round(steps * self.half_life_ms)
            self.mass = np.ldexp(self.mass, -steps)
            self.root = np.sqrt(self.mass).astype(np.float32)
            np.ldexp(self.weight, -steps, out=self.weight)
            exponent = (time_ms - self.landmark_ms) / self.half_life_ms
        return np.exp2(np.maximum(exponent, -_RESCALE_AT))

    def ones(self, time_ms: Rows) -> F64:
        """(n,) what a count of one that entered at each time would weigh; the landmark stays."""
        if self.landmark_ms is None:
            return np.ones(len(time_ms))
        exponent = (time_ms - self.landmark_ms) / self.half_life_ms
        return np.exp2(np.clip(exponent, -_RESCALE_AT, _RESCALE_AT))

    def forget_at(self, half_life_ms: float, now_ms: int) -> None:
        """Forget with another half-life from now on; what has been forgotten by then stays forgotten."""
        if self.landmark_ms is not None:
            passed = max(now_ms - self.landmark_ms, 0) / self.half_life_ms
            self.mass *= np.exp2(-passed)
            self.root = np.sqrt(self.mass).astype(np.float32)
            self.weight *= np.float32(np.exp2(-passed))
            self.landmark_ms = max(self.landmark_ms, now_ms)
        self.half_life_ms = half_life_ms

    def grow(self, items: int) -> None:
        """Rows for so many items."""
        missing = items - len(self.size)
        if missing > 0:
            missing = max(missing, len(self.size) // 2)
            self.mass = np.append(self.mass, np.zeros(missing))
            self.root = np.append(self.root, np.zeros(missing, np.float32))
            self.start = np.append(self.start, np.zeros(missing, np.int64))
            self.size = np.append(self.size, np.zeros(missing, np.int32))
            self._room = np.append(self._room, np.zeros(missing, np.int32))

    def add(self, past: Rows, item: Rows, scale: F64, session: Rows) -> None:
        """Count events (n,) and their pairs with what came before each: past (n, W), newest first; scale (n,): weights scaled by
        `scale`; session (n,): how many of the last items belong to the event's session.
        """
        self.grow(max(int(item.max(initial=-1)), int(past.max(initial=-1))) + 1)
        np.add.at(self.mass, item, scale)
        self.root[item] = np.sqrt(self.mass[item])
        past = np.ascontiguousarray(past)
        discount: F64 = np.power(SOON_DISCOUNT, np.arange(past.shape[1]))
        begin = 0
        while True:
            begin = kernels.count_pairs(
                begin,
                past,
                item,
                scale,
                session,
                discount,
                self.budget,
                self.bounds,
                self.neighbours,
                self.target,
                self.weight,
                self.start,
                self.size,
                self._room,
                self._left,
                self._tally,
            )
            if len(self) > self.budget:
                self._evict()
            elif begin < len(item):
                self._enlarge(2 * (past.shape[1] + 1) * (2 * self.neighbours + kernels.SMALLEST))
            if begin == len(item):
                return

    def _enlarge(self, reserve: int) -> None:
        """Room for another event; what lists left when they moved is collected first."""
        if 4 * int(self._room.sum()) < 3 * int(self._tally[kernels.USED]):
            self._repack(np.ones(len(self.target), np.bool_))
        more = max(
            int(self._tally[kernels.USED]) // 4 - (len(self.target) - int(self._tally[kernels.USED])), reserve
        )
        self.target = np.append(self.target, np.zeros(more, np.int32))
        self.weight = np.concatenate([self.weight, np.zeros((more, COLUMNS), np.float32)])

    def _evict(self) -> None:
        """Keep seven eighths of the budget, the strongest."""
        before, spared = len(self), max(self.budget - self.budget // 8, 1)
        used = np.zeros(len(self.target) + 1, np.int8)
        np.add.at(used, self.start, (self.size > 0).astype(np.int8))
        np.add.at(used, self.start + self.size, -(self.size > 0).astype(np.int8))
        inside = np.cumsum(used[:-1], dtype=np.int8) > 0
        strength = self.weight[:, Column.TOGETHER] + self.weight[:, Column.NEXT]
        strength[~inside] = -1
        edge = np.partition(strength, len(strength) - spared)[len(strength) - spared]
        kept = strength > edge
        ties, room = np.flatnonzero(strength == edge), spared - int(kept.sum())
        if room < len(ties):  # by item, not by where its list happens to lie
            listed = np.flatnonzero(self.size)
            listed = listed[np.argsort(self.start[listed])]
            whose = listed[np.searchsorted(self.start[listed], ties, side="right") - 1]
            ties = ties[np.argsort(whose, kind="stable")]
        kept[ties[:room]] = True
        self._repack(kept)
        self._tally[kernels.EVICTED] += before - len(self)

    def _repack(self, kept: NDArray[np.bool_]) -> None:
        ends = np.append(0, np.cumsum(kept))
        left = ends[self.start + self.size] - ends[self.start]
        wide = np.where(left > 0, kernels.SMALLEST, 0)
        while (short := (wide < left) & (wide > 0)).any():
            wide[short] *= 2
        entries = int(wide.sum())
        target, weight = np.zeros(entries, np.int32), np.zeros((entries, COLUMNS), np.float32)
        self._tally[kernels.USED] = kernels.repacked(
            kept, wide, self.target, self.weight, self.start, self.size, self._room, target, weight
        )
        self.target, self.weight = target, weight
        self._left[:] = kernels.NONE
        self._tally[kernels.EDGES] = int(left.sum())

    def state(self) -> dict[str, Any]:
        """Copies: of each item its mass and how many edges it has (N,), of all edges one list after the other, each in its order,
        the target (M,) and the weights (M, C).
        """
        items = int(np.flatnonzero(self.mass + self.size).max(initial=-1)) + 1
        size = self.size[:items].copy()
        edges = int(size.sum())
        target, weight = np.empty(edges, np.int32), np.empty((edges, COLUMNS), np.float32)
        kernels.gathered(self.start, size, self.target, self.weight, target, weight)
        return {
            "landmark_ms": self.landmark_ms,
            "mass": self.mass[:items].copy(),
            "size": size,
            "target": target,
            "weight": weight,
            "evicted": self.evicted,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, whose arrays are taken over. Raises ValueError where its edges have other columns."""
        if state["weight"].shape[1:] != (COLUMNS,):
            raise ValueError(f"edges have weights of shape {state['weight'].shape}, wanted (M, {COLUMNS})")
        self.landmark_ms, self.mass = state["landmark_ms"], state["mass"]
        self.root = np.sqrt(self.mass).astype(np.float32)
        self.size, self.target, self.weight = state["size"], state["target"], state["weight"]
        self.start = np.append(0, np.cumsum(self.size))[:-1].astype(np.int64)
        self._room = np.zeros(len(self.mass), np.int32)
        self._tally[kernels.EVICTED] = state["evicted"]
        self._repack(np.ones(len(self.target), np.bool_))
