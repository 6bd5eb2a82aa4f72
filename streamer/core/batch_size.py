"""How many events make a batch while more are waiting than one takes.

What a batch costs beside its events are the users that it touches: each one's state is written and each one's lists are made and
sent once, however many of the events are theirs. So a worker that lags takes the more events at a time the fewer users they
are of, and makes fewer lists per event by itself. What is in memory at a time stays the same: it goes with the users.
"""

from __future__ import annotations

SMOOTHING = 0.3
"""What the newest batch counts in the average of users per event."""
FEWEST = 500
"""Events of the smallest limit."""


class BatchSize:
    """most_events: of a batch; half as many users, about."""

    def __init__(self, most_events: int) -> None:
        self.most_events, self._most_users = most_events, max(1, most_events // 2)
        self._average = self._newest = 1.0
        """Users per event."""

    def computed(self, events: int, users: int) -> None:
        """A batch of so many events touched so many users."""
        if events:
            self._newest = users / events
            self._average += SMOOTHING * (self._newest - self._average)

    @property
    def limit(self) -> int:
        """Events of the next batch at most: it may be like the newest or like the others, whichever touches more users."""
        users_per_event = max(self._average, self._newest)
        if users_per_event * self.most_events <= self._most_users:
            return self.most_events
        fitting = int(self._most_users / users_per_event)
        return min(self.most_events, max(FEWEST, fitting))
