"""What the signals keep, and how they forget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HALF_LIVES_EVENTS = (10.0, 300.0, 10_000.0)
"""Of popularity, in events of the whole log at its average rate."""
EDGE_HALF_LIFE_EVENTS = 200_000.0
HIDDEN = 16
"""ReLU units of the blend."""


@dataclass(frozen=True, slots=True)
class SignalOptions:
    """One setting for every log; only the clocks differ (`for_log`)."""

    half_lives_ms: tuple[float, ...]
    """Of decayed popularity, shortest first, in event time. Beside them popularity without forgetting is kept."""
    edge_half_life_ms: float
    """Of neighbour counts, in event time."""
    tick_ms: float
    """Average time between two events of the log: ages and idle times are told in it."""
    repeats: bool
    """Whether a user may be recommended what it took before."""
    edge_budget: int = 2_000_000
    """Directed edges kept at most, over all items; the weakest go first. About 30 bytes each."""
    neighbours: int = 512
    """Of an item at most."""
    recent: int = 20
    """A user's last items from which pairs are counted and neighbours are looked up."""
    lists: tuple[int, ...] = (512, 512, 512, 512, 512, 64)
    """How many of the strongest neighbours are looked at, of the last item, the one before, …; the last number for all older."""
    remembered: int = 100
    """A user's last items that are repeat candidates."""
    session_gap_ms: int = 30 * 60 * 1000
    """A longer pause ends a session."""
    pool: int = 256
    """Personal candidates of a list, beside those that are the same for everyone."""
    shared: int = 100
    """The most popular items at each half-life that are candidates for everyone, and so many newest ones."""
    hidden: int = HIDDEN
    learning_rate: float = 0.003
    replayed: int = 4_096
    """Judged events kept for further learning."""
    steps_per_event: float = 0.25
    """Steps of the blend, on 32 random kept events each, for every judged event: each is learned from 8 times."""
    seed: int = 0

    @classmethod
    def for_log(
        cls, time_ms: NDArray[np.int64], *, repeats: bool, edge_budget: int = 2_000_000
    ) -> SignalOptions:
        """Clocks of a log whose events have these times (n,), n >= 1: a half-life of h events is h average intervals."""
        if not len(time_ms):
            raise ValueError("no event: the clocks of the signals are set by the times of a training log")
        tick = max((float(time_ms.max()) - float(time_ms.min())) / len(time_ms), 1.0)
        return cls.of_tick(tick, repeats=repeats, edge_budget=edge_budget)

    @classmethod
    def of_tick(cls, tick_ms: float, *, repeats: bool, edge_budget: int = 2_000_000) -> SignalOptions:
        """Clocks of a log whose events are so far apart on average."""
        return cls(
            half_lives_ms=tuple(h * tick_ms for h in HALF_LIVES_EVENTS),
            edge_half_life_ms=EDGE_HALF_LIFE_EVENTS * tick_ms,
            tick_ms=tick_ms,
            repeats=repeats,
            edge_budget=edge_budget,
        )
