"""Events sorted by user: where each user's run of events lies, so that what needs no order is done for all at once.

Axes: n events, U users that have any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """order (n,): the events by user, each user's in source order; starts, lengths, users (U,) of the runs in it."""

    order: Rows
    starts: Rows
    lengths: Rows
    users: Rows

    @classmethod
    def of(cls, user: Rows) -> Runs:
        """Of the events' users (n,)."""
        order = np.argsort(user, kind="stable")
        ordered = user[order]
        new = np.ones(len(user), np.bool_)
        new[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(new)
        return cls(order, starts, np.diff(starts, append=len(user)), ordered[starts])

    @property
    def bounds(self) -> Rows:
        """(U + 1,): where the runs start, and where the last one ends."""
        return np.append(self.starts, len(self.order))

    def before(self, first: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The value before each event (n,): the event's before in its run, at the beginning the run's `first` (U,)."""
        shifted = np.empty_like(values)
        shifted[1:] = values[:-1]
        shifted[self.starts] = first
        return shifted

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """As many users as all have T further events, and where these lie in the runs' order (T, n).

        Users come by falling length (see `by_length`), so those of each block are a prefix of theirs, and every event is in
        one block.
        """
        starts = self.starts[self.by_length()]
        lengths, users = np.unique(self.lengths, return_counts=True)
        done, n = 0, len(starts)
        for length, ending in zip(lengths.tolist(), users.tolist(), strict=True):
            yield n, starts[:n] + np.arange(done, length)[:, None]
            done, n = length, n - ending

    def by_length(self) -> Rows:
        """Runs (U,) by falling length, of equal ones the first."""
        return np.argsort(-self.lengths, kind="stable")
