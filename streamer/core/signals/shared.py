"""The counts that all workers share: rows of the whole stream, each counted once, and items by hash.

Clocks are set by the first `WARM_ROWS` events; until then nothing is ready.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.options import SignalOptions
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.signals import Signals
from streamer.core.signals.weights import Published, restore_learner

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]

WARM_ROWS = 1_000


class ItemNumbers:
    """Item hashes → rows 0..N-1 in the order in which they came."""

    def __init__(self) -> None:
        self.hashes = np.zeros(0, np.uint64)
        """(N,) of each row"""
        self._sorted, self._row = np.zeros(0, np.uint64), np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.hashes)

    def rows(self, hashes: Hashes) -> Rows:
        """Any shape; NONE for unknown ones and for 0."""
        if not len(self._sorted):
            return np.full(hashes.shape, NONE, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        return np.where(self._sorted[at] == hashes, self._row[at], NONE)

    def add(self, hashes: Hashes) -> None:
        """Number those that have no row yet (n,); 0 never has one."""
        new = np.setdiff1d(hashes[hashes != 0], self._sorted)
        if len(new):
            self.hashes = np.concatenate([self.hashes, new])
            order = np.argsort(self.hashes, kind="stable")
            self._sorted, self._row = self.hashes[order], order


class SharedSignals:
    """Fed with the records of every partition; not for use by several threads at a time."""

    def __init__(self, *, edge_budget: int = 2_000_000) -> None:
        self.numbers = ItemNumbers()
        self.signals: Signals | None = None
        self.applied: dict[int, int] = {}
        """By source partition, the highest offset that is counted."""
        self.repeated = 0
        """Rows that came again."""
        self._edge_budget = edge_budget
        self._early: list[SignalRows] = []
        self.published: Published | None = None
        """The weights that serve"""
        self._learner: bytes | None = None

    @property
    def ready(self) -> bool:
        """Whether there is enough to blend with: counts, and weights that somebody learned."""
        return self.signals is not None and self.published is not None

    def absorb(self, partition: int, rows: SignalRows) -> int:
        """Count the rows of a source partition that are not counted yet; how many those were."""
        fresh = np.flatnonzero(rows.offset > self.applied.get(partition, -1))
        self.repeated += len(rows) - len(fresh)
        if not len(fresh):
            return 0
        rows = rows.take(fresh)
        self.applied[partition] = int(rows.offset.max())
        if self.signals is None:
            self._early.append(rows)
            if sum(map(len, self._early)) >= WARM_ROWS:
                self._begin(SignalRows.join(self._early))
        else:
            self._count(self.signals, rows)
        return len(fresh)

    def _begin(self, rows: SignalRows) -> None:
        self._early = []
        # Whether a repeat is allowed is said with each list, by what is excluded.
        options = SignalOptions.for_log(rows.time_ms, repeats=True, edge_budget=self._edge_budget)
        self.signals = Signals(replace(options, recent=PAST))
        if self._learner is not None:
            restore_learner(self.signals.blend, self._learner)
        if self.published is not None:
            self.serve(self.published)
        self._count(self.signals, rows)

    def _count(self, signals: Signals, rows: SignalRows) -> None:
        self.numbers.add(rows.item)
        past = self.numbers.rows(rows.past)  # a past item is older than the row, and was counted or will be
        context = Contexts(past, np.zeros_like(past), rows.time_ms, (past != NONE).sum(axis=1))
        signals.absorb(
            context,
            self.numbers.rows(rows.item),
            rows.weight.astype(np.float64),
            rows.time_ms,
            session=rows.session,
        )

    def serve(self, published: Published) -> None:
        """Make lists with these weights; also before there is anything to count with."""
        self.published = published
        if self.signals is not None:
            self.signals.blend.serve(published.weights)
            self.signals.safeguard.serving = published.alone

    def go_on_from(self, learner: bytes) -> None:
        """Learn from where another worker stopped. Raises ValueError when the bytes do not fit."""
        self._learner = learner
        if self.signals is not None:
            restore_learner(self.signals.blend, learner)
