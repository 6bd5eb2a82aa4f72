"""What users did: the last items of each, and of a batch of events what came before each of them.

Axes: n events, W remembered items of a user, newest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.context_kernels import sessions

Rows = NDArray[np.int64]
NONE = -1


@dataclass(frozen=True, slots=True)
class Contexts:
    """Of n users (or one user n times) what is known when a list is made."""

    item: Rows
    """(n, W) item rows of the last events, newest first, NONE where there are fewer."""
    time_ms: Rows
    """(n, W) of those events; anything where there is none."""
    now_ms: Rows
    """(n,) event time of the list: the stream's clock."""
    length: Rows
    """(n,) events of the user so far, also those no longer remembered."""

    def __len__(self) -> int:
        return len(self.item)

    def take(self, at: Rows | slice) -> Contexts:
        return Contexts(self.item[at], self.time_ms[at], self.now_ms[at], self.length[at])

    def plain(self) -> Contexts:
        """As kernels take them: contiguous, and not read-only."""
        fields = self.item, self.time_ms, self.now_ms, self.length
        if all(
            each.flags.c_contiguous and each.flags.writeable and each.dtype == np.int64 for each in fields
        ):
            return self
        return Contexts(*(np.require(each, np.int64, ["C", "W"]) for each in fields))

    def session(self, gap_ms: int) -> Rows:
        """(n,) how many of the last items belong to the session that is still going on: no pause longer than `gap_ms`."""
        length = np.zeros(len(self), np.int64)
        plain = self.plain()
        sessions(plain.item, plain.time_ms, plain.now_ms, gap_ms, length)
        return length


class Histories:
    """The last W items of every user, users being rows 0..U-1 of the caller's, growing numbering."""

    def __init__(self, remembered: int) -> None:
        self.remembered = remembered
        self._item = np.full((0, remembered), NONE, np.int64)
        self._time = np.zeros((0, remembered), np.int64)
        self._length = np.zeros(0, np.int64)

    def of(self, users: Rows, now_ms: Rows) -> Contexts:
        """As things stand: users (n,), the clock (n,)."""
        self._grow(users)
        return Contexts(self._item[users], self._time[users], now_ms, self._length[users])

    def before(self, user: Rows, time_ms: Rows, item: Rows, now_ms: Rows | None = None) -> Contexts:
        """What each user did before its event, for a batch in stream order (n,); nothing is added.

        Also earlier events of the same batch count. now_ms: the clock when the list was made, by default the event's time.
        """
        self._grow(user)
        order, place, start, _ = _grouped(user)
        lag = np.arange(self.remembered)
        inside = place[:, None] - 1 - lag  # (n, W), place in the batch of the user's previous events
        at = order[np.maximum(start[:, None] + inside, 0)]
        stored = np.clip(-1 - inside, 0, self.remembered - 1)
        within, who = inside >= 0, user[order][:, None]
        items = np.where(within, item[at], self._item[who, stored])
        times = np.where(within, time_ms[at], self._time[who, stored])
        back = np.empty(len(user), np.int64)
        back[order] = np.arange(len(user))
        length = self._length[user[order]] + place
        clock = time_ms if now_ms is None else now_ms
        return Contexts(items[back], times[back], clock, length[back])

    def add(self, user: Rows, item: Rows, time_ms: Rows) -> None:
        """A batch in stream order (n,)."""
        if not len(user):
            return
        self._grow(user)
        order, place, _, size = _grouped(user)
        last = order[place == size - 1]
        after = self.before(
            np.append(user, user[last]), np.append(time_ms, time_ms[last]), np.append(item, item[last])
        ).take(slice(len(user), None))
        who = user[last]
        self._item[who], self._time[who], self._length[who] = after.item, after.time_ms, after.length

    def _grow(self, user: Rows) -> None:
        missing = int(user.max(initial=-1)) + 1 - len(self._length)
        if missing > 0:
            missing = max(missing, len(self._length))
            self._item = np.concatenate([self._item, np.full((missing, self.remembered), NONE, np.int64)])
            self._time = np.concatenate([self._time, np.zeros((missing, self.remembered), np.int64)])
            self._length = np.concatenate([self._length, np.zeros(missing, np.int64)])


def _grouped(user: Rows) -> tuple[Rows, Rows, Rows, Rows]:
    """Places of the events by user, in stream order; then each one's number in its group, the group's start and size."""
    order = np.argsort(user, kind="stable")
    first = np.flatnonzero(np.diff(user[order], prepend=-1))
    size = np.diff(np.append(first, len(user)))
    start = np.repeat(first, size)
    return order, np.arange(len(user)) - start, start, np.repeat(size, size)
