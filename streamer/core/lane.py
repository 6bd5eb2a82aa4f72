"""Runs of one partition in delivery order, and what of them may be committed.

Faust marks every skipped offset as done, the run's own included, so a later run that finishes first would commit past an
unfinished earlier one (faust/transport/consumer.py, `_add_gap`). A lane keeps the runs themselves instead: only the end of
the *done prefix* may be committed. It also judges what was fetched by its offsets, not by when it was asked for, since a
poll that spans a rebalance may be answered after the seek.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field


@dataclass(eq=False)
class Span:
    """Offsets `first`..`last` (inclusive) of one delivered run."""

    first: int
    last: int
    done: bool = False


class Verdict(enum.Enum):
    """What to do with fetched records."""

    TAKE = enum.auto()
    """They go on where the lane stands (older ones cut off)."""
    STALE = enum.auto()
    """All of them were delivered before: drop."""
    REFETCH = enum.auto()
    """There is a hole before them: seek back to `lane.expected` and fetch again."""


@dataclass(eq=False)
class Lane:
    """Delivery order of one partition in one consumer generation.

    A new object after every revoke or seek, so a run that finishes late marks an object that nobody reads any more.
    """

    generation: int
    expected: int
    """Offset at which the next record must be."""
    spans: deque[Span] = field(default_factory=deque)
    committable: int | None = None
    """The next offset to read after everything that is done; None while nothing is."""
    _refetched: int | None = None
    log_gaps: int = 0
    """Holes found twice: the log itself has none of these offsets (transaction markers, retention)."""

    def judge(self, first: int, last: int) -> Verdict:
        """Judge a fetch of records `first`..`last`; a hole seen twice at the same place is a hole of the log itself."""
        if last < self.expected:
            return Verdict.STALE
        if first > self.expected:
            if self._refetched != self.expected:
                self._refetched = self.expected
                return Verdict.REFETCH
            self.log_gaps += 1
        return Verdict.TAKE

    def deliver(self, first: int, last: int) -> Span:
        """Append a run; `first` must not lie before `expected`."""
        if first < self.expected or last < first:
            raise ValueError(f"run {first}..{last} does not follow offset {self.expected - 1}")
        span = Span(first, last)
        self.spans.append(span)
        self.expected = last + 1
        return span

    def complete(self, span: Span) -> None:
        """Mark a run done and move `committable` over the done prefix."""
        span.done = True
        while self.spans and self.spans[0].done:
            self.committable = self.spans.popleft().last + 1
