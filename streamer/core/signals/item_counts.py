"""What is known of each item alone: decayed popularity at several half-lives, first and last event.

Axes: n events, N items (growing), H half-lives, L leaders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.count_kernels import NEVER, NOBODY, count_events, lead

Rows = NDArray[np.int64]
F64 = NDArray[np.float64]

__all__ = ["NEVER", "ItemCounts"]


class ItemCounts:
    """Forward decay per half-life (see edges.py); the order in which events come in does not matter."""

    def __init__(self, half_lives_ms: Sequence[float], leaders: int = 0) -> None:
        """`inf` counts without forgetting. leaders: how many of the most counted items of each half-life are kept track of,
        and half as many of the newest.
        """
        self.half_lives_ms = np.array(half_lives_ms, np.float64)
        halves = len(self.half_lives_ms)
        self.landmark_ms = np.zeros(halves, np.int64)
        self.total = np.zeros(halves)
        """(H,) sums of the counts"""
        self.top = np.zeros(halves)
        """(H,) the highest of them"""
        self.events = 0
        self._items = 0
        self.by_item = np.zeros((0, halves))
        """(≥ N, H) counts, scaled as at each landmark"""
        self.times = np.full((2, 0), NEVER)
        """(2, ≥ N) of the first and of the last event; NEVER without one"""
        self._leads = np.zeros((0, halves + 1), np.bool_)
        self._leaders = np.full((halves, leaders), NOBODY, np.int64)
        self._newest = np.full(leaders // 2, NOBODY, np.int64)
        self._leading: Rows | None = None

    def __len__(self) -> int:
        """N: items that have a row."""
        return self._items

    @property
    def count(self) -> F64:
        """(H, N), scaled as at each landmark"""
        return self.by_item[: self._items].T

    @property
    def first_ms(self) -> Rows:
        """(N,) of the first event; NEVER without one"""
        return self.times[0, : self._items]

    @property
    def last_ms(self) -> Rows:
        """(N,) of the last event"""
        return self.times[1, : self._items]

    def grow(self, items: int) -> None:
        room = len(self.by_item)
        if items > room:
            missing = max(items, room + room // 2) - room
            self.by_item = np.concatenate([self.by_item, np.zeros((missing, self.by_item.shape[1]))])
            self.times = np.concatenate([self.times, np.full((2, missing), NEVER)], axis=1)
            self._leads = np.concatenate([self._leads, np.zeros((missing, self._leads.shape[1]), np.bool_)])
        self._items = max(self._items, items)

    def add(self, item: Rows, weight: F64, time_ms: Rows) -> None:
        """Events (n,)."""
        if not len(item):
            return
        self.grow(int(item.max()) + 1)
        if not self.events:
            self.landmark_ms[:] = time_ms[0]
        older = count_events(
            item,
            weight,
            time_ms,
            self.half_lives_ms,
            self.landmark_ms,
            self.by_item,
            self.total,
            self.top,
            self.times,
        )
        if older:
            self._forget_newest()
        lead(item, self.by_item, self._leads, self._leaders, self._newest, self.times)
        self._leading = None
        self.events += len(item)

    def forget_at(self, half_lives_ms: Sequence[float], now_ms: int) -> None:
        """Forget with other half-lives (H,) from now on; what has been forgotten by then stays forgotten."""
        passed = np.maximum(now_ms - self.landmark_ms, 0) / self.half_lives_ms
        for each in (self.by_item, self.total, self.top):
            each *= np.exp2(-passed)
        self.half_lives_ms = np.array(half_lives_ms, np.float64)
        self.landmark_ms = np.maximum(self.landmark_ms, now_ms)

    def leading(self) -> Rows:
        """(G,) the most counted items of each half-life and the newest ones, rising."""
        if self._leading is None:
            found = np.concatenate([self._leaders.ravel(), self._newest])
            self._leading = np.unique(found[found != NOBODY])
        return self._leading

    def _forget_newest(self) -> None:
        """Find the newest anew: one of them may have become older."""
        self._newest[:] = NOBODY
        self._leads[:, -1] = False
        seen = np.flatnonzero(self.first_ms != NEVER)
        newest = seen[np.argsort(-self.first_ms[seen], kind="stable")[: len(self._newest)]]
        self._newest[: len(newest)] = newest
        self._leads[newest, -1] = True

    def shares(self) -> F64:
        """(H, N) shares of all events."""
        return self.count / np.maximum(self.total, 1e-300)[:, None]

    def state(self) -> dict[str, Any]:
        """Copies. Who leads is kept, too: of equally counted items it depends on who came first."""
        return {
            "landmark_ms": self.landmark_ms.copy(),
            "count": self.by_item[: self._items].copy(),
            "total": self.total.copy(),
            "top": self.top.copy(),
            "first_ms": self.first_ms.copy(),
            "last_ms": self.last_ms.copy(),
            "leaders": self._leaders.copy(),
            "newest": self._newest.copy(),
            "events": self.events,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, whose arrays are taken over. Raises ValueError where it keeps track of other leaders."""
        for name, mine in (("total", self.total), ("leaders", self._leaders), ("newest", self._newest)):
            if state[name].shape != mine.shape:
                raise ValueError(f"{name} of the counts has shape {state[name].shape}, wanted {mine.shape}")
        self.landmark_ms, self.total, self.top = state["landmark_ms"], state["total"], state["top"]
        self.by_item, self.times = state["count"], np.stack([state["first_ms"], state["last_ms"]])
        self.events, self._items = state["events"], len(self.by_item)
        self._leaders, self._newest = state["leaders"], state["newest"]
        self._leads = np.zeros((self._items, len(self.total) + 1), np.bool_)
        for at, each in enumerate((*self._leaders, self._newest)):
            self._leads[each[each != NOBODY], at] = True
        self._leading = None
