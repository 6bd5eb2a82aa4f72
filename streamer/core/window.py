"""The behaviour windows of a batch of users: an open segment in the head, and a ring of sealed ones.

Axes: U users of the batch, n of them asked for, S segments in memory, W events of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core.state_records import (
    ENTRY,
    SCHEMA,
    SEGMENT,
    SEGMENT_EVENTS,
    SEGMENT_PREFIXES,
    decode_segments,
    segment_slots,
)
from streamer.errors import StateError

Rows = NDArray[np.int64]
Read = Callable[[bytes], bytes | None]


class BehaviourWindows:
    """Windows of U users; `heads` is shared with the owner and changed in place (window, open, sealed, slots).

    Sealed segments lie in a pool in the order in which they came; `index` (U, slots) says which of them is in which ring
    slot, 0 being an empty segment. So a user with little history costs little.
    """

    def __init__(
        self, heads: NDArray[np.void], keys: Sequence[bytes], reads: Sequence[Read], window: int
    ) -> None:
        self.window, self.slots = window, segment_slots(window)
        self._keys = keys
        self._open, self._open_n, self._sealed = heads["window"], heads["open"], heads["sealed"]
        self._open_event = self._open["event"]
        self.index = np.zeros((len(heads), self.slots), np.int64)
        self._dirty = np.zeros((len(heads), self.slots), np.bool_)
        self.fallen: list[tuple[int, NDArray[np.void], int]] = []
        """(user, ENTRY (16,), source offset by which it fell) of each segment that left the ring, oldest first; the owner
        empties it."""
        self._load(heads, reads)

    def _load(self, heads: NDArray[np.void], reads: Sequence[Read]) -> None:
        ring = heads["slots"].astype(np.int64)
        sealed = self._sealed.astype(np.int64)
        stored = np.minimum(sealed, ring)
        upto = [SEGMENT_PREFIXES[:n] for n in range(int(stored.max(initial=0)) + 1)]
        rows = np.flatnonzero(stored).tolist()
        values = [
            read(prefix + user)
            for read, user, n in ((reads[row], self._keys[row], int(stored[row])) for row in rows)
            for prefix in upto[n]
        ]
        self._used = 1 + len(values)
        self._pool = decode_segments(values, spare=len(heads) + 64)
        self._view_pool()
        owner = np.repeat(np.arange(len(heads)), stored)
        slot = np.arange(len(values)) - np.repeat(np.cumsum(stored) - stored, stored)
        newest = sealed[owner] - 1
        seq = newest - (newest - slot) % ring[owner]
        found = self._pool["seq"][1 : self._used]
        for wrong in np.flatnonzero(found != seq)[:1].tolist():
            raise StateError(
                f"Window segment {int(found[wrong])} lies where segment {int(seq[wrong])} was expected: the table is torn; "
                "wipe this worker's state directory and let it recover from the changelog"
            )
        same = ring[owner] == self.slots
        self.index[owner[same], slot[same]] = 1 + np.flatnonzero(same)
        for user in np.flatnonzero(ring != self.slots).tolist():
            mine = np.flatnonzero(owner == user)
            self._resize(heads, user, 1 + mine[np.argsort(seq[mine])])

    def _view_pool(self) -> None:
        self._entries = self._pool["entries"]
        self._item, self._type = self._entries["item"], self._entries["type"]
        # Contiguous: every round looks for its event ids in it.
        self._event = np.ascontiguousarray(self._entries["event"])

    def _resize(self, heads: NDArray[np.void], user: int, rows: Rows) -> None:
        """Moves the user's segments (pool rows, oldest first) into a ring of another size, numbered anew from 0."""
        kept = rows[-self.slots :]
        applied = int(heads["applied"][user])
        fallen = rows[: len(rows) - len(kept)].tolist()
        self.fallen += [(user, self._entries[row].copy(), applied) for row in fallen]
        heads["slots"][user], heads["sealed"][user] = self.slots, len(kept)
        self.index[user, : len(kept)] = kept
        self._pool["seq"][kept] = np.arange(len(kept))
        # Rewritten under other keys: no older than what those keys hold, or a recovery would prefer that.
        self._pool["applied"][kept] = heads["applied"][user]
        self._dirty[user, : len(kept)] = True

    def contains(self, users: Rows, events: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Is the event-id hash (n,) among the last `window` events of its user (n,)?"""
        opened = self._open_event[users] == events[:, None]
        if self.window < SEGMENT_EVENTS:
            opened &= self._open_n[users, None].astype(np.int64) - np.arange(SEGMENT_EVENTS) <= self.window
        hit: NDArray[np.bool_] = opened.any(axis=1)
        sealed = self._event[self.index[users]] == events[:, None, None]
        if sealed.any():
            who, slot, column = np.nonzero(sealed)
            newest = self._sealed[users[who]].astype(np.int64) - 1
            seq = newest - (newest - slot) % self.slots
            # The ring holds a little more than the window.
            age = (newest + 1 - seq) * SEGMENT_EVENTS - column + self._open_n[users[who]]
            hit[who[age <= self.window]] = True
        return hit

    def push(self, users: Rows, entries: NDArray[np.void], offsets: NDArray[np.int64]) -> None:
        """Append one event per user (ENTRY (n,), source offsets (n,)); full segments are sealed."""
        position = self._open_n[users]
        self._open[users, position] = entries
        position += 1
        self._open_n[users] = position
        full = position == SEGMENT_EVENTS
        if full.any():
            self._seal(users[full], offsets[full])

    def push_runs(
        self, users: Rows, lengths: Rows, entries: NDArray[np.void], offsets: NDArray[np.int64]
    ) -> None:
        """Append runs of events: those of users[0] (lengths[0] of them) first; ENTRY (n,), source offsets (n,).

        Goes on from one sealed segment to the next, for all users at a time.
        """
        starts, left = np.cumsum(lengths) - lengths, lengths
        while users.size:
            position = self._open_n[users].astype(np.int64)
            n = np.minimum(SEGMENT_EVENTS - position, left)
            within = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n)
            self._open[np.repeat(users, n), np.repeat(position, n) + within] = entries[
                np.repeat(starts, n) + within
            ]
            self._open_n[users] = position + n
            full = position + n == SEGMENT_EVENTS
            if full.any():
                self._seal(users[full], offsets[(starts + n - 1)[full]])
            more = left > n
            users, starts, left = users[more], (starts + n)[more], (left - n)[more]

    def _seal(self, users: Rows, offsets: NDArray[np.int64]) -> None:
        seq = self._sealed[users]
        slot = (seq % self.slots).astype(np.int64)
        old = self.index[users, slot]
        for position in np.flatnonzero(old).tolist():
            entries = self._entries[old[position]].copy()
            self.fallen.append((int(users[position]), entries, int(offsets[position])))
        rows = self._allocate(len(users))
        pool = self._pool
        pool["schema"][rows], pool["kind"][rows], pool["applied"][rows], pool["seq"][rows] = (
            SCHEMA,
            ord("s"),
            offsets,
            seq,
        )
        self._entries[rows] = self._open[users]
        self._event[rows] = self._open_event[users]
        self.index[users, slot] = rows
        self._dirty[users, slot] = True
        self._open[users] = np.zeros((), ENTRY)
        self._open_n[users] = 0
        self._sealed[users] = seq + np.uint32(1)

    def _allocate(self, n: int) -> Rows:
        if self._used + n > len(self._pool):
            grown = np.empty(2 * len(self._pool) + n, SEGMENT)
            grown[: self._used] = self._pool[: self._used]
            self._pool = grown
            self._view_pool()
        rows = np.arange(self._used, self._used + n)
        self._used += n
        return rows

    def entries(self, users: Rows) -> tuple[NDArray[np.void], Rows]:
        """All events of each user's window: ENTRY (n, W), oldest first, left-aligned, zeros after them; their numbers (n,)."""
        sealed = self._sealed[users].astype(np.int64) * SEGMENT_EVENTS
        total = sealed + self._open_n[users]
        lengths = np.minimum(total, self.window)
        number = (total - lengths)[:, None] + np.arange(self.window)
        out = self._entries[self._at(users, number), number % SEGMENT_EVENTS]
        who, where = np.nonzero(number >= sealed[:, None])
        out[who, where] = self._open[users[who], number[who, where] % SEGMENT_EVENTS]
        out[np.arange(self.window) >= lengths[:, None]] = np.zeros((), ENTRY)
        return out, lengths

    def recent_items(self, users: Rows, last: int) -> NDArray[np.uint64]:
        """Item hashes (n, last) of the user's last events, newest first; 0 for an event without an item and for none."""
        sealed = self._sealed[users].astype(np.int64)[:, None] * SEGMENT_EVENTS
        number = (
            sealed + self._open_n[users].astype(np.int64)[:, None] - 1 - np.arange(min(last, self.window))
        )
        column = number % SEGMENT_EVENTS
        opened = self._open["item"][users[:, None], column]
        # An event before the first one has a negative number, and the slot of its segment is still empty.
        found: NDArray[np.uint64] = np.where(
            number < sealed, self._item[self._at(users, number), column], opened
        )
        return found

    def recent_times(self, users: Rows, last: int) -> Rows:
        """Times (n, last) of the events of `recent_items`, ms; 0 for none."""
        sealed = self._sealed[users].astype(np.int64)[:, None] * SEGMENT_EVENTS
        number = (
            sealed + self._open_n[users].astype(np.int64)[:, None] - 1 - np.arange(min(last, self.window))
        )
        column = number % SEGMENT_EVENTS
        opened = self._open["time"][users[:, None], column]
        stored = self._entries["time"][self._at(users, number), column]
        found: Rows = np.where(number < sealed, stored, opened)
        return found

    def _at(self, users: Rows, number: Rows) -> Rows:
        """Pool rows of the segments of the events `number` (n, m) of `users` (n,)."""
        return self.index[users[:, None], number // SEGMENT_EVENTS % self.slots]

    def items(self, users: Rows, wanted: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.uint64]]:
        """Item hashes of all events in memory whose type is `wanted` (32,): positions in `users` (m,), hashes (m,)."""
        who, slot = np.nonzero(self.index[users])
        rows = self.index[users[who], slot]
        position, column = np.nonzero(wanted[self._type[rows]])
        sealed = self._item[rows[position], column]
        opened, open_column = np.nonzero(wanted[self._open["type"][users]])
        hashes = np.concatenate([sealed, self._open["item"][users[opened], open_column]])
        positions = np.concatenate([who[position], opened])
        has_item = hashes != 0
        return positions[has_item], hashes[has_item]

    def take_changes(self, users: Rows) -> dict[int, list[tuple[bytes, bytes]]]:
        """(key, value) of every segment of these users that was sealed or moved since the last call, by user."""
        changes: dict[int, list[tuple[bytes, bytes]]] = {}
        who, slots = np.nonzero(self._dirty[users])
        rows = users[who]
        for user, slot, row in zip(
            rows.tolist(), slots.tolist(), self.index[rows, slots].tolist(), strict=True
        ):
            record = SEGMENT_PREFIXES[slot] + self._keys[user], self._pool[row].tobytes()
            changes.setdefault(user, []).append(record)
        self._dirty[rows, slots] = False
        return changes
