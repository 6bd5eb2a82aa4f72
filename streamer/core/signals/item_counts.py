"""What is known of each item alone: decayed popularity at several half-lives, first and last event.

Axes: n events, N items (growing), H half-lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
F64 = NDArray[np.float64]

_RESCALE_AT = 60
NEVER = np.iinfo(np.int64).min


class ItemCounts:
    """Forward decay per half-life (see edges.py); the order in which events come in does not matter."""

    def __init__(self, half_lives_ms: Sequence[float]) -> None:
        """`inf` counts without forgetting."""
        self.half_lives_ms = tuple(half_lives_ms)
        self.landmark_ms = [0] * len(self.half_lives_ms)
        self.count = np.zeros((len(self.half_lives_ms), 0), np.float64)
        """(H, N), scaled as at each landmark"""
        self.total = np.zeros(len(self.half_lives_ms))
        """(H,) sums of the rows"""
        self.first_ms = np.zeros(0, np.int64)
        """(N,) of the first event; NEVER without one"""
        self.last_ms = np.zeros(0, np.int64)
        self.events = 0

    def __len__(self) -> int:
        """N: items that have a row."""
        return len(self.first_ms)

    def grow(self, items: int) -> None:
        missing = items - len(self)
        if missing > 0:
            self.count = np.concatenate([self.count, np.zeros((len(self.count), missing))], axis=1)
            self.first_ms = np.concatenate([self.first_ms, np.full(missing, NEVER)])
            self.last_ms = np.concatenate([self.last_ms, np.full(missing, NEVER)])

    def add(self, item: Rows, weight: F64, time_ms: Rows) -> None:
        """Events (n,)."""
        if not len(item):
            return
        self.grow(int(item.max()) + 1)
        if not self.events:
            self.landmark_ms = [int(time_ms[0])] * len(self.half_lives_ms)
        distinct, inverse = np.unique(item, return_inverse=True)
        for h, half_life in enumerate(self.half_lives_ms):
            amounts = weight * self._scale(h, half_life, time_ms)
            self.count[h, distinct] += np.bincount(inverse, amounts, len(distinct))
            self.total[h] += amounts.sum()
        order = np.argsort(time_ms, kind="stable")
        last = np.full(len(distinct), NEVER)
        last[inverse[order]] = time_ms[order]
        first = np.full(len(distinct), NEVER)
        first[inverse[order[::-1]]] = time_ms[order[::-1]]
        mine = self.first_ms[distinct]
        self.first_ms[distinct] = np.where(mine == NEVER, first, np.minimum(mine, first))
        self.last_ms[distinct] = np.maximum(self.last_ms[distinct], last)
        self.events += len(item)

    def _scale(self, h: int, half_life_ms: float, time_ms: Rows) -> F64:
        if half_life_ms == np.inf:
            return np.ones(len(time_ms))
        exponent = (time_ms - self.landmark_ms[h]) / half_life_ms
        highest = exponent.max()
        if highest > _RESCALE_AT:
            steps = int(min(highest, 2000))
            self.landmark_ms[h] = int(self.landmark_ms[h] + int(highest) * half_life_ms)
            self.count[h] = np.ldexp(self.count[h], -steps)
            self.total[h] = np.ldexp(self.total[h], -steps)
            exponent = (time_ms - self.landmark_ms[h]) / half_life_ms
        return np.exp2(np.maximum(exponent, -1000))

    def shares(self) -> F64:
        """(H, N) shares of all events."""
        return self.count / np.maximum(self.total, 1e-300)[:, None]

    def state(self) -> dict[str, Any]:
        return {
            "landmark_ms": list(self.landmark_ms),
            "count": self.count.copy(),
            "total": self.total.copy(),
            "first_ms": self.first_ms.copy(),
            "last_ms": self.last_ms.copy(),
            "events": self.events,
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.copy() if isinstance(value, np.ndarray | list) else value)
