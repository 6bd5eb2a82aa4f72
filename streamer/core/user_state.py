"""The states of a batch of users, as arrays: load them, absorb events, take what changed.

Each user's events are applied one by one in their order, by kernels. How a history is cut into batches therefore leaves no
trace in the records, and an offset that was applied before changes nothing.

Axes: U users of the batch, n users of a round or a question, given as rows into the batch.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.core import interests
from streamer.core.absorb_kernels import CURSOR, EVENT
from streamer.core.columns import EventColumns
from streamer.core.event_types import EventTypes
from streamer.core.interests import Decay
from streamer.core.rolling_counts import RollingCounts
from streamer.core.runs import Rows, Runs
from streamer.core.seen import SeenChunks, stored_chunks
from streamer.core.state_records import ENTRY, applied, decode_heads, head_key, segment_slots
from streamer.core.state_view import StateView
from streamer.core.stored import LookedUp, Read, Stored, read_chunks, read_segments
from streamer.core.window import BehaviourWindows, stored_segments

__all__ = ["ENTRY", "Outcome", "StateView", "UserStates", "applied", "head_key"]

HOUR_MS = 3_600_000


class Outcome(enum.IntEnum):
    """What became of an event."""

    APPLIED = 0
    REPLAYED = 1
    """Its offset was applied before: nothing changed."""
    LATE = 2
    """Behind the user's watermark by more than the grace: counted, kept out."""
    DUPLICATE = 3
    """Its event id is in the user's window: counted, kept out."""
    REFRESH = 4
    """No event but a request for a fresh list: the revision rose, nothing else."""


class Changes(NamedTuple):
    """State records of users that were touched."""

    users: Rows
    """(n,) ascending."""
    heads: list[tuple[bytes, bytes]]
    """Key and value of each one's head."""
    before: dict[int, list[tuple[bytes, bytes]]]
    """By user, the segments and chunks that must not be written later than the head."""

    def groups(self) -> list[list[tuple[bytes, bytes]]]:
        """The records of each user, segments and chunks first, the head last."""
        return [
            [*self.before.get(user, ()), head]
            for user, head in zip(self.users.tolist(), self.heads, strict=True)
        ]


class UserStates:
    """States of U users; `heads` (U,) is a structured array of core.state_records.head_dtype.

    Its GRU fields (`gru`, `model`, `rebuilt`) are the caller's to write, everything else changes through the methods.
    """

    def __init__(
        self,
        heads: NDArray[np.void],
        counts: RollingCounts,
        windows: BehaviourWindows,
        seen: SeenChunks | None,
        keys: Sequence[bytes],
        types: EventTypes,
        grace_ms: int,
        decay: Decay,
    ) -> None:
        """Use `load`."""
        self.heads, self.windows = heads, windows
        self._counts, self._seen, self._keys = counts, seen, keys
        self._grace_ms, self._decay = grace_ms, decay
        self._touched = np.zeros(len(heads), np.bool_)
        self._weight, self._consumes = np.zeros(32, np.float32), np.zeros(32, np.bool_)
        for each in types:
            self._weight[each.code], self._consumes[each.code] = each.weight, each.consumes
        self._remember_fallen()

    @classmethod
    def load(
        cls,
        keys: Sequence[bytes],
        read: Read | Sequence[Stored],
        hidden: int,
        window: int,
        types: EventTypes,
        *,
        grace_ms: int = HOUR_MS,
        decay: Decay | None = None,
        with_seen: bool = True,
    ) -> UserStates:
        """States of the users `keys` (distinct), by the look-up `read` or out of what is stored of each; who has no head starts
        afresh.

        `hidden`: size of the GRU state; heads of another size lose theirs (model 0). `window`: events to keep (W); a window
        stored under another length is fitted. Without `with_seen` seen chunks are neither read nor written.
        Raises UnknownSchema for a record of another version, StateError for a damaged or missing one.
        """
        stored: Sequence[Stored] = [LookedUp(read)] * len(keys) if callable(read) else read
        values = [each.get(head_key(key)) for each, key in zip(stored, keys, strict=True)]
        heads, tails = decode_heads(values, hidden, segment_slots(window))
        segments = read_segments(stored, keys, stored_segments(heads).tolist())
        seen: SeenChunks | None = None
        if with_seen:
            chunks = read_chunks(stored, keys, stored_chunks(heads["chunks"]).tolist())
            seen = SeenChunks(heads["chunks"], keys, chunks)
        return cls(
            heads,
            RollingCounts(tails, heads["watermark"]),
            BehaviourWindows(heads, keys, segments, window),
            seen,
            keys,
            types,
            grace_ms,
            decay or Decay(),
        )

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def keys(self) -> Sequence[bytes]:
        """User ids (U), UTF-8."""
        return self._keys

    def absorb(self, users: Rows, events: EventColumns) -> NDArray[np.uint8]:
        """Events (n,) of `users` (n,), each user's in source order, as if they came one by one. Outcome codes (n,)."""
        if not len(users):
            return np.zeros(0, np.uint8)
        runs, heads = Runs.of(users), self.heads
        cursors = np.empty(len(runs.users), CURSOR)
        for name in CURSOR.names or ():
            cursors[name] = heads[name][runs.users]
        judged, entries = np.empty(len(events), EVENT), np.empty(len(events), ENTRY)
        for name in EVENT.names or ():
            judged[name] = getattr(events, name)[runs.order]
        for name in ENTRY.names or ():
            entries[name] = getattr(events, name)[runs.order]
        ordered = self.windows.absorb(runs, cursors, judged, entries, self._grace_ms)
        for name in CURSOR.names or ():
            heads[name][runs.users] = cursors[name]
        self._remember_fallen()
        self._touched[users[runs.order[ordered != Outcome.REPLAYED]]] = True
        rows = runs.order[ordered == Outcome.APPLIED]
        if rows.size:
            self._counts.add(users[rows], events.time[rows], events.type[rows])
            self._add_interests(users[rows], events, rows)
        outcome = np.empty_like(ordered)
        outcome[runs.order] = ordered
        return outcome

    def absorb_all(self, events: EventColumns) -> NDArray[np.uint8]:
        """Any events (n,) in source order. Returns Outcome codes (n,)."""
        return self.absorb(events.user, events)

    def _add_interests(self, users: Rows, events: EventColumns, rows: Rows) -> None:
        """The events `rows` (n,), by user and in their order."""
        heads, labelled = self.heads, events.labels[rows].any(axis=1)
        if not labelled.any():
            return
        rows, runs = rows[labelled], Runs.of(users[labelled])
        users = runs.users
        heads["interests"][users], heads["interests_time"][users] = interests.add(
            heads["interests"][users],
            heads["interests_time"][users],
            runs,
            events.time[rows],
            events.labels[rows],
            self._weight[events.type[rows]],
            self._decay,
        )

    def _remember_fallen(self) -> None:
        """What was consumed in segments that left the window goes to the seen chunks."""
        if self._seen is not None:
            for user, entries, offset in self.windows.fallen:
                consumed = entries["item"][self._consumes[entries["type"]]].tolist()
                self._seen.add(user, filter(None, consumed), offset)
        self.windows.fallen.clear()

    def touch(self, users: Rows) -> None:
        """Have the heads of `users` (n,) written: their GRU fields were changed."""
        self._touched[users] = True

    def view(self, users: Rows, recent: int) -> StateView:
        """What a refresh of `users` (n,) reads, as it is now; `recent`: last events to remember the items of."""
        return StateView(
            self.heads[users],
            self.activity(users),
            self.seen(users),
            self.recent(users, recent)[0],
            self._decay,
        )

    def touched(self) -> Rows:
        """Users with something to write, ascending."""
        return np.flatnonzero(self._touched)

    def changes(self) -> Changes:
        """What to write of each of `touched()`; nobody is touched then."""
        users = self.touched()
        size, fixed = self.heads.dtype.itemsize, self.heads.tobytes()
        rows = users.tolist()
        keys = self._keys
        heads = [
            (head_key(keys[row]), fixed[row * size : row * size + size] + tail)
            for row, tail in zip(rows, self._counts.tails(users), strict=True)
        ]
        before = self.windows.take_changes(users)
        if self._seen is not None:
            for row, records in self._seen.take_changes().items():
                before.setdefault(row, []).extend(records)
        self._touched[users] = False
        return Changes(users, heads, before)

    def window_entries(self, users: Rows) -> tuple[NDArray[np.void], Rows]:
        """The windows of `users` (n,): ENTRY (n, W), oldest first, left-aligned, zeros after them; their lengths (n,)."""
        return self.windows.entries(users)

    def recent(self, users: Rows, last: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Item hashes and times (n, last) of the last applied events of `users` (n,), newest first; 0 = no item, or no event."""
        return self.windows.recent(users, last)

    def activity(self, users: Rows) -> NDArray[np.int64]:
        """Events (n, 3, 32) per window of rolling_counts.LEVELS and type code, up to each user's watermark."""
        return self._counts.activity(users)

    def interests(self, users: Rows) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
        """Category hashes (0 = free slot), short and long weights, each (n, 12), as of each user's watermark."""
        heads = self.heads
        return interests.decayed(
            heads["interests"][users], heads["interests_time"][users], heads["watermark"][users], self._decay
        )

    def seen(self, users: Rows) -> tuple[Rows, NDArray[np.uint64]]:
        """Items that `users` (n,) consumed, within the window and before: positions in `users` (m,), item hashes (m,).

        In no order, and an item consumed twice may come twice. Without seen chunks only the window's.
        """
        positions, hashes = self.windows.items(users, self._consumes)
        if self._seen is None:
            return positions, hashes
        old_positions, old_hashes = self._seen.items(users)
        return np.concatenate([positions, old_positions]), np.concatenate([hashes, old_hashes])
