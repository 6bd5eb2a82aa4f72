"""How far apart batches should start, so that few events do not cost as much as many.

A batch costs the same milliseconds for one event as for fifty. Started as soon as an event is there, batches of a few events
keep a worker busy that could serve twenty times as many. So at low load the next one starts when the last one's processor
time is over `1 / share` times; under load, batches take longer than the longest pause and the pace plays no part.
"""

from __future__ import annotations

SMOOTHING = 0.2
"""What the newest batch's cost counts in the average."""


class Pace:
    """most_s: the longest pause between two starts. share: of the time that batches may cost, at low load."""

    def __init__(self, most_s: float, share: float = 0.5) -> None:
        self._most_s, self._share = most_s, share
        self._started_s, self._spent_s = float("-inf"), 0.0
        self._cost_s = 0.0
        self.interval_s = 0.0
        """From one start to the next."""

    def start(self, now_s: float, spent_s: float) -> None:
        """A batch starts. now_s: a monotonic clock. spent_s: the process's processor time so far."""
        if self._started_s > float("-inf"):
            cost_s = min(spent_s - self._spent_s, self._most_s)
            self._cost_s += SMOOTHING * (cost_s - self._cost_s)
        self._started_s, self._spent_s = now_s, spent_s
        self.interval_s = min(self._most_s, self._cost_s / self._share)

    def wait_s(self, now_s: float) -> float:
        """How long the next batch should still wait."""
        return max(0.0, self._started_s + self.interval_s - now_s)
