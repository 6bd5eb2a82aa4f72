"""The behaviour windows of a batch of users: an open segment in the head, and a ring of sealed ones.

Axes: U users of the batch, n of them asked for, S segments in memory, W events of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core import window_kernels
from streamer.core.absorb_kernels import SEAL, absorb
from streamer.core.runs import Rows, Runs
from streamer.core.state_records import (
    ENTRY,
    SCHEMA,
    SEGMENT,
    SEGMENT_EVENTS,
    decode_segments,
    packed,
    place_of,
    segment_key,
    segment_slots,
)
from streamer.errors import StateError


def stored_segments(heads: NDArray[np.void]) -> NDArray[np.int64]:
    """How many segments are stored of each user of `heads` (U,)."""
    found: NDArray[np.int64] = np.minimum(heads["sealed"], heads["slots"]).astype(np.int64)
    return found


class BehaviourWindows:
    """Windows of U users; `heads` is shared with the owner and its `window` and `slots` are changed in place.

    Sealed segments lie in a pool in the order in which they came; `index` (U, slots) says which of them is in which ring
    slot, 0 being an empty segment. So a user with little history costs little.
    """

    def __init__(
        self, heads: NDArray[np.void], keys: Sequence[bytes], values: Sequence[bytes | None], window: int
    ) -> None:
        """values: the segments stored of each user, as many as `stored_segments` says, by slot."""
        self.window, self.slots = window, segment_slots(window)
        self._keys = keys
        self._open, self._open_n, self._sealed = heads["window"], heads["open"], heads["sealed"]
        self._head_bytes, self._open_at = packed(heads), place_of(heads.dtype, "window")
        # One item per user: rows of a field of arrays would be copied entry by entry.
        whole = np.dtype((np.void, SEGMENT_EVENTS * ENTRY.itemsize))
        self._open_records = heads.getfield(whole, self._open_at)
        self.index = np.zeros((len(heads), self.slots), np.int64)
        self._dirty = np.zeros((len(heads), self.slots), np.bool_)
        self.fallen: list[tuple[int, NDArray[np.void], int]] = []
        """(user, ENTRY (16,), source offset by which it fell) of each segment that left the ring, oldest first; the owner
        empties it."""
        self._load(heads, values)

    def _load(self, heads: NDArray[np.void], values: Sequence[bytes | None]) -> None:
        ring = heads["slots"].astype(np.int64)
        sealed = self._sealed.astype(np.int64)
        stored = stored_segments(heads)
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

    def absorb(
        self,
        runs: Runs,
        cursors: NDArray[np.void],
        events: NDArray[np.void],
        entries: NDArray[np.void],
        grace_ms: int,
    ) -> NDArray[np.uint8]:
        """Judge and append EVENT (n,), ENTRY (n,) in the order of `runs`, users' CURSOR (U,) moving on: outcomes (n,)."""
        segments = int(((cursors["open"] + runs.lengths) // SEGMENT_EVENTS).sum())
        self._reserve(segments)
        seals, outcome = np.empty(segments, SEAL), np.empty(len(events), np.uint8)
        sealed = absorb(
            runs.bounds,
            runs.users,
            cursors,
            events,
            packed(entries),
            grace_ms,
            self.window,
            self._head_bytes,
            self._open_at,
            self.index,
            packed(self._pool),
            self._used,
            outcome,
            seals,
        )
        if sealed:
            self._note(seals[:sealed])
        return outcome

    def _note(self, seals: NDArray[np.void]) -> None:
        """Headers of segments that were just sealed, and what fell out of the ring for them."""
        rows = slice(self._used, self._used + len(seals))
        self._used = rows.stop
        pool = self._pool
        pool["schema"][rows], pool["kind"][rows] = SCHEMA, ord("s")
        pool["applied"][rows], pool["seq"][rows] = seals["offset"], seals["seq"]
        self._dirty[seals["user"], seals["slot"]] = True
        fell = seals[seals["fallen"] != 0]
        self.fallen += zip(
            fell["user"].tolist(), self._entries[fell["fallen"]], fell["offset"].tolist(), strict=True
        )

    def _reserve(self, n: int) -> None:
        if self._used + n > len(self._pool):
            grown = np.empty(2 * len(self._pool) + n, SEGMENT)
            grown[: self._used] = self._pool[: self._used]
            self._pool = grown
            self._view_pool()

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

    def recent(self, users: Rows, last: int) -> tuple[NDArray[np.uint64], Rows]:
        """Item hashes and times, ms, each (n, last), of the users' last events, newest first; 0 for an event without an item
        and for none.
        """
        shape = len(users), min(last, self.window)
        item, time_ms = np.zeros(shape, np.uint64), np.zeros(shape, np.int64)
        opened, open_n = self._opened(users)
        sealed = self._sealed[users].astype(np.int64)
        window_kernels.recent(users, opened, open_n, sealed, self.index, self._pool, item, time_ms)
        return item, time_ms

    def _at(self, users: Rows, number: Rows) -> Rows:
        """Pool rows of the segments of the events `number` (n, m) of `users` (n,)."""
        return self.index[users[:, None], number // SEGMENT_EVENTS % self.slots]

    def items(self, users: Rows, wanted: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.uint64]]:
        """Item hashes of all events in memory whose type is `wanted` (32,): positions in `users` (m,), hashes (m,)."""
        opened, open_n = self._opened(users)
        room = int(open_n.sum()) + SEGMENT_EVENTS * int(np.minimum(self._sealed[users], self.slots).sum())
        positions, hashes = np.empty(room, np.int64), np.empty(room, np.uint64)
        n = window_kernels.items(users, opened, open_n, self.index, self._pool, wanted, positions, hashes)
        return positions[:n], hashes[:n]

    def _opened(self, users: Rows) -> tuple[NDArray[np.void], Rows]:
        """Open segments ENTRY (n, 16) of `users` (n,) and how full they are (n,)."""
        opened = self._open_records[users].view(ENTRY).reshape(len(users), SEGMENT_EVENTS)
        return opened, self._open_n[users].astype(np.int64)

    def take_changes(self, users: Rows) -> dict[int, list[tuple[bytes, bytes]]]:
        """(key, value) of every segment of these users that was sealed or moved since the last call, by user."""
        changes: dict[int, list[tuple[bytes, bytes]]] = {}
        who, slots = np.nonzero(self._dirty[users])
        rows = users[who]
        for user, slot, row in zip(
            rows.tolist(), slots.tolist(), self.index[rows, slots].tolist(), strict=True
        ):
            record = segment_key(self._keys[user], slot), self._pool[row].tobytes()
            changes.setdefault(user, []).append(record)
        self._dirty[rows, slots] = False
        return changes
