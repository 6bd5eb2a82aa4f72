"""Events sorted by user: where each user's run of events lies, so that what needs no order is done for all at once.

Axes: n events, U users that have any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

_TIME_BITS = 43
"""Times are below 2^43 ms (the year 2248), so a run's number fits above them."""


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

    def any(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(U,): whether one of the run's events has the flag (n,), given in the runs' order."""
        return np.logical_or.reduceat(flags, self.starts) if len(flags) else np.zeros(0, np.bool_)

    def before(self, first: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The value before each event (n,): the event's before in its run, at the beginning the run's `first` (U,)."""
        shifted = np.empty_like(values)
        shifted[1:] = values[:-1]
        shifted[self.starts] = first
        return shifted

    def highest_before(self, first: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The highest time (n,) before each event in its run, the run's `first` (U,) counted in; none below 0."""
        number = np.repeat(np.arange(len(self.starts)), self.lengths) << _TIME_BITS
        highest = np.maximum.accumulate(number + self.before(first, times).clip(0))
        result: NDArray[np.int64] = highest - number
        return result

    def rounds(self) -> Iterator[tuple[int, Rows]]:
        """How many users' runs have an r-th event, and where it lies in the runs' order: users by falling length (see
        `by_length`), so the users of every round are a prefix of theirs.
        """
        starts = self.starts[self.by_length()]
        falling = np.sort(self.lengths)[::-1]
        for r in range(int(self.lengths.max(initial=0))):
            n = int(np.searchsorted(-falling, -r, side="left"))
            yield n, starts[:n] + r

    def by_length(self) -> Rows:
        """Runs (U,) by falling length, of equal ones the first."""
        return np.argsort(-self.lengths, kind="stable")
